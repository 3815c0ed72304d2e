"""The rules beyond the paper's four, and the z+ setting at residual sums, in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pipeline.api import rule
from pipeline.engine.network import Record, trace
from pipeline.engine.walk import attribute, one_hot, walk
from pipeline.oracles import local, peers
from tests.models import NETS, Net, conv, images, seeded

MEAN, STD = (0.5, 0.4, 0.6), (0.2, 0.3, 0.25)
LIBRARY = ["plain", "no_bias", "grouped", "pools", "average_pools", "normalised"]


@pytest.fixture(scope="module", params=LIBRARY)
def case(request) -> tuple[Record, nn.Module, Tensor]:
    network = trace(seeded(NETS[request.param]), mean=MEAN, std=STD)
    record = network.forward(images())
    return record, network.module, record.logits.argmin(1)


def same(a: Tensor, b: Tensor, tolerance: float = 1e-9):
    assert b.norm() > 0 and float((a - b).norm() / b.norm()) < tolerance


def test_deconvnet_is_captums_and_zennits(case):
    record, module, target = case
    r = attribute(record, rule("deconvnet"), target)
    same(r, peers.captum_deconvnet(module, record.x, target))
    same(r, peers.zennit_deconvnet(module, record.x, target))
    assert not torch.allclose(r, attribute(record, rule("gbp"), target))


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_alpha_beta_is_zennits(case, alpha):
    record, module, target = case
    r = attribute(record, rule("lrp_alphabeta", alpha=alpha), target, bottom=True)
    same(r, peers.zennit_lrp(module, record.x, target, "unit", layer=lambda: peers.zennit_alpha_beta(alpha)))


@pytest.mark.parametrize("bias", [True, False])
def test_epsilon_is_zennits(case, bias):
    record, module, target = case
    r = attribute(record, rule("lrp_epsilon", epsilon=0.25, bias=bias), target, bottom=True)
    same(r, peers.zennit_lrp(module, record.x, target, "unit", layer=lambda: peers.zennit_epsilon(0.25, bias)))


def test_epsilon_zero_is_gradient_times_input(case):
    record, module, target = case
    r = attribute(record, rule("lrp_epsilon", epsilon=0.0, start_at="logit"), target, bottom=True)
    same(r, record.x * peers.autograd(module, record.x, target))


@pytest.mark.parametrize("gamma", [0.0, 0.25, 3.0])
def test_gamma_is_zennits_where_the_logit_is_positive(case, gamma):
    record, module, _ = case
    target = record.logits.argmax(1)
    assert (record.logits.amax(1) > 0).all()
    for bias in (True, False):
        r = attribute(record, rule("lrp_gamma", gamma=gamma, bias=bias), target, bottom=True)
        same(r, peers.zennit_lrp(module, record.x, target, "unit", layer=lambda b=bias: peers.zennit_gamma(gamma, b)))


def test_gamma_goes_from_epsilon_to_z_plus(case):
    record, _, target = case
    for bottom in (False, True):
        gamma = {g: attribute(record, rule("lrp_gamma", gamma=g), target, bottom) for g in (0.0, float("inf"))}
        same(gamma[0.0], attribute(record, rule("lrp_epsilon", epsilon=0.0, bias=False), target, bottom))
        same(gamma[float("inf")], attribute(record, rule("lrp"), target, bottom))


@pytest.mark.parametrize("bias", [True, False])
def test_infinity_is_the_limit(bias):
    """Where a ReLU follows each layer; else a unit with z < 0 may have nothing positive to share by."""
    record = trace(seeded(NETS["plain"])).forward(images())
    near, at = (rule("lrp_gamma", gamma=gamma, bias=bias) for gamma in (1e12, float("inf")))
    same(*(attribute(record, by, record.logits.argmax(1)) for by in (near, at)), 1e-6)


@pytest.mark.parametrize("first_layer", ["plain", "split"])
def test_without_biases_the_numerator_is_the_same_for_every_gamma(first_layer):
    """Relevance is conserved from the output to the input: <R, x> is the explained logit's relevance, 1."""
    record = trace(seeded(NETS["no_bias"])).forward(images())
    norms = []
    for gamma in (0.0, 0.1, 1.0, 10.0, float("inf")):
        r = attribute(record, rule("lrp_gamma", gamma=gamma, first_layer=first_layer), record.logits.argmin(1))
        torch.testing.assert_close((r * record.x).flatten(1).sum(1), torch.ones(len(r), dtype=torch.float64))
        norms.append(float(r.norm()))
    assert max(norms) > 1.5 * min(norms), "and the maps are not the same"


def test_wplus_is_the_dense_chain():
    """r_0 = W_1 M_1 (W_2)+ e_k, layer 1 plain, by its positive weights, or by the products that are positive."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    record, k = trace(model).forward(x), torch.tensor([2, 0])
    w1, w2 = model[1].weight.detach(), model[3].weight.detach()
    r1 = w2.clamp(min=0)[k] * (model[1](x.flatten(1)) > 0)
    products = torch.where(w1[None] * x.flatten(1)[:, None] > 0, w1, 0)  # (B, 7, 12)
    expected = {
        "plain": r1 @ w1, "plus": r1 @ w1.clamp(min=0), "split": torch.einsum("bj,bji->bi", r1, products)
    }  # fmt: skip
    for first_layer, r0 in expected.items():
        same(attribute(record, rule("wplus", first_layer=first_layer), k).flatten(1), r0)


def test_excitation_bp_is_z_plus_and_contrasts_with_the_dual_network(case):
    record, module, target = case
    plain = attribute(record, rule("excitation_bp"), target, bottom=True)
    same(plain, attribute(record, rule("lrp"), target, bottom=True))
    dual = copy.deepcopy(module)
    last = [m for m in dual.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        for p in last.parameters():
            p.neg_()
    negated = attribute(trace(dual, mean=MEAN, std=STD).forward(record.x), rule("lrp"), target, bottom=True)
    same(attribute(record, rule("excitation_bp", contrastive=True), target, bottom=True), plain - negated)


def test_z_plus_at_a_residual_sum_is_its_transcription():
    """The sum as a linear layer over both branches, by loops: R_i = sum_j z_ij+ / sum_k z_kj+ R_j."""
    model = seeded(
        lambda: Net(
            lambda m, x: m.fc((m.a(x) + m.b(x)).flatten(1)), a=conv(3, 2), b=conv(3, 2), fc=nn.Linear(2 * 13 * 11, 5)
        )
    )
    record = trace(model, mean=MEAN, std=STD).forward(images(1))
    x, target = record.x, record.logits.argmax(1)
    u, v = model.a(x).flatten().tolist(), model.b(x).flatten().tolist()
    w = model.fc.weight[int(target)].tolist()
    y = [p + q for p, q in zip(u, v, strict=True)]
    z = [max(wi * yi, 0.0) for wi, yi in zip(w, y, strict=True)]
    relevance = [zi / sum(z) for zi in z]  # of the sums, by z+ in fc from relevance 1
    parts: dict[str, list[float]] = {"a": [], "b": []}
    for p, q, r in zip(u, v, relevance, strict=True):
        total = max(p, 0.0) + max(q, 0.0)
        for name, value in (("a", p), ("b", q)):
            share = max(value, 0.0) / total * r if total else 0.0
            parts[name].append(share / value if value else 0.0)  # in gradient form
    expected = sum(
        torch.nn.grad.conv2d_input(
            x.shape,
            getattr(model, name).weight.detach(),
            torch.tensor(r, dtype=torch.float64).view(1, 2, 13, 11),
            padding=1,
        )
        for name, r in parts.items()
    )
    same(attribute(record, rule("lrp", add_by="zplus"), target), expected)  # first_layer: plain, for both branches
    assert not torch.allclose(attribute(record, rule("lrp"), target), expected)


@pytest.mark.parametrize("name, settings", [("lrp", {}), ("lrp_epsilon", {"epsilon": 0.0})])
def test_z_plus_at_residual_sums_conserves_relevance_where_the_sum_is_positive(name, settings):
    model = seeded(NETS["residual"])
    for m in model.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            m.weight.data.abs_()
            m.bias.data.zero_()  # type: ignore[union-attr]
    record = trace(model, mean=MEAN, std=STD).forward(images().abs())
    maps = [
        attribute(record, rule(name, add_by=how, **settings), bottom=True).flatten(1).sum(1)
        for how in ("proportional", "zplus")
    ]
    for total in maps:
        torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("name", ["lrp", "lrp_alphabeta", "lrp_epsilon", "lrp_gamma", "excitation_bp"])
def test_every_rule_of_lrp_shares_at_sums_as_it_is_told(name):
    record, seen = trace(seeded(NETS["residual"])).forward(images(1)), []
    by = rule(name, add_by="zplus")
    start = by.start(one_hot(record), record.logits)
    walk(record, start, lambda _: by, record.network.depth, visit=lambda *of: seen.append(of))
    sums = [(at, r, sent) for at, r, sent in seen if at.op.kind == "add"]
    for at, r, sent in sums:
        expected = local.positive_sum_step([a[0] for a in at.inputs], (r * at.output)[0])
        for a, s, relevance in zip(at.inputs, sent, expected, strict=True):
            torch.testing.assert_close((s * a)[0], relevance)
    assert len(sums) == 2


@pytest.mark.parametrize("name, setting", [("lrp_alphabeta", {"alpha": 0.5}), ("lrp_epsilon", {"epsilon": -1.0})])
def test_settings_out_of_range_are_refused(name, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        rule(name, **setting)
