from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pipeline import api
from pipeline.api import rule
from pipeline.engine import lrp
from pipeline.engine.lrp import Add, AlphaBeta, FirstLayer, Start
from pipeline.engine.network import Record, trace
from pipeline.engine.place import Place
from pipeline.engine.rules import GRAD, Activation, Gbp, Method, RectGrad, order_statistic
from pipeline.engine.walk import attribute, cascade, walk
from pipeline.errors import UserError
from pipeline.measures.maps import alignment
from tests import dense
from tests.models import conv, images, seeded

LRP = AlphaBeta(
    alpha=1.0, first_layer=FirstLayer.plain, bottom=FirstLayer.split, start_at=Start.unit, add_by=Add.proportional
)
MEAN, STD = (0.5, 0.4), (0.2, 0.3)
SMALL = (2, 4, 4)


def small(bias: bool) -> nn.Sequential:
    return nn.Sequential(
        conv(2, 3, bias=bias), nn.ReLU(), conv(3, 4, stride=2, bias=bias), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 6, bias=bias), nn.ReLU(), nn.Linear(6, 3, bias=bias),
    )  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["bias", "no bias"])
def literal(request) -> tuple[Record, dense.Layers, dense.Vector]:
    """One sample through the engine's network and through the same network as matrices."""
    m = seeded(lambda: small(request.param), seed=2)
    net = dense.layers([m[0], m[2], m[4:6], m[7]], SMALL)
    x = images(1, SMALL)
    return trace(m, mean=MEAN, std=STD).forward(x), net, x.flatten().tolist()


def assert_map(r: Tensor, expected: dense.Vector):
    assert max(map(abs, expected)) > 0
    torch.testing.assert_close(r.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-13)


def test_matrices_are_the_network(literal):
    record, net, x = literal
    a, _ = dense.forward(net, x)
    for layer in range(5):
        assert_map(record.activation(layer), a[layer])


@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize("rule", ["grad", "gbp", "rectgrad", "rectgrad 0.29", "activation"])
def test_cascade_is_the_definition(literal, rule, target):
    record, net, x = literal
    name, _, quantile = rule.partition(" ")
    quantile = quantile or "0.9"
    engine: dict[str, Method] = {
        "grad": GRAD,
        "gbp": Gbp(),
        "rectgrad": RectGrad(float(quantile)),
        "activation": Activation(),
    }
    for _, n, r in cascade(record, [engine[name]], torch.tensor([target])):
        assert_map(r, dense.cascade(net, x, target, name, n, quantile))


@pytest.mark.parametrize("start", ["unit", "logit"])
def test_z_plus_cascade_is_the_definition(literal, start):
    record, net, x = literal
    for _, n, r in cascade(record, [replace(LRP, start_at=Start(start))], torch.tensor([1])):
        if n == 0:
            assert_map(r, dense.cascade(net, x, 1, "grad", 0))
        else:
            assert_map(r, dense.cascade_z_plus(net, x, 1, start, min(n, 3)))


@pytest.mark.parametrize("start", ["unit", "logit"])
@pytest.mark.parametrize("bottom", ["plain", "split", "plus", "zbox"])
def test_bottoms_are_the_definition(literal, bottom, start):
    record, net, x = literal
    low = [-m / s for m, s in zip(MEAN, STD, strict=True) for _ in range(16)]
    high = [(1 - m) / s for m, s in zip(MEAN, STD, strict=True) for _ in range(16)]
    expected = dense.lrp(net, x, 2, start, bottom, (low, high))
    layer_1, target = FirstLayer(bottom), torch.tensor([2])
    rule = replace(LRP, first_layer=layer_1, bottom=layer_1, start_at=Start(start))
    if bottom == "split":  # the oracle gives x * r_0
        assert_map(attribute(record, rule, target, bottom=True), expected)
        assert_map(attribute(record, rule, target) * record.x, expected)
    elif bottom == "zbox":
        assert_map(attribute(record, rule, target, bottom=True), expected)
        assert_map(attribute(record, rule, target), expected)
    else:
        assert_map(attribute(record, rule, target), expected)
        assert_map(attribute(record, rule, target, bottom=True), [r * v for r, v in zip(expected, x, strict=True)])


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_activation_above_gbp_below(literal, layer):
    record, net, x = literal
    a, _ = dense.forward(net, x)
    expected = dense.descend(net, a, a[layer], layer, lambda _: "gbp")
    assert_map(walk(record, record.activation(layer), lambda _: Gbp(), top=layer), expected)


def test_bottom_of_rectgrad_rectifies(literal):
    record, net, x = literal
    r = dense.cascade(net, x, 0, "rectgrad", 4)
    assert_map(
        attribute(record, RectGrad(0.9), torch.tensor([0]), bottom=True),
        [max(v * w, 0) for v, w in zip(r, x, strict=True)],
    )


# ---- RectGrad's threshold --------------------------------------------------------------------------------------------


def passed(a: list[float], r: list[float], quantile: float) -> list[float]:
    at = SimpleNamespace(output=torch.tensor([a], dtype=torch.float64))
    return RectGrad(quantile).relu(torch.tensor([r], dtype=torch.float64), at)[0].tolist()


def test_tau_is_an_order_statistic_and_strict():
    a, r = [1.0] * 11, [float(v) for v in (3, 1, 4, 11, 5, 9, 2, 6, 10, 8, 7)]
    assert passed(a, r, 0.9) == [v if v > 10 else 0 for v in r]  # rank 9 of 0..10
    assert passed(a, r, 0.89) == [v if v > 9 else 0 for v in r]  # rank 8.9 -> 8
    assert passed(a, r, 0) == [v if v > 1 else 0 for v in r]


@pytest.mark.parametrize(("quantile", "n"), [(0.29, 101), (0.57, 101), (0.58, 101), (0.7, 11), (0.9, 50177)])
def test_rank_is_rational(quantile, n):
    rank = round(quantile * 100) * (n - 1) // 100
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).double().tolist()
    assert sorted(passed([1.0] * n, order, quantile))[: rank + 2] == [0.0] * (rank + 1) + [rank + 1.0]


def test_ties_with_tau_are_cut():
    assert passed([0, 0, 0, 1.0], [5, -2, 3, 2], 0.5) == [0, 0, 0, 2]
    assert passed([1, 1, 1, 1.0], [2, 2, 2, 2], 0.5) == [0, 0, 0, 0]


def test_rectgrad_takes_the_inequality_literally():
    """No mask: where tau is negative, units with A = 0 pass; and products count, not r alone."""
    assert passed([0, 1, 1.0], [7, -1, -2], 0) == [7, -1, 0]
    assert passed([10, 1, 0.1], [1, 2, 50], 0.5) == [1, 0, 0]


def test_other_readings_of_rectgrad():
    """By hand: at least tau, where tau is one of the products; and with M, where units without activation reach it."""
    a, r = torch.tensor([[0, 0, 2, 1.0]]), torch.tensor([[7, -3, 1, -5.0]])  # A r = 0, 0, 2, -5
    at = SimpleNamespace(output=a, mask=a > 0)
    for quantile, least, masked in ((0, [7, -3, 1, -5], [0, 0, 1, -5]), (0.5, [7, -3, 1, 0], [0, 0, 1, 0])):
        assert RectGrad(quantile, at_least=True).relu(r, at)[0].tolist() == least
        assert RectGrad(quantile, at_least=True, masked=True).relu(r, at)[0].tolist() == masked
    assert RectGrad(0).relu(r, at)[0].tolist() == [7, -3, 1, 0]
    assert RectGrad(0, masked=True).relu(r, at)[0].tolist() == [0, 0, 1, 0]


def test_tau_is_per_sample():
    at = SimpleNamespace(output=torch.ones(2, 2, 1, 2, dtype=torch.float64))
    r = torch.tensor([[1.0, 2, 3, 4], [100, 200, 300, 400]], dtype=torch.float64).view(2, 2, 1, 2)
    assert RectGrad(0.5).relu(r, at).flatten(1).tolist() == [[0, 0, 3, 4], [0, 0, 300, 400]]


@pytest.mark.parametrize("quantile", [-0.1, 1, 1.5])
def test_quantile_is_checked(quantile):
    with pytest.raises(ValueError, match="quantile"):
        RectGrad(quantile)


# ---- ReLU6 -----------------------------------------------------------------------------------------------------------


def identity(activation: nn.Module) -> nn.Module:
    """z = x, then the activation, then the sum."""
    m = nn.Sequential(nn.Linear(6, 6, bias=False), activation, nn.Linear(6, 2, bias=False)).double()
    with torch.no_grad():
        m[0].weight.copy_(torch.eye(6))
        m[2].weight.fill_(1)
    return m


Z = [-1.0, 0.0, 3.0, 6.0, 6.5, 12.0]


@pytest.fixture
def relu6() -> Place:
    record = trace(identity(nn.ReLU6())).forward(torch.tensor([Z], dtype=torch.float64))
    return Place(record, next(op for op in record.network.ops if op.kind == "relu6"))


def test_relu6_mask_is_open_at_both_ends(relu6):
    assert relu6.mask.tolist() == [[False, False, True, False, False, False]]


@pytest.mark.parametrize(("rule", "expected"), [
    (GRAD, [0, 0, 1, 0, 0, 0]), (Gbp(), [0, 0, 1, 0, 0, 0]), (RectGrad(0), [0, 0, 1, 1, 1, 1]),
    (LRP, [0, 0, 1, 1, 6 / 6.5, 0.5]),
])  # fmt: skip
def test_relu6(relu6, rule, expected):
    assert rule.relu(torch.ones(1, 6, dtype=torch.float64), relu6).tolist() == [expected]


def test_lrp_conserves_saturated_relevance(relu6):
    r = torch.tensor([[1.0, 2, 3, 4, 5, 6]], dtype=torch.float64)
    torch.testing.assert_close(LRP.relu(r, relu6) * relu6.input, r * relu6.output)


# ---- start and refusals ----------------------------------------------------------------------------------------------


def test_start():
    onehot, logits = torch.tensor([[0.0, 1, 0], [1, 0, 0]]), torch.tensor([[3.0, -4, 5], [8, 1, 2]])
    assert LRP.start(onehot, logits).tolist() == [[0, -0.25, 0], [0.125, 0, 0]]
    assert replace(LRP, start_at=Start.logit).start(onehot, logits).tolist() == onehot.tolist()
    assert Gbp().start(onehot, logits).tolist() == onehot.tolist()


def test_a_map_from_logit_zero_is_missing_and_refused_by_the_api():
    onehot, logits = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[1.0, 2], [0, 1]])
    start = LRP.start(onehot, logits)
    assert start[0].tolist() == [1, 0] and start[1].isnan().all()
    assert replace(LRP, start_at=Start.logit).start(onehot, logits).tolist() == onehot.tolist()
    model = seeded(lambda: small(True))
    with torch.no_grad():
        model[-1].weight[1], model[-1].bias[1] = 0, 0
    network, x, target = trace(model), images(2, SMALL), torch.tensor([0, 1])
    for name in ("lrp", "lrp_epsilon", "excitation_bp"):
        maps = attribute(network.forward(x), rule(name), target)
        assert maps[0].isfinite().all() and alignment(maps, x).isnan().tolist() == [False, True]
        with pytest.raises(UserError, match="logit 0"):
            api.attribute(network, x, name, target=target)
        assert api.attribute(network, x, rule(name, start_at="logit"), target=target).isfinite().all()


def test_activation_has_no_map_of_its_own(literal):
    with pytest.raises(UserError, match="layer"):
        attribute(literal[0], Activation())


def test_z_box_needs_bounds():
    record = trace(seeded(lambda: small(True))).forward(images(1, SMALL))
    with pytest.raises(UserError, match="mean and std"):
        attribute(record, replace(LRP, bottom=FirstLayer.zbox), bottom=True)


@pytest.mark.parametrize("rank", [0, 1, 500, 998, 999])
def test_the_order_statistic_is_that_of_a_sort(rank):
    values = torch.randn(3, 1000).round(decimals=1)  # with ties
    values[2] = 0
    assert torch.equal(order_statistic(values, rank), values.sort(1).values[:, rank])


@pytest.mark.parametrize("name", ["lrp", "lrp_alphabeta", "dtd"])
def test_large_linear_layers_go_in_blocks(name, monkeypatch):
    record = trace(seeded(lambda: small(True)), mean=MEAN, std=STD).forward(images(4, SMALL))
    whole = attribute(record, rule(name), bottom=True)
    monkeypatch.setattr(lrp, "BLOCK", 20)  # of 6 x 16 and 3 x 6 weights
    torch.testing.assert_close(attribute(record, rule(name), bottom=True), whole, rtol=1e-12, atol=1e-14)
