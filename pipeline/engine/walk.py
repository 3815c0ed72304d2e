"""The reverse walk: one loop over the table of gradients (gradients.py), and the branches of cascade substitution.

A rule may change r at a ReLU, at a conv or linear layer and at a sum; at every other operation each rule is the plain
gradient. Which rule acts in layer l is a function l -> rule, so cascade substitution (19), a start in the middle, and
"the activation here, GBP below" are one mechanism. No autograd, no hooks, no state.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.network import LINEAR, RELU, Record
from pipeline.engine.place import Place
from pipeline.engine.rules import GRAD, Activation, External, Method
from pipeline.errors import UserError

Visit = Callable[[Place, Tensor, Sequence[Tensor]], object]  # where, r at the output, what was sent to each input
Readers = list[list[tuple[int, int]]]  # for each branch, the (index of the rule, N) that it answers
RULED = (*LINEAR, *RELU, "add")  # operations at which a rule has a say
GPU_CHUNK_BYTES = 2**30
# on a CPU: branches go down together while their largest map stays below this: reused, not fresh, memory
CHUNK_BYTES = 32 * 2**20
OUTSIDE = (
    "an external attribution is a map at the input only: call it yourself, or use experiment=cascade rule=external"
)


# ---- the loop --------------------------------------------------------------------------------------------------------


def step(record: Record, layer: int, r: Tensor, rule: Rule = GRAD, visit: Visit | None = None) -> Tensor:
    """r_l -> r_{l-1} through the unit l, under `rule`. With GRAD, r may hold several branches (k B, ...).

    visit(at, r, sent) sees each operation at which a rule has a say: r at its output, and what was sent to each input.
    """
    network = record.network
    waiting = {network.ends[layer]: r}
    for op in reversed(network.unit(layer)):
        r_out = waiting.pop(op.output, None)
        if r_out is None:
            continue
        at, ruled = Place(record, op), op.kind in RULED
        sent = sent_by(rule, r_out, at) if ruled and rule is not GRAD else at.gradient(r_out)
        if visit is not None and ruled:
            visit(at, r_out, sent)
        for i, r_in in zip(op.inputs, sent, strict=False):
            waiting[i] = waiting[i] + r_in if i in waiting else r_in
    return waiting[network.ends[layer - 1]]


def sent_by(rule: Rule, r: Tensor, at: Place) -> Sequence[Tensor]:
    """r at the output of an operation at which the rule has a say -> r at each input."""
    if at.op.kind == "add":
        return rule.add(r, at)
    return (rule.linear(r, at) if at.op.kind in LINEAR else rule.relu(r, at),)


@torch.no_grad()
def walk(
    record: Record,
    r: Tensor,
    rule_at: Callable[[int], Rule],
    top: int,
    bottom: int = 0,
    visit: Visit | None = None,
) -> Tensor:
    """From r_top at A_top down to r_bottom at A_bottom, layer l under the rule `rule_at(l)`; visit: see `step`."""
    for layer in range(top, bottom, -1):
        r = step(record, layer, r, rule_at(layer), visit)
    return r


def unit_scale(r: Tensor) -> Tensor:
    """Largest entry 1 in each sample (0 stays 0): unscaled weights leave float32's range, and every rule is homogeneous
    in r."""
    largest = r.flatten(1).abs().amax(1)
    return r / torch.where(largest > 0, largest, 1).view(-1, *[1] * (r.ndim - 1))


def one_hot(record: Record, target: Tensor | None = None) -> Tensor:
    """e_k (B, K) for the classes `target` (B,), by default the decision."""
    target = record.logits.argmax(1) if target is None else target.to(record.logits.device)
    return torch.nn.functional.one_hot(target, record.logits.shape[1]).to(record.logits.dtype)


@torch.no_grad()
def attribute(record: Record, rule: Method, target: Tensor | None = None, bottom: bool = False) -> Tensor:
    """The attribution map R of `rule` for the classes `target` (B,), by default the decision; shape of x.

    Without `bottom` it is r_0, with layer 1 as the rule's `first_layer` says; with it, the published method's map.
    Raises UserError for the activation and for external attributions, which are no rules.
    """
    if isinstance(rule, Activation):
        raise UserError(
            "the activation starts at a layer l of your choice: walk(record, record.activation(l), lambda _: Gbp(), l)"
        )
    if isinstance(rule, External):
        raise UserError(OUTSIDE)
    acting = rule.with_bottom() if bottom else rule
    r = walk(record, acting.start(one_hot(record, target), record.logits), lambda _: acting, record.network.depth)
    return acting.finish(r, record.x) if bottom else r


# ---- cascade substitution (19) ---------------------------------------------------------------------------------------


@torch.no_grad()
def cascade(
    record: Record, rules: Sequence[Method], target: Tensor | None = None, chunk_bytes: int | None = None
) -> Iterator[tuple[int, int, Tensor]]:
    """Every level N = 0..L of cascade substitution, of every rule, in one descent: yields (index of the rule, N, R_N).

    R_N has the shape of x: the rule in the top N layers, the plain gradient below. The rules' chains go down once;
    at each layer they leave a branch that goes on with the plain gradient. N = 0 is the gradient, shared by all.
    For Activation, R_N starts from A_{L-N}, and N stops at L - 1. Maps come in no particular order; use them at once.
    Raises UserError for an external attribution.
    """
    owners: dict[Rule, dict[int, Rule]] = {}  # rules that differ in layer 1 alone share a chain
    activations = [index for index, rule in enumerate(rules) if isinstance(rule, Activation)]
    for index, rule in enumerate(rules):
        if isinstance(rule, External):
            raise UserError(OUTSIDE)
        if isinstance(rule, Rule):
            owners.setdefault(rule.above_first_layer(), {})[index] = rule
    if not rules:
        return
    depth, gradient, batch = record.network.depth, one_hot(record, target), record.x.shape[0]
    chunk_bytes = chunk_bytes or (CHUNK_BYTES if record.x.device.type == "cpu" else GPU_CHUNK_BYTES)
    chains = {shared: shared.start(gradient, record.logits) for shared in owners}
    parts, readers = [gradient], [[(index, 0) for index in range(len(rules))]]  # the branches, and who reads each
    for layer in range(depth, 0, -1):
        joining = [(r, list(owners[shared])) for shared, r in chains.items()]
        if activations:
            joining.append((record.activation(layer), activations))
        for r, indices in joining if layer < depth else ():
            reading = [(index, depth - layer) for index in indices]
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
        for index, rule in owners[shared].items():
            yield index, depth, step(record, 1, r, rule)


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
