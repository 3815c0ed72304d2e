"""Fixed linear filters of the image that a network's weights make: no mask, no class, no bias, no fit."""

import torch
from torch import Tensor, nn

from pipeline.engine.network import Record
from pipeline.engine.place import Place
from pipeline.errors import UserError


@torch.no_grad()
def first_layer_filter(record: Record) -> Tensor:
    """P x = W_1 W_1^T x of the paper's gradient form (r_0 = W_1 r_1): the first layer's convolution without its bias,
    then its transpose; of x's shape. Raises UserError for a network that has not one first layer."""
    firsts = [op for op in record.network.layers if op.first]
    if len(firsts) != 1:
        raise UserError(
            f"the fixed filter P x = W_1 W_1^T x needs one first layer that reads the pixels, and this model has "
            f"{len(firsts)}; choose another model"
        )
    op = firsts[0]
    z = record.values[op.output]
    if (bias := op.layer.bias) is not None:
        z = z - (bias.view(-1, 1, 1) if isinstance(op.layer, nn.Conv2d) else bias)
    waiting = {op.output: z}
    for below in reversed([other for other in record.network.ops if other.output <= op.output]):
        if below.output not in waiting:
            continue
        for i, sent in zip(below.inputs, Place(record, below).gradient(waiting.pop(below.output)), strict=False):
            waiting[i] = waiting[i] + sent if i in waiting else sent
    return waiting[0]
