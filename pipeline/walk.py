"""The reverse walk: a table from operations to their gradients, one loop over it, and the branches of cascade substitution.

A rule may change r at a ReLU and at a conv or linear layer; at every other operation each rule is the plain gradient.
Which rule acts in layer l is a function l -> rule, so cascade substitution (19), a start in the middle, and "the
activation here, GBP below" are one mechanism. No autograd, no hooks, no state.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.network import LINEAR, RELU, Op, Record, memory_format
from pipeline.rules import GRAD, Activation, FirstLayer, Rule, ZPlus

Readers = list[list[tuple[int, int]]]  # for each branch, the (index of the rule, N) that it answers
CHUNK_BYTES = 32 * 2**20  # branches go down together while their largest map stays below this: reused, not fresh, memory


@dataclass(frozen=True)
class Local:
    """One operation of one forward pass, as the rules see it. Tensors have the record's batch size B."""

    record: Record
    op: Op

    @property
    def input(self) -> Tensor:
        return self.record.values[self.op.inputs[0]]

    @property
    def output(self) -> Tensor:
        return self.record.values[self.op.output]

    @property
    def mask(self) -> Tensor:
        return self.record.mask(self.op)

    @property
    def gain(self) -> Tensor:
        """sigma(z) / z, 0 at z = 0: the mask of a ReLU, but for what a ReLU6 saturates."""
        if self.op.kind == "relu":
            return self.mask
        return torch.where(self.input > 0, self.output / self.input, 0)

    @property
    def weight(self) -> Tensor:
        return self.op.module.weight  # type: ignore[union-attr,return-value]

    @property
    def first(self) -> bool:
        return self.op.first

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """[l_i, h_i] of normalised pixels, each (C, 1, 1). Raises UserError if the network was traced without them."""
        if self.record.network.bounds is None:
            raise UserError("the z^B rule needs the bounds of the pixels; give trace(...) the mean and std of their normalisation")
        low, high = self.record.network.bounds
        return low.to(self.input), high.to(self.input)

    def transpose(self, r: Tensor, weight: Tensor) -> Tensor:
        """r at z -> weight r at the input."""
        return transpose(r, weight, self.op, self.input.shape)

    def apply(self, a: Tensor, weight: Tensor) -> Tensor:
        """weight^T a, without bias."""
        if self.op.kind == "linear":
            return torch.nn.functional.linear(a, weight)
        m = self.op.module
        return torch.nn.functional.conv2d(a, weight, None, m.stride, m.padding, m.dilation, m.groups)  # type: ignore[union-attr,arg-type]


def transpose(r: Tensor, weight: Tensor, op: Op, shape: Sequence[int]) -> Tensor:
    """The transpose of a conv or linear layer with `weight`, applied to r; `shape` is that of its input, without regard to dimension 0."""
    if op.kind == "linear":
        return r @ weight
    m = op.module
    padding = symmetric_padding(m, op.where)
    # torch.nn.grad.conv2d_input costs a copy of the input's size; here it only gives its shape and is never touched
    like = torch.empty((r.shape[0], *shape[1:]), dtype=r.dtype, device=r.device, memory_format=memory_format(r.device))
    return torch.ops.aten.convolution_backward(r, like, weight, None, m.stride, padding, m.dilation, False, [0, 0], m.groups, [True, False, False])[0]  # type: ignore[union-attr]


def symmetric_padding(m, where: str) -> tuple[int, ...]:
    if m.padding == "valid":
        return (0, 0)
    if m.padding == "same":
        total = [d * (k - 1) for d, k in zip(m.dilation, m.kernel_size, strict=True)]
        if any(t % 2 for t in total):
            raise UserError(f"the walk does not know the asymmetric padding 'same' of {where}; pad with ZeroPad2d instead")
        return tuple(t // 2 for t in total)
    return m.padding


# ---- the plain gradient of every operation: (r, record, op) -> one r per input -------------------------------------
# r may hold k branches of the record's B samples, branch-major: (k B, ...).


def branches(r: Tensor, record: Record) -> Tensor:
    """(k B, ...) -> (k, B, ...), to meet tensors of the record."""
    return r.unflatten(0, (-1, record.x.shape[0]))


def input_shape(r: Tensor, record: Record, op: Op) -> tuple[int, ...]:
    return (r.shape[0], *record.values[op.inputs[0]].shape[1:])


def linear_gradient(r, record, op):
    return (transpose(r, op.module.weight, op, input_shape(r, record, op)),)


def relu_gradient(r, record, op):
    # the kernels of autograd, which read A: a bool mask would be turned into floats at every multiplication
    k, a = branches(r, record), record.values[op.output]
    sent = torch.ops.aten.hardtanh_backward(k, a, 0, 6) if op.kind == "relu6" else torch.ops.aten.threshold_backward(k, a, 0)
    return (sent.flatten(0, 1),)


def reshape_gradient(r, record, op):
    r = r.reshape(input_shape(r, record, op))
    return (r.contiguous(memory_format=memory_format(r.device)) if r.ndim == 4 else r,)


def add_gradient(r, record, op):
    for i in op.inputs:
        if record.values[i].shape != record.values[op.output].shape:
            raise UserError(f"the walk does not know the broadcasting addition at {op.where}; add its gradient to pipeline/walk.py")
    return (r,) * len(op.inputs)


def concat_gradient(r, record, op):
    dim = op.settings["dim"]
    return r.split([record.values[i].shape[dim] for i in op.inputs], dim)


def mean_gradient(r, record, op):
    shape = input_shape(r, record, op)
    dim = op.settings["dim"]
    dims = sorted(d % len(shape) for d in ([dim] if isinstance(dim, int) else dim))
    if r.ndim < len(shape):  # keepdim=False
        for d in dims:
            r = r.unsqueeze(d)
    return ((r / math.prod(shape[d] for d in dims)).expand(shape),)


def avg_pool_gradient(r, record, op):
    s = op.settings
    window, stride, padding = ([v, v] if isinstance(v, int) else list(v or []) for v in (s["kernel_size"], s["stride"], s["padding"]))
    like = r.new_empty(()).expand(input_shape(r, record, op))
    return (torch.ops.aten.avg_pool2d_backward(r, like, window, stride, padding, s["ceil_mode"], s["count_include_pad"], s["divisor_override"]),)


def adaptive_avg_pool_gradient(r, record, op):
    shape = input_shape(r, record, op)
    return (r if shape == r.shape else torch.ops.aten._adaptive_avg_pool2d_backward(r, r.new_empty(()).expand(shape)),)


def max_pool_gradient(r, record, op):
    shape, window = input_shape(r, record, op), r.shape[-2:]
    if (routing := pool_routing(record, op)) is None:  # windows overlap
        flat = r.new_zeros((*shape[:2], shape[2] * shape[3]))
        index = record.argmax[op.output].flatten(2)
        branches(flat, record).scatter_add_(3, index.expand(r.shape[0] // len(index), *index.shape), branches(r.flatten(2), record))
        return (flat.view(shape).contiguous(memory_format=memory_format(r.device)),)
    out = torch.empty(shape, dtype=r.dtype, device=r.device, memory_format=memory_format(r.device))
    # written through views in the memory format of the convolution below, which would otherwise copy it
    torch.mul(branches(r, record)[..., :, None, :, None], tiles(routing, window), out=branches(tiles(out, window), record))
    return (out,)


def tiles(value: Tensor, count: Sequence[int]) -> Tensor:
    """(..., h, w) -> (..., rows, h / rows, columns, w / columns), a view; count = (rows, columns)."""
    return value.unflatten(-1, (count[1], -1)).unflatten(-3, (count[0], -1))


def pool_routing(record: Record, op: Op) -> Tensor | None:
    """1 where an input is its window's maximum, else 0, (B, C, h, w), in r's dtype; None unless each maximum lies in a tile of its own."""
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
    "identity": lambda r, record, op: (r,),
    "reshape": reshape_gradient,
    "add": add_gradient,
    "concat": concat_gradient,
    "pad": lambda r, record, op: (torch.nn.functional.pad(r, [-p for p in op.settings["pad"]]),),
}


# ---- the loop --------------------------------------------------------------------------------------------------------


def step(record: Record, layer: int, r: Tensor, rule: Rule = GRAD) -> Tensor:
    """r_l -> r_{l-1} through the unit l, under `rule`. With GRAD, r may hold several branches (k B, ...)."""
    network = record.network
    waiting = {network.ends[layer]: r}
    for op in reversed(network.unit(layer)):
        r_out = waiting.pop(op.output, None)
        if r_out is None:
            continue
        if rule is GRAD or op.kind not in LINEAR + RELU:
            sent = GRADIENTS[op.kind](r_out, record, op)
        else:
            at = Local(record, op)
            sent = (rule.linear(r_out, at) if op.kind in LINEAR else rule.relu(r_out, at),)
        for i, r_in in zip(op.inputs, sent, strict=False):
            waiting[i] = waiting[i] + r_in if i in waiting else r_in
    return waiting[network.ends[layer - 1]]


@torch.no_grad()
def walk(record: Record, r: Tensor, rule_at: Callable[[int], Rule], top: int, bottom: int = 0) -> Tensor:
    """From r_top at A_top down to r_bottom at A_bottom, layer l under the rule `rule_at(l)`."""
    for layer in range(top, bottom, -1):
        r = step(record, layer, r, rule_at(layer))
    return r


def one_hot(record: Record, target: Tensor | None = None) -> Tensor:
    """e_k (B, K) for the classes `target` (B,), by default the decision."""
    target = record.logits.argmax(1) if target is None else target.to(record.logits.device)
    return torch.nn.functional.one_hot(target, record.logits.shape[1]).to(record.logits.dtype)


@torch.no_grad()
def attribute(record: Record, rule: Rule, target: Tensor | None = None, bottom: bool = False) -> Tensor:
    """The attribution map R of `rule` for the classes `target` (B,), by default the decision; shape of x.

    Without `bottom` it is r_0, with layer 1 as the rule's `first_layer` says; with it, the published method's map.
    """
    if isinstance(rule, Activation):
        raise UserError("the activation starts at a layer of your choice: walk(record, record.activation(l), lambda l: Gbp(), top=l)")
    rule = rule.with_bottom() if bottom else rule
    r = walk(record, rule.start(one_hot(record, target), record.logits), lambda layer: rule, record.network.depth)
    return rule.finish(r, record.x) if bottom else r


# ---- cascade substitution (19) ---------------------------------------------------------------------------------------


def above_first_layer(rule: Rule) -> Rule:
    """Rules that differ only in the first layer share the whole descent above it."""
    return replace(rule, first_layer=FirstLayer.plain, bottom=FirstLayer.plain) if isinstance(rule, ZPlus) else rule


@torch.no_grad()
def cascade(record: Record, rules: Sequence[Rule], target: Tensor | None = None, chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[int, int, Tensor]]:
    """Every level N = 0..L of cascade substitution, of every rule, in one descent: yields (index of the rule, N, R_N).

    R_N has the shape of x: the rule in the top N layers, the plain gradient below. The rules' chains go down once;
    at each layer they leave a branch that goes on with the plain gradient. N = 0 is the gradient, shared by all.
    For Activation, R_N starts from A_{L-N}, and N stops at L - 1. Maps come in no particular order; use them at once.
    """
    depth, gradient, batch = record.network.depth, one_hot(record, target), record.x.shape[0]
    owners: dict[Rule, list[int]] = {}
    for index, rule in enumerate(rules):
        owners.setdefault(above_first_layer(rule), []).append(index)
    chains = {shared: shared.start(gradient, record.logits) for shared in owners if not isinstance(shared, Activation)}
    parts, readers = [gradient], [[(index, 0) for index in range(len(rules))]]  # the branches, and who reads each
    for layer in range(depth, 0, -1):
        joining = chains | {shared: record.activation(layer) for shared in owners if isinstance(shared, Activation)}
        for shared, r in joining.items() if layer < depth else ():
            reading = [(index, depth - layer) for index in owners[shared]]
            if layer == depth - 1 and parts and torch.equal(r, parts[0][:batch]):  # no ReLU above: still the gradient
                readers[0] += reading
            else:
                parts.append(r)
                readers.append(reading)
        stack = torch.cat(parts) if len(parts) > 1 else parts[0]
        if largest_map(record, layer, stack) > chunk_bytes:
            yield from descend(record, layer, stack, readers, chunk_bytes)
            parts, readers = [], []
        else:
            parts = [step(record, layer, stack)]
        if layer > 1:
            chains = {shared: step(record, layer, r, shared) for shared, r in chains.items()}
    if parts:
        yield from unstack(record, parts[0], readers)
    for shared, r in chains.items():
        for index in owners[shared]:
            yield index, depth, step(record, 1, r, rules[index])


def descend(record: Record, layer: int, stack: Tensor, readers: Readers, chunk_bytes: int) -> Iterator[tuple[int, int, Tensor]]:
    """Branches waiting at A_layer, down to the input in chunks whose maps stay below `chunk_bytes` where they can."""
    if layer == 0:
        yield from unstack(record, stack, readers)
        return
    batch = record.x.shape[0]
    size = max(1, chunk_bytes * len(readers) // largest_map(record, layer, stack))
    for at in range(0, len(readers), size):
        chunk = step(record, layer, stack[at * batch : (at + size) * batch])
        yield from descend(record, layer - 1, chunk, readers[at : at + size], chunk_bytes)


def unstack(record: Record, stack: Tensor, readers: Readers) -> Iterator[tuple[int, int, Tensor]]:
    for maps, reading in zip(stack.split(record.x.shape[0]), readers, strict=True):
        for index, n in reading:
            yield index, n, maps


def largest_map(record: Record, layer: int, stack: Tensor) -> int:
    """Bytes of the largest tensor that the branches pass in the unit `layer`."""
    batch = record.x.shape[0]
    elements = max(record.values[op.output].numel() // batch for op in record.network.unit(layer) if op.kind != "shape")
    return elements * stack.shape[0] * stack.element_size()
