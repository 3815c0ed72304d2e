"""Fixed linear filters of the image that a network's weights make: no mask, no class, no bias, no fit."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.engine.lowering import LINEAR, RELU, Op
from pipeline.engine.network import Record
from pipeline.engine.place import Place
from pipeline.errors import UserError
from pipeline.seeds import keyed, normal


def first_layer(record: Record) -> Op:
    """W_1's operation. Raises UserError for a network that has not one first layer."""
    firsts = [op for op in record.network.layers if op.first]
    if len(firsts) != 1:
        raise UserError(
            f"the fixed filter P x = W_1 W_1^T x needs one first layer that reads the pixels, and this model has "
            f"{len(firsts)}; choose another model"
        )
    return firsts[0]


def first_layer_filter(record: Record, x: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """P x = W_1 W_1^T x in the paper's gradient form (r_0 = W_1 r_1): the first layer's convolution without its bias,
    then its transpose; of x's shape.

    x: by default the record's; weight: in W_1's place. Raises UserError for a network that has not one first layer.
    """
    top = first_layer(record).output
    return there_and_back(record, record.x if x is None else x, top, {} if weight is None else {top: weight})


def filter_if_any(record: Record) -> Tensor:
    """P x, and NaN of its shape for a network that has not one first layer."""
    if sum(op.first for op in record.network.layers) != 1:
        return torch.full_like(record.x, torch.nan)
    return first_layer_filter(record)


def two_layer_filter(record: Record, x: Tensor | None = None) -> Tensor:
    """W_1 W_2 W_2^T W_1^T x, through the first two units; where they pool, each window goes the way its maximum went
    in the record."""
    top = record.network.ends[min(2, record.network.depth)]
    return there_and_back(record, record.x if x is None else x, top, {})


@torch.no_grad()
def there_and_back(record: Record, x: Tensor, top: int, weights: Mapping[int, Tensor]) -> Tensor:
    """x up to the value at position `top` as if ReLUs passed everything and no layer had a bias, and back by the
    transpose. weights: in place of a layer's own, by its output."""
    ops = [op for op in record.network.ops if op.output <= top and op.kind != "shape"]
    up: dict[int, Tensor] = {0: x}
    for op in ops:
        values = [up[i] if i in up else record.values[i] for i in op.inputs]  # the record's: sizes
        up[op.output] = forward(record, op, values, weights.get(op.output))
        for position in record.network.used_last[op.output]:  # the maps of early layers are large
            up.pop(position, None)
        del values
    down = {top: up.pop(top)}
    for op in reversed(ops):
        if op.output not in down:
            continue
        at, r = Place(record, op), down.pop(op.output)
        if op.kind in RELU:
            sent = (r,)
        elif op.output in weights:
            sent = (at.transpose(r, weights[op.output]),)
        else:
            sent = at.gradient(r)
        for i, r_in in zip(op.inputs, sent, strict=False):
            down[i] = down[i] + r_in if i in down else r_in
    return down[0]


def forward(record: Record, op: Op, values: list[Tensor], weight: Tensor | None) -> Tensor:
    """What an operation makes of its inputs, as there_and_back says."""
    if op.kind in LINEAR:
        return Place(record, op).apply(values[0], op.weight if weight is None else weight)
    if op.kind in RELU:
        return values[0]
    if op.kind == "max_pool":
        index = record.argmax[op.output]
        return values[0].flatten(2).gather(2, index.flatten(2)).view(index.shape)
    return op.call(*values)


def alike_in_spectrum(weight: Tensor, *key: int) -> Tensor:
    """A layer's weights (out, in, ...) drawn anew with the same singular values, and the same left singular vectors:
    its patches' directions are turned at random (key: of the draw)."""
    matrix = weight.detach().flatten(1).double()
    u, s, _ = torch.linalg.svd(matrix, full_matrices=False)
    q, r = torch.linalg.qr(normal(keyed(*key), matrix.shape[1], len(s)))
    rows = (q * r.diagonal().sign()).T  # Haar's measure needs the signs
    return (u * s @ rows.to(u)).view(weight.shape).to(weight.dtype)
