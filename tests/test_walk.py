from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from pipeline.engine import place
from pipeline.engine import walk as walking
from pipeline.engine.gradients import GRADIENTS
from pipeline.engine.lrp import Add, AlphaBeta, FirstLayer, Start
from pipeline.engine.network import Record, trace
from pipeline.engine.place import Place
from pipeline.engine.rules import GRAD, Activation, External, Gbp, Grad, Method, RectGrad
from pipeline.engine.walk import CHUNK_BYTES, attribute, cascade, one_hot, step, walk
from pipeline.errors import UserError
from pipeline.oracles import peers
from tests.drawn import drawn_nets
from tests.models import NETS, SHAPE, images, seeded

LRP = AlphaBeta(
    alpha=1.0, first_layer=FirstLayer.plain, bottom=FirstLayer.split, start_at=Start.unit, add_by=Add.proportional
)
RULES: dict[str, Method] = {
    "grad": Grad(times_input=False),
    "gbp": Gbp(),
    "rectgrad": RectGrad(0.9),
    "rectgrad_0": RectGrad(0),
    "lrp": LRP,
    "lrp_logit": replace(LRP, start_at=Start.logit),
    "lrp_split": replace(LRP, first_layer=FirstLayer.split),
    "lrp_plus": replace(LRP, first_layer=FirstLayer.plus),
    "dtd": replace(LRP, first_layer=FirstLayer.zbox),
    "activation": Activation(),
}


def traced(name: str) -> Record:
    return trace(seeded(NETS[name]), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).forward(images())


def distance(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape and b.isfinite().all() and b.norm() > 0
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("target", [None, torch.tensor([3, 0])], ids=["decision", "given"])
@pytest.mark.parametrize("name", NETS)
def test_grad_is_autograd(name, target):
    record = traced(name)
    expected = peers.autograd(seeded(NETS[name]), images(), record.logits.argmax(1) if target is None else target)
    assert distance(attribute(record, GRAD, target), expected) < 1e-10
    assert distance(attribute(record, Grad(times_input=False), target), expected) < 1e-10
    assert distance(attribute(record, Grad(times_input=True), target, bottom=True), images() * expected) < 1e-10


@settings(max_examples=40, deadline=None, derandomize=True)
@given(drawn_nets())
def test_grad_is_autograd_on_any_net(net):
    model, x = net
    expected = model(x.clone())
    network = trace(model)
    record = network.forward(x)
    torch.testing.assert_close(record.logits, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network.module(x.clone()), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        attribute(record, GRAD), peers.autograd(model, x, expected.argmax(1)), rtol=1e-10, atol=1e-13
    )


def alone(record: Record, rule: Method, n: int, target: Tensor | None = None) -> Tensor:
    """(19) for one N, one step at a time."""
    depth, r = record.network.depth, one_hot(record, target)
    if n > 0 and isinstance(rule, Activation):
        r, depth, n = record.activation(depth - n), depth - n, 0
    elif n > 0:
        r = rule.start(r, record.logits)
    for layer in range(depth, 0, -1):
        r = step(record, layer, r, rule if layer > depth - n else GRAD)
    return r


def levels(record: Record, rule: Method) -> int:
    return record.network.depth + (not isinstance(rule, Activation))


def collect(maps: Iterator[tuple[int, int, Tensor]]) -> dict[tuple[int, int], Tensor]:
    out = {}
    for index, n, r in maps:
        assert (index, n) not in out
        out[index, n] = r.clone()
    return out


@pytest.mark.parametrize("name", NETS)
def test_sweep_is_each_level_alone(name):
    record, rules = traced(name), [*RULES.values(), RULES["gbp"]]
    expected = {(i, n): alone(record, rule, n) for i, rule in enumerate(rules) for n in range(levels(record, rule))}
    for chunk_bytes in (1, 20_000, CHUNK_BYTES, 2**60):
        maps = collect(cascade(record, rules, chunk_bytes=chunk_bytes))
        assert maps.keys() == expected.keys()
        for key, r in maps.items():
            torch.testing.assert_close(r, expected[key], rtol=1e-10, atol=1e-13)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(drawn_nets())
def test_sweep_is_each_level_alone_on_any_net(net):
    model, x = net
    record, rules = trace(model).forward(x), [Gbp(), RectGrad(0.5), replace(LRP, start_at=Start.logit), Activation()]
    for (index, n), r in collect(cascade(record, rules, chunk_bytes=5_000)).items():
        torch.testing.assert_close(r, alone(record, rules[index], n), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_sweep_of_one_rule(rule):
    record, target = traced("residual"), torch.tensor([1, 4])
    for (_, n), r in collect(cascade(record, [RULES[rule]], target)).items():
        torch.testing.assert_close(r, alone(record, RULES[rule], n, target), rtol=1e-10, atol=1e-13)


def kinds(record: Record, layer: int) -> list[str]:
    return [op.kind for op in record.network.unit(layer) if op.kind in ("conv", "linear", "relu", "relu6")]


@pytest.mark.parametrize("name", NETS)
def test_ends_of_the_sweep(name):
    record, rules = traced(name), list(RULES)
    maps = {(rules[index], n): r for (index, n), r in collect(cascade(record, list(RULES.values()))).items()}
    depth = record.network.depth
    for rule in rules:
        assert torch.equal(maps[rule, 0], maps["grad", 0])
        if rule != "activation":
            torch.testing.assert_close(maps[rule, depth], attribute(record, RULES[rule]), rtol=1e-10, atol=1e-13)
    if "relu" not in kinds(record, depth):
        for rule in ("gbp", "rectgrad", "rectgrad_0"):
            torch.testing.assert_close(maps[rule, 0], maps[rule, 1], rtol=1e-10, atol=1e-13)
    if kinds(record, 1) in (["conv", "relu"], ["conv"]):  # a ReLU6 or a second convolution there is under the rule
        torch.testing.assert_close(maps["lrp", depth], maps["lrp", depth - 1], rtol=1e-10, atol=1e-13)


# where A_0 .. A_L stand in an nn.Sequential
ENDS = {
    "no_bias": (0, 2, 5, 9, 11),
    "plain": (0, 2, 5, 9, 11),
    "grouped": (0, 2, 4, 6, 8, 10),
    "pools": (0, 2, 5, 9, 14),
    "normalised": (0, 3, 6, 11, 12),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # by torch.func.jvp itself; the category is the version's
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ENDS)
def test_alignment_can_be_read_off_the_rule_chain(name, rule):
    """<R_N, x> = <r_{L-N}, J_{L-N} x>, and without biases J_l x = A_l."""
    record, model, x = traced(name), seeded(NETS[name]), images()
    depth, acting = record.network.depth, RULES[rule]
    maps = collect(cascade(record, [acting]))
    for n in range(levels(record, acting) - (rule not in ("grad", "activation"))):  # at N = L there's nothing below
        layer = depth - n
        if n == 0:
            r = one_hot(record)
        elif rule == "activation":
            r = record.activation(layer)
        else:
            r = walk(record, acting.start(one_hot(record), record.logits), lambda _: acting, depth, layer)
        below: nn.Module = model[: ENDS[name][layer]]
        jx = torch.func.jvp(below, (x,), (x,))[1] if layer else x
        torch.testing.assert_close(
            (maps[0, n] * x).flatten(1).sum(1), (r * jx).flatten(1).sum(1), rtol=1e-9, atol=1e-12
        )
        if name == "no_bias":
            torch.testing.assert_close(jx, record.activation(layer), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_nothing_to_explain_is_no_work(name, monkeypatch):
    record = traced(name)
    monkeypatch.setattr(walking, "step", lambda *args: pytest.fail("a step"))
    for chunk_bytes in (1, 2**60):
        assert list(cascade(record, [], chunk_bytes=chunk_bytes)) == []


def test_an_external_attribution_is_refused_inside():
    record, external = traced("plain"), External("tests.tiny:mean_gradient")
    for refused in (lambda: attribute(record, external), lambda: list(cascade(record, [Gbp(), external]))):
        with pytest.raises(UserError, match="map at the input"):
            refused()


@pytest.mark.parametrize("rule", [GRAD, Grad(times_input=False), Gbp(), LRP, replace(LRP, add_by=Add.zplus)])
@pytest.mark.parametrize("name", ["residual", "bottleneck", "added_in_place"])
def test_a_visitor_sees_each_operation_at_which_a_rule_has_a_say(name, rule):
    """Once, from the top down; what is sent on from all that read a value is the r that is seen at it."""
    record, seen = traced(name), []
    depth, start = record.network.depth, one_hot(record)
    r = walk(record, start, lambda _: rule, depth, visit=lambda *of: seen.append(of))
    assert torch.equal(r, walk(record, start, lambda _: rule, depth))
    ruled = [op for op in record.network.ops if op.kind in ("conv", "linear", "relu", "relu6", "add")]
    assert [at.op for at, *_ in seen] == ruled[::-1]
    assert torch.equal(seen[0][1], start)
    arrived = {record.network.ends[-1]: start}
    plain = {op.output: op for op in record.network.ops if op not in ruled}
    for at, r_out, sent in seen:
        while at.op.output not in arrived:  # through the operations between, which are the gradient for every rule
            op = plain[max(arrived)]
            below = GRADIENTS[op.kind](arrived.pop(op.output), record, op)
            arrived |= {i: arrived.get(i, 0) + v for i, v in zip(op.inputs, below, strict=False)}
        torch.testing.assert_close(r_out, arrived.pop(at.op.output))
        for i, v in zip(at.op.inputs, sent, strict=True):
            arrived[i] = arrived.get(i, 0) + v


def test_walk_from_the_middle_to_the_middle():
    record = traced("residual")
    whole = walk(record, record.activation(3), lambda layer: RULES["gbp"], 3)
    halves = walk(
        record, walk(record, record.activation(3), lambda layer: RULES["gbp"], 3, 1), lambda layer: RULES["gbp"], 1
    )
    torch.testing.assert_close(whole, halves)
    assert whole.shape == (2, *SHAPE)
    assert distance(whole, walk(record, record.activation(3), lambda layer: GRAD, 3)) > 1e-3


# ---- what a rule makes of the forward pass is made once --------------------------------------------------------------


def applied(
    record: Record, rule: Method, monkeypatch: pytest.MonkeyPatch, room: int = place.ROOM
) -> tuple[Tensor, int]:
    """The map, and how many convolutions of activations it took."""
    whole, calls = Place.apply, []
    with monkeypatch.context() as patched:
        patched.setattr(place, "ROOM", room)
        patched.setattr(Place, "apply", lambda at, a, weight: calls.append(at.op.output) or whole(at, a, weight))
        return attribute(record, rule, torch.tensor([3, 0])), len(calls)


@pytest.mark.parametrize("name", NETS)
def test_walks_over_one_record_share_zplus(name, monkeypatch):
    rules, record = [replace(LRP, alpha=2.0), LRP, replace(LRP, start_at=Start.logit)], traced(name)
    alone = [applied(record, rule, monkeypatch, room=0) for rule in rules]
    shared = [applied(record, rule, monkeypatch) for rule in rules]
    for (found, calls), (expected, calls_alone) in zip(shared, alone, strict=True):
        assert torch.equal(found, expected)
        assert calls <= calls_alone
    if all(bool((record.values[op.inputs[0]] >= 0).all()) for op in record.network.layers if not op.first):
        assert [calls for _, calls in shared] == [alone[0][1], 0, 0]


def test_zplus_is_made_again_where_there_is_no_room(monkeypatch):
    record = traced("plain")
    calls = [applied(record, LRP, monkeypatch, room)[1] for room in (0, 0, 2**20, 2**20)]
    assert calls[0] == calls[1] == calls[2] > calls[3] == 0
