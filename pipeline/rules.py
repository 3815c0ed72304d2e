"""The rules: what each one does to r at a ReLU, at a conv or linear layer, at the start and at the bottom.

Everything is in gradient form: r_l is what is propagated to A_l, and the relevance of the LRP literature is A_l * r_l.
A rule is a frozen dataclass of its settings with five methods:

    start(onehot, logits) -> r_L       onehot, logits (B, K)
    relu(r, at) -> r                   r at the output of a ReLU -> r at its input z
    linear(r, at) -> r                 r at z_l -> r at A_{l-1}
    with_bottom() -> Rule              the same rule with its bottom process in the first layer
    finish(r_0, x) -> R                the last step of the bottom process

`at` (walk.Local) gives the place: at.input (A_{l-1}), at.output, at.mask (M), at.weight (W), at.first (is this layer 1?),
at.transpose(r, weight) (W r in the paper's notation), at.apply(a, weight) (W^T a, no bias), at.bounds.

To add a rule: write its class, enter it in RULES at the foot, add conf/rule/<name>.yaml.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor


class Rule(Protocol):
    def start(self, onehot: Tensor, logits: Tensor) -> Tensor: ...
    def relu(self, r: Tensor, at: Any) -> Tensor: ...
    def linear(self, r: Tensor, at: Any) -> Tensor: ...
    def with_bottom(self) -> "Rule": ...
    def finish(self, r: Tensor, x: Tensor) -> Tensor: ...


# The plain gradient's methods, from which rules take what they don't change.
def onehot_start(self, onehot: Tensor, logits: Tensor) -> Tensor:
    return onehot


def masked(self, r: Tensor, at) -> Tensor:
    return r * at.mask


def transposed(self, r: Tensor, at) -> Tensor:
    return at.transpose(r, at.weight)


def itself(self):
    return self


def unfinished(self, r: Tensor, x: Tensor) -> Tensor:
    return r


class FirstLayer(Enum):
    plain = "plain"  # W_1, as in every alignment curve
    split = "split"  # z_ij+ = (w_ij x_i)+
    plus = "plus"  # W_1+, the letter of (19) with Proposition 3
    zbox = "zbox"  # z^B, (11)


class Start(Enum):
    unit = "unit"  # relevance 1 at the explained class: r_L = e_k / f_k
    logit = "logit"  # relevance f_k: r_L = e_k


@dataclass(frozen=True)
class Grad:
    """The gradient (5). Bottom: x * r_0 if `times_input`."""

    times_input: bool
    start, relu, linear, with_bottom = onehot_start, masked, transposed, itself

    def finish(self, r: Tensor, x: Tensor) -> Tensor:
        return x * r if self.times_input else r


@dataclass(frozen=True)
class Gbp:
    """Guided BackPropagation (6): negative r is cut at each ReLU."""

    start, linear, with_bottom, finish = onehot_start, transposed, itself, unfinished

    def relu(self, r: Tensor, at) -> Tensor:
        return r.clamp(min=0) * at.mask


@dataclass(frozen=True)
class RectGrad:
    """RectGrad (7): only units with A * r > tau pass; tau is the `quantile` of A * r over the units of a ReLU, per sample.

    tau is an order statistic, sorted[floor(q (n - 1))], with q read as a rational number. Bottom: relu(x * r_0).
    """

    quantile: float
    start, linear, with_bottom = onehot_start, transposed, itself

    def __post_init__(self):
        if not 0 <= self.quantile < 1:
            raise ValueError(f"quantile must lie in [0, 1), not {self.quantile}")

    def relu(self, r: Tensor, at) -> Tensor:
        product = (at.output * r).flatten(1)  # (B, n)
        q = Fraction(repr(self.quantile))
        rank = q.numerator * (product.shape[1] - 1) // q.denominator
        tau = product.kthvalue(rank + 1, dim=1).values  # (B,)
        return r * (product > tau[:, None]).view_as(r)

    def finish(self, r: Tensor, x: Tensor) -> Tensor:
        return (x * r).clamp(min=0)


@dataclass(frozen=True)
class ZPlus:
    """The z+ rule (10), which is LRP-alpha1-beta0 and, with the z^B bottom (11), Deep Taylor Decomposition.

    r <- W+ (r z / z+) with z+ = W+^T A_{l-1} without bias, 0 where z+ is 0. `first_layer` is what layer 1 does without
    the bottom process, `bottom` with it. Under zbox, r_0 is the relevance itself and not a gradient.
    """

    first_layer: FirstLayer
    bottom: FirstLayer
    start_at: Start

    def start(self, onehot: Tensor, logits: Tensor) -> Tensor:
        if self.start_at is Start.logit:
            return onehot
        logit = (onehot * logits).sum(1, keepdim=True)
        if bool((logit == 0).any()):
            raise ValueError("the explained class has logit 0, so relevance 1 has no gradient form; set rule.start_at=logit")
        return onehot / logit

    def relu(self, r: Tensor, at) -> Tensor:
        return r * at.gain

    def linear(self, r: Tensor, at) -> Tensor:
        if not at.first or self.first_layer is FirstLayer.split:
            return positive_contributions(r * at.output, at)
        if self.first_layer is FirstLayer.plain:
            return at.transpose(r, at.weight)
        plus = at.weight.clamp(min=0)
        if self.first_layer is FirstLayer.plus:
            return at.transpose(ratio(r * at.output, at.apply(at.input, plus)), plus)
        return z_box(r * at.output, at)

    def with_bottom(self) -> "ZPlus":
        return replace(self, first_layer=self.bottom)

    def finish(self, r: Tensor, x: Tensor) -> Tensor:
        return r if self.first_layer is FirstLayer.zbox else x * r


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b == 0, 0, a / torch.where(b == 0, 1, b))


def positive_contributions(relevance: Tensor, at) -> Tensor:
    """Relevance at z, shared among the inputs by z_ij+ = (w_ij a_i)+, in gradient form: divided by a_i.

    With a >= 0 this is W+ (R / W+^T a); negative inputs (the pixels of layer 1) take W-.
    """
    plus, a = at.weight.clamp(min=0), at.input
    if bool((a >= 0).all()):
        return at.transpose(ratio(relevance, at.apply(a, plus)), plus)
    minus = at.weight.clamp(max=0)
    share = ratio(relevance, at.apply(a.clamp(min=0), plus) + at.apply(a.clamp(max=0), minus))
    return torch.where(a >= 0, at.transpose(share, plus), at.transpose(share, minus))


def z_box(relevance: Tensor, at) -> Tensor:
    """(11): relevance at z_1, shared among pixels by z_ij - l_i w_ij+ - h_i w_ij-. Returns the pixels' relevance itself."""
    low, high = at.bounds
    weight, plus, minus = at.weight, at.weight.clamp(min=0), at.weight.clamp(max=0)
    share = ratio(relevance, at.apply(at.input, weight) - at.apply(low, plus) - at.apply(high, minus))
    return at.input * at.transpose(share, weight) - low * at.transpose(share, plus) - high * at.transpose(share, minus)


@dataclass(frozen=True)
class Activation:
    """Theorem 2: r_l <- A_l at one layer; nothing above it matters. What runs below it, the caller says (walk.walk)."""

    start, relu, linear, with_bottom, finish = onehot_start, masked, transposed, itself, unfinished


@dataclass(frozen=True)
class External:
    """Anyone else's attribution: `call` is `package.module:function`, a callable (model, x, target) -> R with
    model an nn.Module, x (B, C, H, W), target (B,) class indices, R of x's shape. Only its map at the input exists."""

    call: str
    start, relu, linear, with_bottom, finish = onehot_start, masked, transposed, itself, unfinished


GRAD = Grad(times_input=False)
RULES: dict[str, Callable[..., Rule]] = {
    "grad": Grad,
    "gbp": Gbp,
    "rectgrad": RectGrad,
    "lrp": ZPlus,
    "dtd": ZPlus,
    "activation": Activation,
    "external": External,
}
