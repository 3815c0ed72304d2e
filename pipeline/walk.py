"""The reverse walk: a table from operations to their gradients, one loop over it, and the branches of cascade substitution.

A rule may change r at a ReLU and at a conv or linear layer; at every other operation each rule is the plain gradient.
Which rule acts in layer l is a function l -> rule, so cascade substitution (19), a start in the middle, and "the
activation here, GBP below" are one mechanism. No autograd, no hooks, no state.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.network import LINEAR, RELU, Op, Record, memory_format
from pipeline.rules import GRAD, Activation, FirstLayer, Rule, ZPlus

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
    size = (r.shape[0], *shape[1:])
    padding = symmetric_padding(m, op.where)
    return torch.nn.grad.conv2d_input(size, weight, r, m.stride, padding, m.dilation, m.groups)  # type: ignore[union-attr,arg-type]


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
    return (transpose(r, op.module.weight, op, record.values[op.inputs[0]].shape),)


def relu_gradient(r, record, op):
    return ((branches(r, record) * record.mask(op)).flatten(0, 1),)


def identity_gradient(r, record, op):
    return (r,)


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


def pad_gradient(r, record, op):
    pad = list(op.settings["pad"])
    return (torch.nn.functional.pad(r, [-p for p in pad]),)


def mean_gradient(r, record, op):
    shape = input_shape(r, record, op)
    dim = op.settings["dim"]
    dims = sorted(d % len(shape) for d in ([dim] if isinstance(dim, int) else dim))
    if r.ndim < len(shape):  # keepdim=False
        for d in dims:
            r = r.unsqueeze(d)
    count = 1
    for d in dims:
        count *= shape[d]
    return ((r / count).expand(shape),)


def avg_pool_gradient(r, record, op):
    s = op.settings
    pair = lambda v: [v, v] if isinstance(v, int) else list(v or [])  # noqa: E731
    like = r.new_empty(()).expand(input_shape(r, record, op))
    stride = s["kernel_size"] if s["stride"] is None else s["stride"]
    return (torch.ops.aten.avg_pool2d_backward(r, like, pair(s["kernel_size"]), pair(stride), pair(s["padding"]), s["ceil_mode"], s["count_include_pad"], s["divisor_override"]),)


def adaptive_avg_pool_gradient(r, record, op):
    shape = input_shape(r, record, op)
    if shape == r.shape:
        return (r,)
    return (torch.ops.aten._adaptive_avg_pool2d_backward(r, r.new_empty(()).expand(shape)),)


def max_pool_gradient(r, record, op):
    k, (h, w) = branches(r, record), record.values[op.inputs[0]].shape[-2:]
    ph, pw = r.shape[-2:]
    if h % ph == 0 and w % pw == 0 and windows_tile(record, op, h // ph, w // pw):
        routing = pool_routing(record, op, h, w)  # (B, C, ph, h/ph, pw, w/pw)
        spread = k[..., :, None, :, None] * routing
        return (spread.reshape(r.shape[0], r.shape[1], h, w),)
    flat = r.new_zeros((*k.shape[:3], h * w))
    index = record.argmax[op.output].flatten(2).expand(*k.shape[:3], -1)
    flat.scatter_add_(3, index, k.flatten(3))
    out = flat.view(input_shape(r, record, op))
    return (out.contiguous(memory_format=memory_format(r.device)),)


def windows_tile(record: Record, op: Op, height: int, width: int) -> bool:
    """Whether each maximum lies within its own height x width tile, so that routing is a mask on tiles."""
    key = ("tiles", op.output)
    if key not in record.cache:
        index, w = record.argmax[op.output], record.values[op.inputs[0]].shape[-1]
        rows = torch.arange(index.shape[-2], device=index.device).view(-1, 1)
        columns = torch.arange(index.shape[-1], device=index.device)
        record.cache[key] = ((index // w // height == rows) & (index % w // width == columns)).all()
    return bool(record.cache[key])


def pool_routing(record: Record, op: Op, h: int, w: int) -> Tensor:
    """Which input of each tile was the maximum, bool (B, C, ph, h/ph, pw, w/pw)."""
    key = ("routing", op.output)
    if key not in record.cache:
        index = record.argmax[op.output]
        ph, pw = index.shape[-2:]
        position = torch.arange(h * w, device=index.device).view(ph, h // ph, pw, w // pw)
        record.cache[key] = index[..., :, None, :, None] == position
    return record.cache[key]


GRADIENTS: dict[str, Callable[[Tensor, Record, Op], Sequence[Tensor]]] = {
    "conv": linear_gradient,
    "linear": linear_gradient,
    "relu": relu_gradient,
    "relu6": relu_gradient,
    "max_pool": max_pool_gradient,
    "avg_pool": avg_pool_gradient,
    "adaptive_avg_pool": adaptive_avg_pool_gradient,
    "mean": mean_gradient,
    "identity": identity_gradient,
    "reshape": reshape_gradient,
    "add": add_gradient,
    "concat": concat_gradient,
    "pad": pad_gradient,
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
    depth, gradient = record.network.depth, one_hot(record, target)
    owners: dict[Rule, list[int]] = {}
    for index, rule in enumerate(rules):
        owners.setdefault(above_first_layer(rule), []).append(index)
    chains = {shared: shared.start(gradient, record.logits) for shared in owners if not isinstance(shared, Activation)}
    everyone = list(range(len(rules)))
    stack, labels = gradient, [(everyone, 0)]
    for layer in range(depth, 0, -1):
        if layer < depth:
            joining = {shared: r for shared, r in chains.items()}
            joining |= {shared: record.activation(layer) for shared in owners if isinstance(shared, Activation)}
            stack = torch.cat([stack, *joining.values()])
            labels += [(owners[shared], depth - layer) for shared in joining]
        if largest_map(record, layer, stack) > chunk_bytes:
            yield from descend(record, layer, stack, labels, chunk_bytes)
            stack, labels = stack[:0], []
        else:
            stack = step(record, layer, stack)
        if layer > 1:
            chains = {shared: step(record, layer, r, shared) for shared, r in chains.items()}
    yield from unstack(record, stack, labels)
    for shared, r in chains.items():
        for index in owners[shared]:
            yield index, depth, step(record, 1, r, rules[index])


def descend(record: Record, layer: int, stack: Tensor, labels: list, chunk_bytes: int) -> Iterator[tuple[int, int, Tensor]]:
    """Branches waiting at A_layer, down to the input in chunks whose maps stay below `chunk_bytes` where they can."""
    if layer == 0:
        yield from unstack(record, stack, labels)
        return
    batch = record.x.shape[0]
    size = max(1, int(chunk_bytes * len(labels) / largest_map(record, layer, stack)))
    for at in range(0, len(labels), size):
        chunk = step(record, layer, stack[at * batch : (at + size) * batch])
        yield from descend(record, layer - 1, chunk, labels[at : at + size], chunk_bytes)


def unstack(record: Record, stack: Tensor, labels: list) -> Iterator[tuple[int, int, Tensor]]:
    for maps, (indices, n) in zip(stack.split(record.x.shape[0]), labels, strict=False):
        for index in indices:
            yield index, n, maps


def largest_map(record: Record, layer: int, stack: Tensor) -> int:
    """Bytes of the largest tensor that the branches pass in the unit `layer`."""
    batch = record.x.shape[0]
    elements = max(record.values[op.output].numel() // batch for op in record.network.unit(layer) if op.kind != "shape")
    return elements * stack.shape[0] * stack.element_size()
