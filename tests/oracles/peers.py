"""Autograd, Captum and Zennit, set up to compute the same thing as the engine. Each returns a map of x's shape.

`target` (B,) are class indices. Models are taken as they are and given back so; parameters are shared, not copied.
"""

import copy
import warnings

import torch
from captum.attr import GuidedBackprop
from torch import Tensor, fx, nn
from torchvision.models.resnet import ResNet
from zennit.attribution import Gradient
from zennit.composites import GuidedBackprop as GuidedBackpropComposite
from zennit.core import Composite
from zennit.layer import Sum
from zennit.rules import Norm, Pass, ZBox, ZPlus
from zennit.torchvision import ResNetCanonizer
from zennit.types import Activation, AvgPool, Linear


def twin(module: nn.Module) -> nn.Module:
    """A copy to hang hooks on, around the same parameters."""
    return copy.deepcopy(module, {id(p): p for p in module.parameters()})


def one_hot(target: Tensor, logits: Tensor) -> Tensor:
    return nn.functional.one_hot(target, logits.shape[1]).to(logits)


def autograd(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).gather(1, target[:, None]).sum(), x)[0]


def captum_gbp(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own hooks
        return GuidedBackprop(twin(module)).attribute(x.clone().requires_grad_(), target=target).detach()


def zennit_gbp(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return zennit(module, GuidedBackpropComposite(), x, target, "logit_gradient")


def zennit_lrp(module: nn.Module, x: Tensor, target: Tensor, start: str, box: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """z+ everywhere; with `box`, [l_i, h_i], z^B at the first convolution. start: relevance "unit" or "logit"."""
    first = next(name for name, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear))

    def rule(ctx: dict, name: str, m: nn.Module):
        if isinstance(m, Linear):
            if box is not None and name == first:
                return ZBox(*box, stabilizer=exact, zero_params="bias")
            return ZPlus(stabilizer=exact, zero_params="bias")
        if isinstance(m, Activation):
            return Pass()
        return Norm(stabilizer=exact) if isinstance(m, AvgPool | Sum) else None

    return zennit(module, Composite(rule, canonizers=[ResNetCanonizer()]), x, target, start)


def exact(z: Tensor) -> Tensor:
    """Nothing is added to a denominator; where it is 0, so is every numerator."""
    return torch.where(z == 0, torch.ones_like(z), z)


def zennit(module: nn.Module, composite: Composite, x: Tensor, target: Tensor, start: str) -> Tensor:
    outputs = {
        "unit": lambda logits: one_hot(target, logits),
        "logit": lambda logits: one_hot(target, logits) * logits.detach(),
        "logit_gradient": lambda logits: one_hot(target, logits),
    }
    with Gradient(twin(module), composite) as attributor:
        return attributor(x.clone(), outputs[start])[1].detach()


def folded_resnet(model: ResNet, folded: fx.GraphModule) -> ResNet:
    """The ResNet class, for whose blocks Zennit has a canonizer, with the weights after folding."""
    model = twin(model)  # type: ignore[assignment]
    for name, m in list(model.named_modules()):
        if isinstance(m, nn.Conv2d):
            model.set_submodule(name, folded.get_submodule(name))
        elif isinstance(m, nn.BatchNorm2d):
            model.set_submodule(name, nn.Identity())
    return model
