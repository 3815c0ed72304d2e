"""The reverse walk: one loop over the table of gradients (gradients.py), and the branches of cascade substitution.

A rule may change r at a ReLU and at a conv or linear layer; at every other operation each rule is the plain gradient.
Which rule acts in layer l is a function l -> rule, so cascade substitution (19), a start in the middle, and "the
activation here, GBP below" are one mechanism. No autograd, no hooks, no state.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.engine.gradients import GRADIENTS, transpose
from pipeline.engine.network import LINEAR, RELU, Op, Record
from pipeline.engine.rules import GRAD, Activation, External, FirstLayer, Rule
from pipeline.errors import UserError

Readers = list[list[tuple[int, int]]]  # for each branch, the (index of the rule, N) that it answers
GPU_CHUNK_BYTES = 2**30
CHUNK_BYTES = (
    32 * 2**20
)  # on a CPU: branches go down together while their largest map stays below this: reused, not fresh, memory


@dataclass(frozen=True)
class Local:
    """One operation of one forward pass, as the rules see it. Tensors have the record's batch size B."""

    record: Record
    op: Op

    @property
    def input(self) -> Tensor:
        return self.record.values[self.op.inputs[0]]

    @property
    def inputs(self) -> list[Tensor]:
        return [self.record.values[i] for i in self.op.inputs]

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
    def last(self) -> bool:
        return self.op is self.record.network.layers[-1]

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """[l_i, h_i] of each input of a first layer, of its shape; 0 in padding. Raises UserError if the network was traced without them."""
        if self.record.network.bounds is None:
            raise UserError(
                "the z^B rule needs the bounds of the pixels; give trace(...) the mean and std of their normalisation"
            )
        low, high = ({0: bound.to(self.record.x).expand_as(self.record.x)} for bound in self.record.network.bounds)
        for op in self.record.network.unit(1):
            if op.kind == "pad" and op.inputs[0] in low:
                low[op.output], high[op.output] = op.call(low[op.inputs[0]]), op.call(high[op.inputs[0]])
        if self.op.inputs[0] not in low:
            raise UserError(f"the z^B rule knows layers that read the pixels, and {self.op.where} does not")
        return low[self.op.inputs[0]], high[self.op.inputs[0]]

    def gradient(self, r: Tensor) -> Sequence[Tensor]:
        """r at the output -> the plain gradient's r at each input."""
        return GRADIENTS[self.op.kind](r, self.record, self.op)

    def transpose(self, r: Tensor, weight: Tensor) -> Tensor:
        """r at z -> weight r at the input."""
        return transpose(r, weight, self.op, self.input.shape)

    def apply(self, a: Tensor, weight: Tensor) -> Tensor:
        """weight^T a, without bias."""
        if self.op.kind == "linear":
            return torch.nn.functional.linear(a, weight)
        m = self.op.module
        return torch.nn.functional.conv2d(a, weight, None, m.stride, m.padding, m.dilation, m.groups)  # type: ignore[union-attr,arg-type]


# ---- the loop --------------------------------------------------------------------------------------------------------


def step(record: Record, layer: int, r: Tensor, rule: Rule = GRAD) -> Tensor:
    """r_l -> r_{l-1} through the unit l, under `rule`. With GRAD, r may hold several branches (k B, ...)."""
    network = record.network
    by_rule = () if rule is GRAD else LINEAR + RELU + (("add",) if hasattr(rule, "add") else ())
    waiting = {network.ends[layer]: r}
    for op in reversed(network.unit(layer)):
        r_out = waiting.pop(op.output, None)
        if r_out is None:
            continue
        at = Local(record, op)
        if op.kind not in by_rule:
            sent = GRADIENTS[op.kind](r_out, record, op)
        elif op.kind == "add":
            sent = rule.add(r_out, at)  # type: ignore[attr-defined]
        else:
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


def unit_scale(r: Tensor) -> Tensor:
    """Largest entry 1 in each sample (0 stays 0): unscaled weights leave float32's range, and every rule is homogeneous in r."""
    largest = r.flatten(1).abs().amax(1)
    return r / torch.where(largest > 0, largest, 1).view(-1, *[1] * (r.ndim - 1))


def one_hot(record: Record, target: Tensor | None = None) -> Tensor:
    """e_k (B, K) for the classes `target` (B,), by default the decision."""
    target = record.logits.argmax(1) if target is None else target.to(record.logits.device)
    return torch.nn.functional.one_hot(target, record.logits.shape[1]).to(record.logits.dtype)


def inside(rule: Rule) -> None:
    if isinstance(rule, External):
        raise UserError(
            "an external attribution is a map at the input only: call it yourself, or use experiment=cascade rule=external"
        )


@torch.no_grad()
def attribute(record: Record, rule: Rule, target: Tensor | None = None, bottom: bool = False) -> Tensor:
    """The attribution map R of `rule` for the classes `target` (B,), by default the decision; shape of x.

    Without `bottom` it is r_0, with layer 1 as the rule's `first_layer` says; with it, the published method's map.
    """
    if isinstance(rule, Activation):
        raise UserError(
            "the activation starts at a layer of your choice: walk(record, record.activation(l), lambda l: Gbp(), top=l)"
        )
    inside(rule)
    rule = rule.with_bottom() if bottom else rule
    r = walk(record, rule.start(one_hot(record, target), record.logits), lambda layer: rule, record.network.depth)
    return rule.finish(r, record.x) if bottom else r


# ---- cascade substitution (19) ---------------------------------------------------------------------------------------


def above_first_layer(rule: Rule) -> Rule:
    """Rules that differ only in the first layer share the whole descent above it."""
    return (
        replace(rule, first_layer=FirstLayer.plain, bottom=FirstLayer.plain) if hasattr(rule, "first_layer") else rule
    )  # type: ignore[type-var,call-arg]


@torch.no_grad()
def cascade(
    record: Record, rules: Sequence[Rule], target: Tensor | None = None, chunk_bytes: int | None = None
) -> Iterator[tuple[int, int, Tensor]]:
    """Every level N = 0..L of cascade substitution, of every rule, in one descent: yields (index of the rule, N, R_N).

    R_N has the shape of x: the rule in the top N layers, the plain gradient below. The rules' chains go down once;
    at each layer they leave a branch that goes on with the plain gradient. N = 0 is the gradient, shared by all.
    For Activation, R_N starts from A_{L-N}, and N stops at L - 1. Maps come in no particular order; use them at once.
    """
    depth, gradient, batch = record.network.depth, one_hot(record, target), record.x.shape[0]
    chunk_bytes = chunk_bytes or (CHUNK_BYTES if record.x.device.type == "cpu" else GPU_CHUNK_BYTES)
    owners: dict[Rule, list[int]] = {}
    for index, rule in enumerate(rules):
        inside(rule)
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


def descend(
    record: Record, layer: int, stack: Tensor, readers: Readers, chunk_bytes: int
) -> Iterator[tuple[int, int, Tensor]]:
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
