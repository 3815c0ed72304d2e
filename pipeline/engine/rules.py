"""The rules: what each one does to r at a ReLU, at a conv or linear layer, at a sum, at the start and at the bottom.

Everything is in gradient form: r_l is what is propagated to A_l, and the relevance of the LRP literature is A_l * r_l.
A rule is a frozen dataclass of its settings on the class `Rule` (interface.py), whose methods are the plain gradient's:
it replaces what it changes, from what it sees of a place of the forward pass (place.py). LRP's are in lrp.py. To add
one: write its class, enter it in RULES at the foot, add conf/rule/<name>.yaml.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.lrp import AlphaBeta, Epsilon, ExcitationBp, Gamma, WPlus
from pipeline.engine.place import Place


@dataclass(frozen=True)
class Grad(Rule):
    """The gradient (5). Bottom: x * r_0 if `times_input`."""

    times_input: bool

    def finish(self, r: Tensor, x: Tensor) -> Tensor:
        return x * r if self.times_input else r


@dataclass(frozen=True)
class Gbp(Rule):
    """Guided BackPropagation (6): negative r is cut at each ReLU."""

    def relu(self, r: Tensor, at: Place) -> Tensor:
        return r.clamp(min=0) * at.mask


@dataclass(frozen=True)
class DeconvNet(Rule):
    """DeconvNet [40]: negative r is cut at each ReLU, whatever the unit did in the forward pass."""

    def relu(self, r: Tensor, at: Place) -> Tensor:
        return r.clamp(min=0)


@dataclass(frozen=True)
class RectGrad(Rule):
    """RectGrad (7): only units with A * r > tau pass; tau is the `quantile` of A * r over a ReLU's units, per sample.

    tau is an order statistic, sorted[floor(q (n - 1))], with q read as a rational number. Bottom: relu(x * r_0).
    Other readings of (7): at_least, A * r >= tau, so that where tau is 0 units without activation pass; masked, the
    ReLU's mask M as well, which changes something there and where tau < 0.
    """

    quantile: float
    at_least: bool = False
    masked: bool = False

    def __post_init__(self):
        if not 0 <= self.quantile < 1:
            raise ValueError(f"quantile must lie in [0, 1), not {self.quantile}")

    def relu(self, r: Tensor, at: Place) -> Tensor:
        product = (at.output * r).flatten(1)  # (B, n)
        q = rational(self.quantile)
        rank = q.numerator * (product.shape[1] - 1) // q.denominator
        tau = order_statistic(product, rank)  # (B,)
        passes = (product >= tau[:, None] if self.at_least else product > tau[:, None]).view_as(r)
        return r * (passes & at.mask if self.masked else passes)

    def finish(self, r: Tensor, x: Tensor) -> Tensor:
        return (x * r).clamp(min=0)


def order_statistic(values: Tensor, rank: int) -> Tensor:
    """sorted[rank] of each row of (B, n), (B,)."""
    if values.device.type == "cpu":  # NumPy's selection takes a fraction of PyTorch's time
        return torch.from_numpy(np.partition(values.detach().numpy(), rank, axis=1)[:, rank])
    return values.kthvalue(rank + 1, dim=1).values


def rational(share: float) -> Fraction:
    """The number as it is written, 0.9 = 9/10: a product of floats would slip by a rank."""
    return Fraction(repr(float(share)))


# ---- attributions that are no rules: they do not run through the layers ----------------------------------------------


@dataclass(frozen=True)
class Activation:
    """Theorem 2: r_l <- A_l at one layer; nothing above it matters. What runs below it, the caller says (walk.walk)."""


@dataclass(frozen=True)
class External:
    """Anyone else's attribution: `call` is `package.module:function`, a callable (model, x, target) -> R with
    model an nn.Module, x (B, C, H, W), target (B,) class indices, R of x's shape. Only its map at the input exists."""

    call: str


Method = Rule | Activation | External
GRAD = Grad(times_input=False)
RULES: dict[str, type[Method]] = {
    "grad": Grad,
    "gbp": Gbp,
    "deconvnet": DeconvNet,
    "rectgrad": RectGrad,
    "lrp": AlphaBeta,
    "dtd": AlphaBeta,
    "lrp_alphabeta": AlphaBeta,
    "lrp_epsilon": Epsilon,
    "lrp_gamma": Gamma,
    "wplus": WPlus,
    "excitation_bp": ExcitationBp,
    "activation": Activation,
    "external": External,
}
