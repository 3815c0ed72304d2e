"""The rules: what each one does to r at a ReLU, at a conv or linear layer, at the start and at the bottom.

Everything is in gradient form: r_l is what is propagated to A_l, and the relevance of the LRP literature is A_l * r_l.
A rule is a frozen dataclass of its settings with these methods:

    start(onehot, logits) -> r_L       onehot, logits (B, K)
    relu(r, at) -> r                   r at the output of a ReLU -> r at its input z
    linear(r, at) -> r                 r at z_l -> r at A_{l-1}
    add(r, at) -> one r per input      at a residual sum; a rule without it takes the gradient
    with_bottom() -> Rule              the same rule with its bottom process in the first layer
    finish(r_0, x) -> R                the last step of the bottom process

`at` (walk.Local) gives the place: at.input (A_{l-1}), at.inputs, at.output, at.mask (M), at.weight (W), at.first (is this layer 1?),
at.last (layer L?), at.transpose(r, weight) (W r in the paper's notation), at.apply(a, weight) (W^T a, no bias), at.bounds, at.gradient(r).

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
class DeconvNet:
    """DeconvNet [40]: negative r is cut at each ReLU, whatever the unit did in the forward pass."""

    start, linear, with_bottom, finish = onehot_start, transposed, itself, unfinished

    def relu(self, r: Tensor, at) -> Tensor:
        return r.clamp(min=0)


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


# ---- the LRP family: relevance A * r is shared among a layer's inputs ------------------------------------------------


class FirstLayer(Enum):
    plain = "plain"  # W_1, as in every alignment curve
    split = "split"  # the rule itself, by the signs of its inputs: z_ij+ = (w_ij x_i)+
    plus = "plus"  # W_1+, the letter of (19) with Proposition 3
    zbox = "zbox"  # z^B, (11)


class Start(Enum):
    unit = "unit"  # relevance 1 at the explained class: r_L = e_k / f_k
    logit = "logit"  # relevance f_k: r_L = e_k


class Add(Enum):
    proportional = "proportional"  # by the summands themselves, which is the gradient
    zplus = "zplus"  # by their positive parts, as in the code of Sixt et al. [33]


def relevance_start(self, onehot: Tensor, logits: Tensor) -> Tensor:
    if self.start_at is Start.logit:
        return onehot
    logit = (onehot * logits).sum(1, keepdim=True)
    return onehot / torch.where(
        logit == 0, torch.nan, logit
    )  # relevance 1 has no gradient form there: such a map is missing


def gained(self, r: Tensor, at) -> Tensor:
    return r * at.gain


def shared(self, r: Tensor, at) -> Tensor:
    """`self.share(relevance, at)` shares the relevance at z; layer 1 is as `self.first_layer` says."""
    if not at.first or self.first_layer is FirstLayer.split:
        return self.share(r * at.output, at)
    if self.first_layer is FirstLayer.plain:
        return at.transpose(r, at.weight)
    if self.first_layer is FirstLayer.zbox:
        return z_box(r * at.output, at)
    plus = at.weight.clamp(min=0)
    return at.transpose(ratio(r * at.output, at.apply(at.input, plus)), plus)


def bottom_in_layer_1(self):
    return replace(self, first_layer=self.bottom)


def relevance(self, r: Tensor, x: Tensor) -> Tensor:
    return r if self.first_layer is FirstLayer.zbox else x * r


def added(self, r: Tensor, at) -> tuple[Tensor, ...]:
    if self.add_by is Add.proportional:
        return at.gradient(r)
    share = ratio(r * at.output, torch.stack([a.clamp(min=0) for a in at.inputs]).sum(0))
    return tuple(share * (a > 0) for a in at.inputs)


@dataclass(frozen=True)
class AlphaBeta:
    """LRP-alpha-beta (9), beta = alpha - 1. alpha = 1 is the z+ rule (10), with the z^B bottom (11) Deep Taylor Decomposition.

    r <- W+ (r z / z+) with z+ = W+^T A_{l-1} without bias, 0 where z+ is 0; and the same with W- for beta. `first_layer` is
    what layer 1 does without the bottom process, `bottom` with it. Under zbox, r_0 is the relevance itself and not a gradient.
    """

    alpha: float
    first_layer: FirstLayer
    bottom: FirstLayer
    start_at: Start
    add_by: Add
    start, relu, linear, add, with_bottom, finish = relevance_start, gained, shared, added, bottom_in_layer_1, relevance

    def __post_init__(self):
        if self.alpha < 1:
            raise ValueError(f"alpha must be at least 1 (beta = alpha - 1 is not negative), not {self.alpha}")

    def share(self, relevance: Tensor, at) -> Tensor:
        positive = contributions(relevance, at)
        return (
            positive
            if self.alpha == 1
            else self.alpha * positive - (self.alpha - 1) * contributions(relevance, at, negative=True)
        )


@dataclass(frozen=True)
class ExcitationBp:
    """Excitation BP [41]: marginal winning probabilities, which are the z+ rule from relevance 1; `contrastive`: minus those that
    the negated weights of the last layer give (c-MWP)."""

    contrastive: bool
    first_layer: FirstLayer
    bottom: FirstLayer
    start_at: Start
    add_by: Add
    start, relu, linear, add, with_bottom, finish = relevance_start, gained, shared, added, bottom_in_layer_1, relevance

    def share(self, relevance: Tensor, at) -> Tensor:
        positive = contributions(relevance, at)
        return positive - contributions(relevance, at, negative=True) if self.contrastive and at.last else positive


@dataclass(frozen=True)
class Epsilon:
    """LRP-epsilon: r <- W (r z / (z + epsilon sign z)), with `bias` the layer's bias in that z. epsilon = 0 is the gradient, (8)."""

    epsilon: float
    bias: bool
    first_layer: FirstLayer
    bottom: FirstLayer
    start_at: Start
    start, relu, linear, with_bottom, finish = relevance_start, gained, shared, bottom_in_layer_1, relevance

    def __post_init__(self):
        if self.epsilon < 0:
            raise ValueError(f"epsilon must not be negative: {self.epsilon}")

    def share(self, relevance: Tensor, at) -> Tensor:
        z = at.output if self.bias else at.apply(at.input, at.weight)
        return at.transpose(ratio(relevance, z + self.epsilon * z.sign()), at.weight)


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b == 0, 0, a / torch.where(b == 0, 1, b))


def contributions(relevance: Tensor, at, negative: bool = False) -> Tensor:
    """Relevance at z, shared among the inputs by z_ij+ = (w_ij a_i)+ (`negative`: by z_ij-), in gradient form: divided by a_i.

    With a >= 0 this is W+ (R / W+^T a); negative inputs (the pixels of layer 1, a linear bottleneck) take W-.
    """
    a, up, down = at.input, at.weight.clamp(min=0), at.weight.clamp(max=0)
    if negative:
        up, down = down, up
    if bool((a >= 0).all()):
        return at.transpose(ratio(relevance, at.apply(a, up)), up)
    share = ratio(relevance, at.apply(a.clamp(min=0), up) + at.apply(a.clamp(max=0), down))
    return torch.where(a >= 0, at.transpose(share, up), at.transpose(share, down))


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
    "deconvnet": DeconvNet,
    "rectgrad": RectGrad,
    "lrp": AlphaBeta,
    "dtd": AlphaBeta,
    "lrp_alphabeta": AlphaBeta,
    "lrp_epsilon": Epsilon,
    "excitation_bp": ExcitationBp,
    "activation": Activation,
    "external": External,
}
