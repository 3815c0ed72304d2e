"""Definition 2: is a rule a negative filtering rule? Condition (13), unit by unit, on a real network."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.engine.network import Network, Record
from pipeline.engine.rules import Activation, AlphaBeta, ExcitationBp, FirstLayer, Rule
from pipeline.engine.walk import inside, one_hot, step
from pipeline.errors import UserError
from pipeline.experiments.interface import Result
from pipeline.experiments.targets import Target


@dataclass(frozen=True)
class Options:
    """without_gamma: z+ also with its normalisation dropped, (W+)^T M r, as the paper does after Proposition 3; tolerance: two sides of (13)
    that differ by less (relative to the norms, see `margin`) are equal."""

    without_gamma: bool
    tolerance: float


def run(network: Network, images: Any, rules: Sequence[Rule], target: Target, options: Options) -> list[Result]:
    """One table per rule, a row per image and unit l = L..1 (for z+ twice, `gamma` kept and dropped):
    image, target, gamma, layer, name, lhs, rhs, margin, filtered, added, relation, holds.

    From the rule's own r_l, the unit is passed under the rule and under the gradient: lhs = <A_{l-1}, F(W M) r>, rhs = <A_{l-1}, W M r>, for r_l
    scaled to a largest entry of 1 (both sides are linear in it). margin = (lhs - rhs) / (|A| (|F r| + |W M r|)). filtered, added: terms that the rule
    removed, or passed where the gradient does not, over the gradient's (at ReLUs: units with r; for z+: products w_ij a_i).
    relation: greater, equal, less; "" where nothing was filtered, for there (13) asks for nothing and holds.
    """
    rows: list[list[dict[str, Any]]] = [[] for _ in rules]
    for batch in images:
        record = network.forward(batch.x)
        classes = target.classes(batch, record.logits)
        for table, rule in zip(rows, rules, strict=True):
            found = [
                (gamma, layer, {name: value.tolist() for name, value in sides.items()})
                for gamma, variant in variants(rule, options)
                for layer, sides in conditions(record, variant, rule.start(one_hot(record, classes), record.logits))
            ]
            for b, image in enumerate(batch.names):
                for gamma, layer, columns in found:
                    facts = {
                        "image": image,
                        "target": int(classes[b]),
                        "gamma": gamma,
                        "layer": layer,
                        "name": network.unit_name(layer),
                    }
                    numbers = {name: column[b] for name, column in columns.items()}
                    table.append(facts | numbers | verdict(numbers, options.tolerance))
    return [Result(pd.DataFrame(table)) for table in rows]


def variants(rule: Any, options: Options) -> list[tuple[str, Any]]:
    """Raises UserError for what is not a rule of propagation in gradient form."""
    inside(rule)
    if isinstance(rule, Activation):
        raise UserError("the activation has no filter that (13) could judge; choose rule=gbp, rectgrad or lrp")
    if not hasattr(rule, "first_layer"):
        return [("", rule)]
    if not (isinstance(rule, ExcitationBp) or (isinstance(rule, AlphaBeta) and rule.alpha == 1)):
        raise UserError(
            "this rule removes no terms, so it is no filter that (13) could judge; choose rule=gbp, rectgrad or lrp"
        )
    if rule.first_layer is FirstLayer.zbox:
        raise UserError(
            "condition (13) is about gradients, and z^B returns relevance; set rule.first_layer to plain, split or plus"
        )
    return [("kept", rule)] + ([("dropped", WithoutGamma(rule.first_layer))] if options.without_gamma else [])


@torch.no_grad()
def conditions(record: Record, rule: Any, r: Tensor) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(l, both sides of (13) with the share of terms filtered, each (B,)) for l = L..1, r being r_L."""
    for layer in range(record.network.depth, 0, -1):
        r = r / per_sample(r.flatten(1).abs().amax(1).clamp(min=torch.finfo(r.dtype).tiny), r)
        watched = Watched(rule, [])
        below, plain, a = step(record, layer, r, watched), step(record, layer, r), record.activation(layer - 1)  # type: ignore[arg-type]
        lhs, rhs = inner(a, below), inner(a, plain)
        scale = norm(a) * (norm(below) + norm(plain))
        removed, added, possible = (
            torch.stack([torch.stack(counts) for counts in watched.counts]).sum(0)
            if watched.counts
            else lhs.new_zeros(3, len(lhs))
        )
        share = 1 / possible.clamp(min=1)
        margin = torch.where(scale == 0, 0, (lhs - rhs) / torch.where(scale == 0, 1, scale))  # NaN where r is missing
        yield layer, {"lhs": lhs, "rhs": rhs, "margin": margin, "filtered": removed * share, "added": added * share}
        r = below


def verdict(numbers: dict[str, float], tolerance: float) -> dict[str, Any]:
    if math.isnan(numbers["margin"]):
        return {"relation": "missing", "holds": None}
    if numbers["filtered"] == 0 and numbers["added"] == 0:
        return {"relation": "", "holds": True}
    relation = "equal" if abs(numbers["margin"]) <= tolerance else "greater" if numbers["margin"] > 0 else "less"
    return {"relation": relation, "holds": relation == "greater"}


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    return value.view(-1, *[1] * (like.ndim - 1))


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).flatten(1).sum(1)


def norm(a: Tensor) -> Tensor:
    return a.double().flatten(1).norm(dim=1)


@dataclass(frozen=True)
class Watched:
    """A rule as it is, that counts (removed, added, possible) terms (B,) at each place where it may filter."""

    rule: Any
    counts: list[tuple[Tensor, Tensor, Tensor]]

    def __getattr__(self, name: str) -> Any:  # what it does elsewhere, at a residual sum
        return getattr(self.rule, name)

    def relu(self, r: Tensor, at) -> Tensor:
        sent = self.rule.relu(r, at)
        if not hasattr(self.rule, "first_layer"):
            plain, passed = r * at.mask != 0, sent != 0
            self.counts.append(
                tuple(count.flatten(1).sum(1).double() for count in (plain & ~passed, passed & ~plain, plain))
            )  # type: ignore[arg-type]
        return sent

    def linear(self, r: Tensor, at) -> Tensor:
        if hasattr(self.rule, "first_layer") and not (at.first and self.rule.first_layer is FirstLayer.plain):
            flag = lambda condition: condition.to(r.dtype)  # noqa: E731
            a, w, sent = at.input, at.weight, flag(r != 0)
            removed = at.apply(flag(a > 0), flag(w < 0))
            removed = removed + at.apply(
                flag(a < 0), flag(w < 0 if at.first and self.rule.first_layer is FirstLayer.plus else w > 0)
            )
            possible = at.apply(flag(a != 0), flag(w != 0))
            counts = [(sent * terms).double().flatten(1).sum(1).round() for terms in (removed, possible)]
            self.counts.append((counts[0], 0 * counts[0], counts[1]))
        return self.rule.linear(r, at)


@dataclass(frozen=True)
class WithoutGamma:
    """z+ without its normalisation: r <- W+ M r, the products w_ij a_i > 0 being kept also where inputs are negative."""

    first_layer: FirstLayer

    def relu(self, r: Tensor, at) -> Tensor:
        return r * at.mask

    def linear(self, r: Tensor, at) -> Tensor:
        if at.first and self.first_layer is FirstLayer.plain:
            return at.transpose(r, at.weight)
        plus = at.transpose(r, at.weight.clamp(min=0))
        if (at.first and self.first_layer is FirstLayer.plus) or bool((at.input >= 0).all()):
            return plus
        return torch.where(at.input >= 0, plus, at.transpose(r, at.weight.clamp(max=0)))
