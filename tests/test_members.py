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


@pytest.mark.parametrize("name", ["lrp", "lrp_alphabeta", "lrp_epsilon", "excitation_bp"])
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
