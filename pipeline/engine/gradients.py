"""The plain gradient of every operation: (r, record, op) -> one r per input.

r may hold k branches of the record's B samples, branch-major: (k B, ...). To let the walk know another
operation, name its kind in graph.KINDS and enter its gradient in GRADIENTS at the foot.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pipeline.engine.network import Op, Record, memory_format
from pipeline.errors import UserError


def transpose(r: Tensor, weight: Tensor, op: Op, shape: Sequence[int]) -> Tensor:
    """The transpose of a conv or linear layer with `weight`, applied to r; `shape` is that of its input, but for
    dimension 0."""
    m = op.layer
    if isinstance(m, nn.Linear):
        return r @ weight
    padding = symmetric_padding(m, op.where)
    # torch.nn.grad.conv2d_input costs a copy of the input's size; here it only gives its shape and is never touched
    like = torch.empty((r.shape[0], *shape[1:]), dtype=r.dtype, device=r.device, memory_format=memory_format(r.device))
    return torch.ops.aten.convolution_backward(
        r, like, weight, None, m.stride, padding, m.dilation, False, [0, 0], m.groups, [True, False, False]
    )[0]


def symmetric_padding(m: nn.Conv2d, where: str) -> tuple[int, ...]:
    if not isinstance(m.padding, str):
        return m.padding
    if m.padding == "same":
        total = [d * (k - 1) for d, k in zip(m.dilation, m.kernel_size, strict=True)]
        if any(t % 2 for t in total):
            raise UserError(
                f"the walk does not know the asymmetric padding 'same' of {where}; pad with ZeroPad2d instead"
            )
        return tuple(t // 2 for t in total)
    return (0, 0)  # "valid"


def branches(r: Tensor, record: Record) -> Tensor:
    """(k B, ...) -> (k, B, ...), to meet tensors of the record."""
    return r.unflatten(0, (-1, record.x.shape[0]))


def input_shape(r: Tensor, record: Record, op: Op) -> tuple[int, ...]:
    return (r.shape[0], *record.values[op.inputs[0]].shape[1:])


def linear_gradient(r: Tensor, record: Record, op: Op) -> Sequence[Tensor]:
    return (transpose(r, op.weight, op, input_shape(r, record, op)),)


def relu_gradient(r: Tensor, record: Record, op: Op) -> Sequence[Tensor]:
    # the kernels of autograd, which read A: a bool mask would be turned into floats at every multiplication
    k, a = branches(r, record), record.values[op.output]
    sent = (
        torch.ops.aten.hardtanh_backward(k, a, 0, 6)
        if op.kind == "relu6"
        else torch.ops.aten.threshold_backward(k, a, 0)
    )
    return (sent.flatten(0, 1),)


def reshape_gradient(r: Tensor, record: Record, op: Op) -> Sequence[Tensor]:
    r = r.reshape(input_shape(r, record, op))
    return (r.contiguous(memory_format=memory_format(r.device)) if r.ndim == 4 else r,)


def add_gradient(r: Tensor, record: Record, op: Op) -> Sequence[Tensor]:
    for i in op.inputs:
        if record.values[i].shape != record.values[op.output].shape:
            raise UserError(
                f"the walk does not know the broadcasting addition at {op.where}; "
                "add its gradient to pipeline/engine/gradients.py"
            )
    return (r,) * len(op.inputs)


def concat_gradient(r: Tensor, record: Record, op: Op) -> Sequence[Tensor]:
    dim = record.setting(op, "dim")
    return r.split([record.values[i].shape[dim] for i in op.inputs], dim)


def mean_gradient(r: Tensor, record: Record, op: Op) -> Sequence[Tensor]:
    shape = input_shape(r, record, op)
    dim = record.setting(op, "dim")
    dims = sorted(d % len(shape) for d in ([dim] if isinstance(dim, int) else dim))
    if r.ndim < len(shape):  # keepdim=False
        for d in dims:
            r = r.unsqueeze(d)
    return ((r / math.prod(shape[d] for d in dims)).expand(shape),)


def avg_pool_gradient(r: Tensor, record: Record, op: Op) -> Sequence[Tensor]:
    window, stride, *rest = (record.setting(op, name) for name in op.settings)  # in the order of lowering.AVG_POOL
    like = r.new_empty(()).expand(input_shape(r, record, op))
    return (torch.ops.aten.avg_pool2d_backward(r, like, window, stride or [], *rest),)


def adaptive_avg_pool_gradient(r: Tensor, record: Record, op: Op) -> Sequence[Tensor]:
    shape = input_shape(r, record, op)
    return (r if shape == r.shape else torch.ops.aten._adaptive_avg_pool2d_backward(r, r.new_empty(()).expand(shape)),)


def max_pool_gradient(r: Tensor, record: Record, op: Op) -> Sequence[Tensor]:
    shape, window = input_shape(r, record, op), r.shape[-2:]
    if (routing := pool_routing(record, op)) is None:  # windows overlap
        flat = r.new_zeros((*shape[:2], shape[2] * shape[3]))
        index = record.argmax[op.output].flatten(2)
        branches(flat, record).scatter_add_(
            3, index.expand(r.shape[0] // len(index), *index.shape), branches(r.flatten(2), record)
        )
        return (flat.view(shape).contiguous(memory_format=memory_format(r.device)),)
    out = torch.empty(shape, dtype=r.dtype, device=r.device, memory_format=memory_format(r.device))
    # written through views in the memory format of the convolution below, which would otherwise copy it
    torch.mul(
        branches(r, record)[..., :, None, :, None], tiles(routing, window), out=branches(tiles(out, window), record)
    )
    return (out,)


def tiles(value: Tensor, count: Sequence[int]) -> Tensor:
    """(..., h, w) -> (..., rows, h / rows, columns, w / columns), a view; count = (rows, columns)."""
    return value.unflatten(-1, (count[1], -1)).unflatten(-3, (count[0], -1))


def pool_routing(record: Record, op: Op) -> Tensor | None:
    """1 where an input is its window's maximum, else 0, (B, C, h, w), in r's dtype; None unless each maximum lies in a
    tile of its own."""
    if (key := ("routing", op.output)) not in record.cache:
        index, a = record.argmax[op.output], record.values[op.inputs[0]]
        window, (h, w) = index.shape[-2:], a.shape[-2:]
        hit = torch.zeros_like(a, dtype=torch.bool)
        if h % window[0] == 0 and w % window[1] == 0:
            position = torch.arange(h * w, device=index.device).view(h, w)
            torch.eq(index[..., :, None, :, None], tiles(position, window), out=tiles(hit, window))
        record.cache[key] = hit.to(a.dtype) if hit.count_nonzero() == index.numel() else a.new_empty(0)
    return record.cache[key] if record.cache[key].numel() else None


GRADIENTS: dict[str, Callable[[Tensor, Record, Op], Sequence[Tensor]]] = {
    "conv": linear_gradient,
    "linear": linear_gradient,
    "relu": relu_gradient,
    "relu6": relu_gradient,
    "max_pool": max_pool_gradient,
    "avg_pool": avg_pool_gradient,
    "adaptive_avg_pool": adaptive_avg_pool_gradient,
    "mean": mean_gradient,
    "reshape": reshape_gradient,
    "add": add_gradient,
    "concat": concat_gradient,
    "pad": lambda r, record, op: (torch.nn.functional.pad(r, [-p for p in record.setting(op, "pad")]),),
}
