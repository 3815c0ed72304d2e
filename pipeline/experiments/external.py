"""Anyone else's attribution function, called and checked."""

import torch
from torch import Tensor

from pipeline.engine.network import Network
from pipeline.engine.rules import External
from pipeline.errors import UserError
from pipeline.files import import_callable


def external_map(rule: External, network: Network, x: Tensor, classes: Tensor) -> Tensor:
    """The map of the user's function. Raises UserError if it is no tensor of x's shape."""
    with torch.enable_grad():
        r = import_callable(rule.call, "rule.call")(network.module, x.clone(), classes)
    if not isinstance(r, Tensor) or r.shape != x.shape:
        shape = tuple(r.shape) if isinstance(r, Tensor) else type(r).__name__
        raise UserError(
            f"rule.call={rule.call} returned {shape}; it must return a tensor of x's shape {tuple(x.shape)}"
        )
    return r.detach().to(x)
