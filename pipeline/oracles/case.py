"""What a check is, and the network on which it compares."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import api
from pipeline.engine import walk
from pipeline.engine.interface import Rule
from pipeline.engine.network import Network, Record
from pipeline.engine.rules import RULES, RectGrad
from pipeline.errors import UserError
from pipeline.oracles import local, peers

Pair = tuple[Tensor, Tensor]  # the engine's numbers and the reference's, samples along dimension 0
FILTERS = ("gbp", "deconvnet", "rectgrad")  # rules that are a filter at the ReLUs and the gradient elsewhere
LRP = ("lrp", "dtd", "lrp_alphabeta", "lrp_epsilon", "lrp_gamma", "excitation_bp")


class NotComparable(Exception):
    """Why a reference can't say anything here."""


@dataclass(frozen=True)
class Case:
    """A network in float64, the same as its author wrote it (`original`), and its forward pass."""

    network: Network
    original: nn.Module
    record: Record

    @cached_property
    def x(self) -> Tensor:
        return self.record.x.contiguous()  # a view in the model may count on it

    @cached_property
    def target(self) -> Tensor:
        """The class of the least logit but 0: it is negative, as a rule, which shows errors of sign."""
        logits = self.record.logits
        return logits.masked_fill(logits == 0, float("inf")).argmin(1)

    @cached_property
    def masked(self) -> nn.Module:
        return peers.hookable(self.network, through=False)

    @cached_property
    def passing(self) -> nn.Module:
        return peers.hookable(self.network, through=True)

    @property
    def levels(self) -> list[int]:
        """Some N, 1 and L among them."""
        depth = self.network.depth
        return sorted({1, depth // 3, 2 * depth // 3, depth} - {0})

    def chain(self, by: Rule, n: int, visit: walk.Visit | None = None) -> Tensor:
        """r_{L-N} under the rule, step by step; visit: see walk.step."""
        depth, start = self.network.depth, by.start(walk.one_hot(self.record, self.target), self.record.logits)
        return walk.walk(self.record, start, lambda layer: by, depth, depth - n, visit)

    @cached_property
    def cascades(self) -> dict[tuple[str, int], Tensor]:
        """(rule, N): R_N of cascade substitution."""
        names = [name for name in (*FILTERS, "lrp", "activation") if name in RULES]
        maps = walk.cascade(self.record, [api.rule(name) for name in names], self.target)
        return {(names[i], n): r for i, n, r in maps if n in self.levels}

    @property
    def box(self) -> tuple[Tensor, Tensor]:
        if any(op.first and op.inputs != (0,) for op in self.network.ops):
            raise NotComparable("Zennit's z^B does not know of the padding before the first layer")
        assert self.network.bounds is not None  # or the engine has refused
        low, high = (bound.to(self.x)[None] for bound in self.network.bounds)
        return low, high

    def filter(self, name: str) -> peers.Filter:
        quantile = quantile_of(rule(name))

        def by_sample(r: Tensor, z: Tensor, kind: str) -> Tensor:
            return torch.stack([local.relu_step(name, *of, kind, quantile) for of in zip(r, z, strict=True)])

        return by_sample

    def filtered(self, name: str, layers: int | None = None) -> Tensor:
        return peers.filtered_autograd(self.network, self.filter(name), self.x, self.target, layers)


@dataclass(frozen=True)
class Check:
    """pairs: may raise NotComparable, ImportError where a library is missing, and UserError where the rule refuses the
    network."""

    rule: str
    setting: str
    reference: str
    pairs: Callable[[Case], Iterable[Pair]]


def rule(name: str, **settings: Any) -> Rule:
    """api.rule, of those that run through the layers."""
    found = api.rule(name, **settings)
    if not isinstance(found, Rule):
        raise UserError(f"{name} is no rule that runs through the layers; choose another one")
    return found


def quantile_of(by: Rule) -> float:
    return by.quantile if isinstance(by, RectGrad) else 0


def said(**settings: Any) -> str:
    return " ".join(f"{name} {value}" if name == "with" else f"{name}={value}" for name, value in settings.items())
