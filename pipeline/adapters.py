"""The rules where other tools take an attribution: Quantus' explain_func, Captum's Attribution. Neither is needed here.

The model is traced at each call, for its weights may have changed since the last one: a kept trace would give a
randomisation test the maps of the trained network. Weights are not copied for that.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import api
from pipeline.engine.network import trace
from pipeline.engine.rules import Method
from pipeline.errors import UserError

OWN = ("device", "mean", "std", "layer")  # settings that are no rule's


class Attribution:
    """A rule as an attribution method of Captum: Attribution(model, "lrp", alpha=2).attribute(inputs, target=3). Its
    tools take it, NoiseTunnel(attribution) and sensitivity_max(attribution.attribute, ...).

    rule: a Method, or a name with its settings; bottom: with the method's bottom process. Settings of every rule are
    device (where to compute, by default where the model is; the model itself stays as it is), mean and std (of the
    pixel normalisation, for DTD's bottom process) and layer (of the activation).
    """

    multiplies_by_inputs = False

    def __init__(self, model: nn.Module, rule: str | Method = "gbp", bottom: bool = False, **settings: Any):
        self.device, self.mean, self.std, self.layer = (settings.pop(name, None) for name in OWN)
        if not isinstance(model, nn.Module):
            raise UserError(f"the model must be a torch.nn.Module, not {type(model).__name__}")
        if settings and not isinstance(rule, str):
            raise UserError(f"{type(rule).__name__} was made with its settings; give it {min(settings)} there")
        self.rule = api.rule(rule, **settings) if isinstance(rule, str) else rule
        if not isinstance(self.rule, Method):
            raise UserError(f"the rule must be a name or a Method, not {type(rule).__name__}")
        self.forward_func, self.bottom = model, bottom

    def has_convergence_delta(self) -> bool:
        return False

    @torch.no_grad()  # also leaves __wrapped__, which NoiseTunnel calls
    def attribute(self, inputs: Any, target: Any = None) -> Any:
        """The maps of images (B, C, H, W), of that shape and the model's dtype; of a tuple of one tensor, such a tuple.

        target: one class for all images or one for each, as an int, list, array or tensor; without, what is explained
        is the decision, anew for each (perturbed) image. Raises UserError for other inputs, targets and models.
        """
        if isinstance(inputs, tuple) and len(inputs) == 1:
            return (self.attribute(*inputs, target=target),)
        shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in self.forward_func.parameters()}
        model = copy.deepcopy(self.forward_func, shared).to(self.device)
        network = trace(model, mean=self.mean, std=self.std, keep=False)
        x = tensor(inputs, "inputs").to(next(network.module.parameters()))
        if x.ndim not in (2, 4):
            raise UserError(f"the inputs must be one batch of images (B, C, H, W), not of shape {tuple(x.shape)}")
        classes = None if target is None else tensor(target, "targets").flatten()
        if classes is not None and len(classes) == 1:
            classes = classes.expand(len(x))
        r = api.attribute(network, x, self.rule, target=classes, bottom=self.bottom, layer=self.layer)
        return r.contiguous()  # for who asks for a view


def explain_func(rule: str | Method = "gbp", bottom: bool = False, **settings: Any) -> Callable[..., np.ndarray]:
    """A rule as Quantus calls it: a function (model, inputs, targets, **more) -> maps of the inputs' shape, an array.

    What it takes and raises is as of `Attribution`, settings of both kinds too, and those that come with the call
    (device, by Quantus) go before these.
    """
    of = partial(Attribution, rule=rule, bottom=bottom, **settings)
    of(nn.Identity())  # a rule that there is not is refused now

    def explain(model: nn.Module, inputs: Any, targets: Any, method: str = "", **more: Any) -> np.ndarray:
        # method: its name in quantus.evaluate, which hands that over
        return of(model, **more).attribute(inputs, targets).cpu().numpy()

    return explain


def tensor(values: Any, what: str) -> Tensor:
    try:
        return values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.array(values))
    except (TypeError, ValueError):
        raise UserError(f"the {what} must be numbers, as a tensor or an array, not {type(values).__name__}") from None
