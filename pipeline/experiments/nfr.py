"""Definition 2: is a rule a negative filtering rule? Condition (13), unit by unit, on a real network."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.lrp import AlphaBeta, ExcitationBp, FirstLayer, Gamma, Lrp, WPlus
from pipeline.engine.network import LINEAR, RELU, Network, Record
from pipeline.engine.place import Place
from pipeline.engine.rules import Method
from pipeline.engine.walk import one_hot, step, unit_scale
from pipeline.experiments.interface import Result
from pipeline.experiments.rows import Columns, over_images
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch

COLUMNS = [
    "image", "target", "gamma", "layer", "name", "lhs", "rhs", "margin", "filtered", "added", "relation", "holds",
]  # fmt: skip


@dataclass(frozen=True)
class Options:
    """without_gamma: z+ also with its normalisation dropped, (W+)^T M r, as the paper does after Proposition 3;
    tolerance: two sides of (13) that differ by less (relative to the norms, see `margin`) are equal."""

    without_gamma: bool
    tolerance: float


def run(
    network: Network, images: Iterable[Batch], rules: Sequence[Rule], target: Target, options: Options
) -> list[Result]:
    """One table per rule, a row per image and unit l = L..1 (for z+ twice, `gamma` kept and dropped): COLUMNS.

    From the rule's own r_l, the unit is passed under the rule and under the gradient: lhs = <A_{l-1}, F(W M) r>,
    rhs = <A_{l-1}, W M r>, for r_l scaled to a largest entry of 1 (both sides are linear in it).
    margin = (lhs - rhs) / (|A| (|F r| + |W M r|)). filtered, added: terms that the rule removed, or passed where the
    gradient does not, over the gradient's (at ReLUs: units with r; for z+: products w_ij a_i).
    relation: greater, equal, less; "" where nothing was filtered, for there (13) asks for nothing and holds (LRP-gamma
    below infinity weighs terms and removes none; its margin is there all the same).
    """

    def found(_: Batch, record: Record, classes: Tensor) -> Iterator[list[Columns]]:
        for rule in rules:
            start = rule.start(one_hot(record, classes), record.logits)
            yield [
                {"gamma": gamma, "layer": layer, "name": network.unit_name(layer)}
                | sides
                | verdict(sides, options.tolerance)
                for gamma, variant in variants(rule, options)
                for layer, sides in conditions(record, variant, start)
            ]

    return over_images(network, images, rules, target, found)


def objection(method: Method) -> str:
    """Why (13), which judges a filter on gradients, says nothing of this rule."""
    if not isinstance(method, Lrp):
        return ""
    if not (isinstance(method, ExcitationBp | Gamma) or (isinstance(method, AlphaBeta) and method.alpha == 1)):
        return "it removes no terms, so it is no filter that condition (13) could judge"
    if method.first_layer is FirstLayer.zbox:
        return "condition (13) is about gradients, and z^B returns relevance (rule.first_layer is to be another)"
    return ""


def variants(rule: Rule, options: Options) -> list[tuple[str, Rule]]:
    """(gamma, rule): z+ as it is and, with options.without_gamma, without its normalisation."""
    if not isinstance(rule, Lrp) or z_plus_of(rule) is None:
        return [("", rule)]
    found: list[tuple[str, Rule]] = [("kept", rule)]
    return [*found, ("dropped", WPlus(first_layer=rule.first_layer))] if options.without_gamma else found


def z_plus_of(rule: Rule) -> FirstLayer | None:
    """The first layer of a rule that removes products w_ij a_i, as z+ does; None of another rule."""
    weighs = isinstance(rule, Gamma) and rule.gamma < math.inf
    return rule.first_layer if isinstance(rule, Lrp | WPlus) and not weighs else None


@torch.no_grad()
def conditions(record: Record, rule: Rule, r: Tensor) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(l, both sides of (13) with the share of terms filtered, each (B,)) for l = L..1, r being r_L."""
    z_plus = z_plus_of(rule)
    for layer in range(record.network.depth, 0, -1):
        r = unit_scale(r)
        counts: list[Tensor] = []
        below = step(record, layer, r, rule, visit=partial(count, counts, z_plus))
        plain, a = step(record, layer, r), record.activation(layer - 1)
        lhs, rhs = inner(a, below), inner(a, plain)
        scale = norm(a) * (norm(below) + norm(plain))
        removed, added, possible = torch.stack(counts).sum(0) if counts else lhs.new_zeros(3, len(lhs))
        share = 1 / possible.clamp(min=1)
        margin = torch.where(scale == 0, 0, (lhs - rhs) / torch.where(scale == 0, 1, scale))  # NaN where r is missing
        yield layer, {"lhs": lhs, "rhs": rhs, "margin": margin, "filtered": removed * share, "added": added * share}
        r = below


def verdict(sides: dict[str, Tensor], tolerance: float) -> dict[str, list[Any]]:
    """relation and holds of each sample, (B,)."""
    numbers = zip(*(sides[name].tolist() for name in ("margin", "filtered", "added")), strict=True)
    relations = [relation(margin, filtered == added == 0, tolerance) for margin, filtered, added in numbers]
    return {"relation": relations, "holds": [None if r == "missing" else r in ("", "greater") for r in relations]}


def relation(margin: float, same_terms: bool, tolerance: float) -> str:
    if math.isnan(margin):
        return "missing"
    if same_terms:
        return ""
    return "equal" if abs(margin) <= tolerance else "greater" if margin > 0 else "less"


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).flatten(1).sum(1)


def norm(a: Tensor) -> Tensor:
    return a.double().flatten(1).norm(dim=1)


def count(counts: list[Tensor], z_plus: FirstLayer | None, at: Place, r: Tensor, sent: Sequence[Tensor]) -> None:
    """Append (removed, added, possible) terms, (3, B), of a place where the rule may filter: the units of a ReLU or,
    for z+ (with its first layer), the products w_ij a_i of a layer."""
    if at.op.kind in RELU and z_plus is None:
        plain, passed = r * at.mask != 0, sent[0] != 0
        terms = (plain & ~passed, passed & ~plain, plain)
        counts.append(torch.stack([term.flatten(1).sum(1).double() for term in terms]))
    elif at.op.kind in LINEAR and z_plus is not None and not (at.first and z_plus is FirstLayer.plain):
        flag = lambda condition: condition.to(r.dtype)  # noqa: E731
        a, w, reached = at.input, at.weight, flag(r != 0)
        removed = at.apply(flag(a > 0), flag(w < 0))
        removed = removed + at.apply(flag(a < 0), flag(w < 0 if at.first and z_plus is FirstLayer.plus else w > 0))
        possible = at.apply(flag(a != 0), flag(w != 0))
        gone, there = ((reached * terms).double().flatten(1).sum(1).round() for terms in (removed, possible))
        counts.append(torch.stack([gone, 0 * gone, there]))
