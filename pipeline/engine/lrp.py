"""The LRP family: relevance A * r is shared among a layer's inputs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.place import Place

BLOCK = 2**22  # weights of a linear layer whose positive part stands at once: VGG16 has one of 2 ** 26.6


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


@dataclass(frozen=True, kw_only=True)
class Lrp(Rule):
    """What the rules of LRP share; each says how it shares relevance among a layer's inputs (`share`).

    first_layer: what layer 1 does without the bottom process; bottom: what it does with it (under zbox, r_0 is the
    relevance itself and not a gradient); start_at: the relevance at the output; add_by: how a residual sum shares it.
    """

    first_layer: FirstLayer
    bottom: FirstLayer
    start_at: Start
    add_by: Add

    def share(self, relevance: Tensor, at: Place) -> Tensor:
        """Relevance at z_l -> r at A_{l-1}."""
        raise NotImplementedError

    def start(self, onehot: Tensor, logits: Tensor) -> Tensor:
        if self.start_at is Start.logit:
            return onehot
        logit = (onehot * logits).sum(1, keepdim=True)
        # relevance 1 has no gradient form where the logit is 0: such a map is missing
        return onehot / torch.where(logit == 0, torch.nan, logit)

    def relu(self, r: Tensor, at: Place) -> Tensor:
        return r * at.gain

    def linear(self, r: Tensor, at: Place) -> Tensor:
        if not at.first or self.first_layer is FirstLayer.split:
            return self.share(r * at.output, at)
        if self.first_layer is FirstLayer.plain:
            return at.transpose(r, at.weight)
        if self.first_layer is FirstLayer.zbox:
            return z_box(r * at.output, at)
        plus = at.weight.clamp(min=0)
        return at.transpose(ratio(r * at.output, at.apply(at.input, plus)), plus)

    def add(self, r: Tensor, at: Place) -> Sequence[Tensor]:
        if self.add_by is Add.proportional:
            return at.gradient(r)
        share = ratio(r * at.output, torch.stack([a.clamp(min=0) for a in at.inputs]).sum(0))
        return [share * (a > 0) for a in at.inputs]

    def with_bottom(self) -> "Lrp":
        return replace(self, first_layer=self.bottom)

    def finish(self, r: Tensor, x: Tensor) -> Tensor:
        return r if self.first_layer is FirstLayer.zbox else x * r

    def above_first_layer(self) -> "Lrp":
        return replace(self, first_layer=FirstLayer.plain, bottom=FirstLayer.plain)


@dataclass(frozen=True, kw_only=True)
class AlphaBeta(Lrp):
    """LRP-alpha-beta (9), beta = alpha - 1. alpha = 1 is the z+ rule (10), with the z^B bottom (11) Deep Taylor
    Decomposition: r <- W+ (r z / z+), z+ = W+^T A_{l-1} without bias, 0 where z+ is 0; for beta the same with W-."""

    alpha: float

    def __post_init__(self):
        if not 1 <= self.alpha < float("inf"):
            raise ValueError(f"alpha must be at least 1 (beta = alpha - 1 is not negative), not {self.alpha}")

    def share(self, relevance: Tensor, at: Place) -> Tensor:
        positive = contributions(relevance, at)
        if self.alpha == 1:
            return positive
        return self.alpha * positive - (self.alpha - 1) * contributions(relevance, at, negative=True)


@dataclass(frozen=True, kw_only=True)
class ExcitationBp(Lrp):
    """Excitation BP [41]: marginal winning probabilities, which are the z+ rule from relevance 1; `contrastive`: minus
    those that the negated weights of the last layer give (c-MWP)."""

    contrastive: bool

    def share(self, relevance: Tensor, at: Place) -> Tensor:
        positive = contributions(relevance, at)
        return positive - contributions(relevance, at, negative=True) if self.contrastive and at.last else positive


@dataclass(frozen=True, kw_only=True)
class Epsilon(Lrp):
    """LRP-epsilon: r <- W (r z / (z + epsilon sign z)), with `bias` the layer's bias in that z. epsilon = 0 is the
    gradient, (8)."""

    epsilon: float
    bias: bool

    def __post_init__(self):
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon must not be negative: {self.epsilon}")

    def share(self, relevance: Tensor, at: Place) -> Tensor:
        z = at.output if self.bias else at.apply(at.input, at.weight)
        return at.transpose(ratio(relevance, z + self.epsilon * z.sign()), at.weight)


@dataclass(frozen=True, kw_only=True)
class Gamma(Lrp):
    """LRP-gamma (Montavon et al. 2019): shares by w_ij a_i + gamma (w_ij a_i)+, with `bias` the layer's bias in the
    sum, b + gamma b+. gamma = 0 is LRP-epsilon with epsilon = 0, infinity the z+ rule. (Not the gamma of the paper's
    Proposition 3, which is z+'s normalisation: see WPlus.)"""

    gamma: float
    bias: bool

    def __post_init__(self):
        if not self.gamma >= 0:
            raise ValueError(f"gamma must not be negative: {self.gamma}")

    def share(self, relevance: Tensor, at: Place) -> Tensor:
        if self.gamma == float("inf") and not self.bias:
            return contributions(relevance, at)
        part, whole = (0.0, 1.0) if self.gamma == float("inf") else (1.0, self.gamma)
        a, up = at.input, at.weight.clamp(min=0)
        b = at.bias if self.bias else None
        bias = 0 if b is None else part * b + whole * b.clamp(min=0)
        if bool((a >= 0).all()):
            weight = part * at.weight + whole * up
            return at.transpose(ratio(relevance, at.apply(a, weight) + bias), weight)
        down = at.weight.clamp(max=0)
        positive = at.apply(a.clamp(min=0), up) + at.apply(a.clamp(max=0), down)
        share = ratio(relevance, part * at.apply(a, at.weight) + whole * positive + bias)
        plus = torch.where(a >= 0, at.transpose(share, up), at.transpose(share, down))
        return part * at.transpose(share, at.weight) + whole * plus


@dataclass(frozen=True, kw_only=True)
class WPlus(Rule):
    """z+ without its normalisation, (W+)^T M r, as the paper argues after Proposition 3: the products w_ij a_i > 0 are
    kept, for negative inputs too, and r is no relevance. first_layer: as of LRP's rules (split and plus alone differ
    where pixels are negative)."""

    first_layer: FirstLayer

    def __post_init__(self):
        if self.first_layer is FirstLayer.zbox:
            raise ValueError("first_layer=zbox shares relevance, and wplus has none; choose plain, split or plus")

    def linear(self, r: Tensor, at: Place) -> Tensor:
        if at.first and self.first_layer is FirstLayer.plain:
            return at.transpose(r, at.weight)
        plus = at.transpose(r, at.weight.clamp(min=0))
        if (at.first and self.first_layer is FirstLayer.plus) or bool((at.input >= 0).all()):
            return plus
        return torch.where(at.input >= 0, plus, at.transpose(r, at.weight.clamp(max=0)))

    def above_first_layer(self) -> "WPlus":
        return replace(self, first_layer=FirstLayer.plain)


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b == 0, 0, a / torch.where(b == 0, 1, b))


def contributions(relevance: Tensor, at: Place, negative: bool = False) -> Tensor:
    """Relevance at z, shared among the inputs by z_ij+ = (w_ij a_i)+ (`negative`: by z_ij-), in gradient form: divided
    by a_i.

    With a >= 0 this is W+ (R / W+^T a); negative inputs (the pixels of layer 1, a linear bottleneck) take W-.
    """
    a, weight = at.input, at.weight

    def part(w: Tensor, upper: bool) -> Tensor:
        return w.clamp(min=0) if upper else w.clamp(max=0)

    if bool((a >= 0).all()):
        if weight.ndim == 4:
            up = part(weight, not negative)
            z = at.once(("contributions", negative), lambda: at.apply(a, up))
            return at.transpose(ratio(relevance, z), up)
        rows, sent = max(1, BLOCK // weight.shape[1]), torch.zeros_like(a)
        for w, r in zip(weight.split(rows), relevance.split(rows, -1), strict=True):
            up = part(w, not negative)
            sent += ratio(r, a @ up.T) @ up
        return sent
    up, down = part(weight, not negative), part(weight, negative)
    share = ratio(relevance, at.apply(a.clamp(min=0), up) + at.apply(a.clamp(max=0), down))
    return torch.where(a >= 0, at.transpose(share, up), at.transpose(share, down))


def z_box(relevance: Tensor, at: Place) -> Tensor:
    """(11): relevance at z_1, shared among pixels by z_ij - l_i w_ij+ - h_i w_ij-: the pixels' relevance itself."""
    low, high = at.bounds
    weight, plus, minus = at.weight, at.weight.clamp(min=0), at.weight.clamp(max=0)
    share = ratio(relevance, at.apply(at.input, weight) - at.apply(low, plus) - at.apply(high, minus))
    return at.input * at.transpose(share, weight) - low * at.transpose(share, plus) - high * at.transpose(share, minus)
