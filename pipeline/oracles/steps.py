"""Every step of a rule's walk by itself, against its literal transcription (local.py)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.lrp import Add, AlphaBeta, Epsilon, ExcitationBp, FirstLayer, Gamma, Lrp, WPlus
from pipeline.engine.network import LINEAR, RELU
from pipeline.engine.place import Place
from pipeline.oracles import local
from pipeline.oracles.case import FILTERS, LRP, Case, Check, Pair, quantile_of, rule, said
from pipeline.oracles.local import Term


@dataclass(frozen=True)
class Step:
    """What a rule did at one operation: r at its output -> `sent`, r at each input."""

    at: Place
    r: Tensor
    sent: tuple[Tensor, ...]


def steps(case: Case, by: Rule) -> list[Step]:
    """The rule's walk to the input, seen wherever it has a say."""
    seen: list[Step] = []
    case.chain(by, case.network.depth, lambda at, r, sent: seen.append(Step(at, r, tuple(sent))))
    return seen


def local_steps(case: Case) -> Iterator[Check]:
    layers: dict[int, local.Layer] = {}  # as matrices, for all checks

    def check(
        name: str, chosen: Callable[[Place], bool] = lambda at: True, where: str = "each step", **settings: Any
    ) -> Check:
        def pairs(case: Case) -> Iterator[Pair]:
            by = rule(name, **settings)
            for step in steps(case, by):
                if chosen(step.at):
                    for b in range(len(case.x)):
                        yield from compared(name, by, step, b, layers)

        return Check(name, f"{where} {said(**settings)}".strip(), "dense", pairs)

    yield check("grad")
    for name in FILTERS:
        yield check(name)
    first = lambda at: at.first  # noqa: E731
    for name in LRP:
        yield check(name, first_layer="plain")
    ruled = ("lrp", "split"), ("lrp", "plus"), ("lrp_alphabeta", "split"), ("lrp_epsilon", "split"), ("dtd", "zbox")
    for name, first_layer in ruled:
        yield check(name, first, "first layer", first_layer=first_layer)
    yield check("lrp_gamma", first, "first layer", first_layer="split", bias=True)
    yield check("wplus")
    yield check("wplus", first, "first layer", first_layer="split")
    yield check("excitation_bp", lambda at: at.last, "last layer", contrastive=True)
    if any(op.kind == "add" for op in case.network.ops):
        yield check("lrp", lambda at: at.op.kind == "add", "each sum", add_by="zplus")


def compared(name: str, by: Rule, step: Step, b: int, layers: dict[int, local.Layer]) -> Iterator[Pair]:
    """Sample b at this step: all units of a ReLU or a sum, all channels at one place of a layer's input. LRP in
    relevances."""
    at, r = step.at, step.r[b].cpu()
    a, out, sent = at.input[b].cpu(), at.output[b].cpu(), step.sent[0][b].cpu()
    if at.op.kind in RELU and name in LRP:
        yield (sent * a)[None], (r * local.activation(a, at.op.kind))[None]
    elif at.op.kind in RELU:
        yield sent[None], local.relu_step(name, r, a, at.op.kind, quantile_of(by))[None]
    elif at.op.kind in LINEAR:
        layer = layers.setdefault(at.op.output, local.layer_of(at.op.layer))
        a, out, r, sent = (local.as_image(v) for v in (a, out, r, sent))
        place = place_of(sent, b)
        terms = terms_of(by, at) if isinstance(by, Lrp) else None
        found = sent.flatten(1)[:, place]
        if terms is None:
            filters = isinstance(by, WPlus) and not (at.first and by.first_layer is FirstLayer.plain)
            expected = local.plain_step(layer, (a.shape[1], a.shape[2]), place, r, passed(a) if filters else None)
            yield found[None], expected[None]
            return
        is_relevance = terms[0].contribution is local.z_box
        box = [local.as_image(v[b].cpu()) for v in at.bounds] if is_relevance else None
        expected = local.shared_step(layer, a, place, r * out, terms, box)
        yield (found if is_relevance else found * a.flatten(1)[:, place])[None], expected[None]
    elif isinstance(by, Lrp) and by.add_by is Add.zplus:
        shares = local.positive_sum_step([v[b].cpu() for v in at.inputs], r * out)
        for v, s, expected in zip(at.inputs, step.sent, shares, strict=True):
            yield (s[b].cpu() * v[b].cpu())[None], expected[None]


def passed(a: Tensor) -> Tensor:
    """1 with the sign of each input, and of 0 as if it were positive."""
    return torch.where(a >= 0, 1.0, -1.0).to(a)


def place_of(sent: Tensor, b: int) -> int:
    """Where the map is largest, and for every other sample anywhere."""
    size = sent.abs().sum(0).flatten()
    if b % 2 == 0:
        return int(size.argmax())
    return int(torch.randint(len(size), (1,), generator=torch.Generator().manual_seed(b)))


def terms_of(by: Lrp, at: Place) -> list[Term] | None:
    """How the rule shares relevance at this layer; None for the plain gradient."""
    first = by.first_layer if at.first else FirstLayer.split
    if first is FirstLayer.plain:
        return None
    if first is not FirstLayer.split:
        return [Term(local.positive_weights if first is FirstLayer.plus else local.z_box)]
    if isinstance(by, AlphaBeta):
        return [Term(local.positive, by.alpha), Term(local.negative, 1 - by.alpha)][: 1 + (by.alpha != 1)]
    if isinstance(by, ExcitationBp):
        return [Term(local.positive), Term(local.negative, -1.0)][: 1 + (by.contrastive and at.last)]
    if isinstance(by, Gamma):
        return [Term(local.Favoured(by.gamma), bias=(lambda b: b + by.gamma * b.clamp(min=0)) if by.bias else None)]
    assert isinstance(by, Epsilon)
    return [Term(local.whole, epsilon=by.epsilon, bias=(lambda b: b) if by.bias else None)]
