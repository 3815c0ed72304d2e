"""What must not change a map: the rest of the batch, the scale of a layer, the order of hidden units, how a padding is
written."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline.engine.lrp import Add, AlphaBeta, FirstLayer, Start
from pipeline.engine.network import Record, trace
from pipeline.engine.rules import Gbp, Grad, RectGrad
from pipeline.engine.walk import attribute, cascade, walk
from tests.models import NETS, conv, images, plain, seeded

LRP = AlphaBeta(
    alpha=1.0, first_layer=FirstLayer.plain, bottom=FirstLayer.split, start_at=Start.unit, add_by=Add.proportional
)
RULES = {
    "grad": Grad(times_input=True),
    "gbp": Gbp(),
    "rectgrad": RectGrad(0.9),
    "lrp": LRP,
    "lrp_plus": replace(LRP, first_layer=FirstLayer.plus, bottom=FirstLayer.plus, start_at=Start.logit),
    "dtd": replace(LRP, first_layer=FirstLayer.zbox, bottom=FirstLayer.zbox),
}
MAPS: dict[str, Callable[[Record, Tensor], Tensor]] = {
    **{name: lambda record, target, rule=rule: attribute(record, rule, target) for name, rule in RULES.items()},
    **{
        f"{name}, bottom": lambda record, target, rule=rule: attribute(record, rule, target, bottom=True)
        for name, rule in RULES.items()
    },
    "activation": lambda record, target: walk(record, record.activation(2), lambda layer: RULES["gbp"], top=2),
}
TARGET = torch.tensor([4, 0, 2])


def record_of(model: nn.Module, x: Tensor) -> Record:
    return trace(model, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).forward(x)


def direction(r: Tensor) -> Tensor:
    r = r.flatten(1)
    assert (r.norm(dim=1) > 0).all()
    return r / r.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("name", NETS)
def test_batch(name):
    x, model = images(3), seeded(NETS[name])
    together = record_of(model, x)
    for i in range(3):
        one = record_of(model, x[i : i + 1])
        for of in MAPS.values():
            torch.testing.assert_close(
                of(together, TARGET)[i : i + 1], of(one, TARGET[i : i + 1]), rtol=1e-9, atol=1e-12
            )


def test_batch_of_inputs_of_one_sign():
    """Whether the other images have negative pixels must not matter either."""
    x, model = images(3), seeded(plain)
    x[0] = x[0].abs()
    together, one = record_of(model, x), record_of(model, x[:1])
    for of in MAPS.values():
        torch.testing.assert_close(of(together, TARGET)[:1], of(one, TARGET[:1]), rtol=1e-9, atol=1e-12)


def test_batch_in_a_sweep():
    x, model = images(3), seeded(NETS["residual"])
    rules = list(RULES.values())
    together = {key: r for *key, r in cascade(record_of(model, x), rules, TARGET) for key in [tuple(key)]}
    for index, n, r in cascade(record_of(model, x[1:2]), rules, TARGET[1:2]):
        torch.testing.assert_close(together[index, n][1:2], r, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("factor", [0.01, 300.0])
@pytest.mark.parametrize("layer", [0, 3, 7, 10])
@pytest.mark.parametrize("name", MAPS)
def test_scale_of_a_layer(name, layer, factor):
    model, x = seeded(NETS["no_bias"]), images(3)
    expected = direction(MAPS[name](record_of(model, x), TARGET))
    with torch.no_grad():
        model[layer].weight.mul_(factor)
    torch.testing.assert_close(direction(MAPS[name](record_of(model, x), TARGET)), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MAPS)
def test_order_of_hidden_units(name):
    model, x = seeded(plain), images(3)
    expected = MAPS[name](record_of(model, x), TARGET)
    for above, below in ((0, 3), (7, 10)):
        order = torch.randperm(model[above].weight.shape[0], generator=torch.Generator().manual_seed(above))
        with torch.no_grad():
            model[above].weight.copy_(model[above].weight[order])
            model[above].bias.copy_(model[above].bias[order])
            model[below].weight.copy_(model[below].weight[:, order])
    torch.testing.assert_close(MAPS[name](record_of(model, x), TARGET), expected, rtol=1e-9, atol=1e-12)


def padded_by(pad: nn.Module, padding: int) -> nn.Module:
    return nn.Sequential(
        pad, conv(3, 4, padding=padding), nn.ReLU(), conv(4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 13 * 11, 5)
    )


@pytest.mark.parametrize("name", MAPS)
def test_how_padding_is_written(name):
    inside = seeded(lambda: padded_by(nn.Identity(), 1))
    outside = seeded(lambda: padded_by(nn.ZeroPad2d(1), 0))
    maps = [MAPS[name](record_of(model, images(3)), TARGET) for model in (inside, outside)]
    torch.testing.assert_close(*maps, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bottom", [FirstLayer.split, FirstLayer.zbox])
@pytest.mark.parametrize("name", ["plain", "functional", "reused", "concat", "pools", "average_pools", "normalised"])
def test_relevance_is_conserved(name, bottom):
    """The start is relevance 1, and nothing is lost: in these nets no unit that matters has z+ = 0."""
    record = record_of(seeded(NETS[name]), images(3))
    total = attribute(record, replace(LRP, bottom=bottom), bottom=True).flatten(1).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-9, atol=1e-9)


def test_start_at_the_logit_is_a_factor():
    record = record_of(seeded(plain), images(3))
    unit, logit = (
        attribute(record, replace(LRP, start_at=start), TARGET, bottom=True) for start in (Start.unit, Start.logit)
    )
    factor = record.logits.gather(1, TARGET[:, None])[..., None, None]
    assert (factor < 0).any()
    torch.testing.assert_close(logit, factor * unit, rtol=1e-9, atol=1e-12)
