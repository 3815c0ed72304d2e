"""Autograd, Captum and Zennit, set up to compute the same thing as the engine. Each returns a map of x's shape.

`target` (B,) are class indices. Models are taken as they are and given back so; parameters are shared, not copied.
Captum and Zennit are imported where they are used: ImportError where they are not installed.
"""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.engine.network import Network, Op

# r at the output of a "relu" or "relu6", z, which of the two -> r at z
Filter = Callable[[Tensor, Tensor, str], Tensor]

# ---- the network for libraries that hook modules ---------------------------------------------------------------------


def twin(module: nn.Module) -> nn.Module:
    """A copy to hang hooks on, around the same parameters."""
    return copy.deepcopy(module, {id(p): p for p in module.parameters()})


class Call(nn.Module):
    """A function without parameters as a module."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *values):
        return self.function(*values)


class Share(Call):
    """An average or a sum: LRP shares relevance among what it weighs. `numbers`: what else the function takes, a
    kernel's sides for one."""

    numbers: tuple[Any, ...] = ()

    def forward(self, value):
        return self.function(value, *self.numbers)


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.share = Share(lambda stack: stack.sum(-1))

    def forward(self, *values):
        return self.share(torch.stack(values, -1))


class Cap(nn.Module):
    """min(a, 6), the second half of a ReLU6; its gradient is 0 where it cuts, or with `through` 1 everywhere."""

    def __init__(self, through: bool):
        super().__init__()
        self.through = through

    def forward(self, a):
        capped = a.clamp(max=6)
        return a + (capped - a).detach() if self.through else capped


class Unrolled(nn.Module):
    """A traced network with a module of its own for each operation, however often and in whatever way it is called.

    relu(op) makes what stands for a ReLU or ReLU6. `first`: the names of the layers that read the pixels.
    """

    def __init__(self, network: Network, relu: Callable[[Op], nn.Module]):
        super().__init__()
        self.places = [(op.inputs, op.output) for op in network.ops]
        self.steps = nn.ModuleList(self.step(op, relu) for op in network.ops)
        self.first = {f"steps.{i}" for i, op in enumerate(network.ops) if op.first}

    @staticmethod
    def step(op: Op, relu: Callable[[Op], nn.Module]) -> nn.Module:
        if op.kind in ("relu", "relu6"):
            return relu(op)
        if op.kind in ("conv", "linear"):
            return twin(op.layer)
        if op.kind == "add":
            return Sum()
        if op.kind == "max_pool":
            return Call(lambda *values: op.call(*values)[0])
        return (Share if op.kind in ("avg_pool", "adaptive_avg_pool", "mean") else Call)(op.call)

    def values(self, x: Tensor) -> list[Any]:
        """As Record.values."""
        found: list[Any] = [x] + [None] * self.places[-1][1]
        for step, (inputs, output) in zip(self.steps, self.places, strict=True):
            taken = [found[i] for i in inputs]
            if isinstance(step, Share):
                taken, step.numbers = taken[:1], tuple(taken[1:])
            found[output] = step(*taken)
        return found

    def forward(self, x):
        return self.values(x)[-1]


def hookable(network: Network, through: bool) -> Unrolled:
    """For Captum and Zennit, which know nn.ReLU: a ReLU6 is a ReLU under a Cap. Each ReLU reads a copy of its own, for
    Captum filters what reaches the ReLU's input, from elsewhere too."""

    def relu(op: Op) -> nn.Module:
        return nn.Sequential(Call(torch.clone), nn.ReLU(), *([Cap(through)] if op.kind == "relu6" else []))

    return Unrolled(network, relu)


# ---- autograd --------------------------------------------------------------------------------------------------------


def autograd(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).gather(1, target[:, None]).sum(), x)[0]


def autograd_below(network: Network, x: Tensor, position: int, r: Tensor) -> Tensor:
    """J^T r, where J is the Jacobian of the value at `position` (as in Record.values)."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(hookable(network, through=False).values(x)[position], x, r)[0]


class Filtered(torch.autograd.Function):
    """A ReLU or ReLU6 with `rule` in the place of its gradient."""

    @staticmethod
    def forward(ctx, z, kind, rule):  # type: ignore[override]
        ctx.kind, ctx.rule = kind, rule
        ctx.save_for_backward(z)
        return z.clamp(0, 6) if kind == "relu6" else z.clamp(min=0)

    @staticmethod
    def backward(ctx, r):  # type: ignore[override]
        return ctx.rule(r, *ctx.saved_tensors, ctx.kind), None, None


def filtered_autograd(network: Network, rule: Filter, x: Tensor, target: Tensor, layers: int | None = None) -> Tensor:
    """Autograd with the rule's filter at the ReLUs of the top N = `layers` layers (default: all), their own gradient
    below."""
    above = network.depth - (network.depth if layers is None else layers)

    def relu(op: Op) -> nn.Module:
        if op.unit <= above:
            return nn.ReLU() if op.kind == "relu" else nn.ReLU6()
        return Call(lambda z: Filtered.apply(z, op.kind, rule))

    return autograd(Unrolled(network, relu), x, target)


# ---- Captum and Zennit -----------------------------------------------------------------------------------------------


def captum(method: str, module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """By the name of the method's class."""
    from captum import attr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own hooks
        return getattr(attr, method)(twin(module)).attribute(x.clone().requires_grad_(), target=target).detach()


def zennit_filter(composite: str, module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """By the name of the composite's class."""
    from zennit import composites

    return zennit(module, getattr(composites, composite)(), x, target)


captum_gbp, captum_deconvnet = partial(captum, "GuidedBackprop"), partial(captum, "Deconvolution")
zennit_gbp, zennit_deconvnet = partial(zennit_filter, "GuidedBackprop"), partial(zennit_filter, "DeconvNet")


def zennit_lrp(
    module: nn.Module,
    x: Tensor,
    target: Tensor,
    start: str,
    box: tuple[Tensor, Tensor] | None = None,
    layer: Callable[[], Any] | None = None,
) -> Tensor:
    """z+ in every conv and linear layer, or the Zennit rule that `layer` makes; with `box`, [l_i, h_i], z^B at the
    first one. start: relevance "unit" or "logit"."""
    from zennit.core import Composite
    from zennit.layer import Sum
    from zennit.rules import Norm, Pass, ZBox
    from zennit.torchvision import ResNetCanonizer
    from zennit.types import Activation, AvgPool, Linear

    layers = (name for name, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear))
    first = module.first if isinstance(module, Unrolled) else {next(layers)}

    def rule(ctx: dict, name: str, m: nn.Module):
        if isinstance(m, Linear):
            if box is not None and name in first:
                return ZBox(*box, stabilizer=EXACT, zero_params="bias")
            return (layer or zennit_z_plus)()
        if isinstance(m, Activation):
            return Pass()
        return Norm(stabilizer=EXACT) if isinstance(m, AvgPool | Sum | Share) else None

    return zennit(module, Composite(rule, canonizers=[ResNetCanonizer()]), x, target, start)


def zennit_z_plus() -> Any:
    from zennit.rules import ZPlus

    return ZPlus(stabilizer=EXACT, zero_params="bias")


def zennit_alpha_beta(alpha: float) -> Any:
    from zennit.rules import AlphaBeta

    return AlphaBeta(alpha, alpha - 1, stabilizer=EXACT, zero_params="bias")


def zennit_epsilon(epsilon: float, bias: bool) -> Any:
    from zennit.rules import Epsilon

    return Epsilon(epsilon, zero_params=None if bias else "bias")


def zennit_gamma(gamma: float, bias: bool) -> Any:
    """Zennit favours negative contributions where z is negative; a ReLU's relevance is 0 there."""
    from zennit.rules import Gamma

    return Gamma(gamma, stabilizer=EXACT, zero_params=None if bias else "bias")


def exact(z: Tensor) -> Tensor:
    """Nothing is added to a denominator; where it is 0, so is every numerator."""
    return torch.where(z == 0, torch.ones_like(z), z)


EXACT: Any = exact  # Zennit declares floats alone


def zennit(module: nn.Module, composite: Any, x: Tensor, target: Tensor, start: str = "unit") -> Tensor:
    from zennit.attribution import Gradient

    def output(logits: Tensor) -> Tensor:
        onehot = nn.functional.one_hot(target, logits.shape[1]).to(logits)
        return onehot * logits.detach() if start == "logit" else onehot

    with Gradient(twin(module), composite) as attributor:
        return attributor(x.clone(), output)[1].detach()  # type: ignore[index]
