"""One map per image of any method, anyone else's attribution function included, which is called and checked."""

import torch
from torch import Tensor

from pipeline.engine import walk
from pipeline.engine.network import Network, Record
from pipeline.engine.rules import Activation, External, Gbp, Method
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


def map_of(record: Record, rule: Method, classes: Tensor) -> Tensor:
    """Without bottom process; the activation starts at layer L / 3, as in Table I."""
    if isinstance(rule, Activation):
        layer = -(-record.network.depth // 3)
        return walk.walk(record, record.activation(layer), lambda _: Gbp(), layer)
    if isinstance(rule, External):
        return external_map(rule, record.network, record.x, classes)
    return walk.attribute(record, rule, classes)
