"""A traced network: a flat list of operations in which the paper's layers l = 1..L are numbered, and a forward pass
that records.

`trace` turns an nn.Module into a Network: torch.fx graph, BatchNorm folded, in-place operations undone, each operation
given a kind (a key of gradients.GRADIENTS) and the unit l it belongs to. `Network.forward` keeps values in a Record.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from pipeline.engine.graph import fold_batch_norm, functionalise, graph_of
from pipeline.engine.lowering import LINEAR, RELU, Op, Position, lower
from pipeline.errors import UserError


@dataclass(frozen=True)
class Record:
    """What one forward pass left: every value in float form, for a batch of B samples.

    values: outputs by position, values[0] = x (B, C, H, W); argmax: flat positions of the maxima of each max-pool.
    """

    network: "Network"
    values: list[Any]
    argmax: dict[int, Tensor]
    cache: dict[Any, Tensor] = field(default_factory=dict)

    @property
    def x(self) -> Tensor:
        return self.values[0]

    @property
    def logits(self) -> Tensor:  # (B, K)
        return self.values[self.network.ops[-1].output]

    def activation(self, layer: int) -> Tensor:
        """A_l: the output of layer l's ReLU, before any pool; A_0 = x, A_L = the logits."""
        return self.values[self.network.ends[layer]]

    def setting(self, op: Op, name: str) -> Any:
        """A setting of an operation, with the numbers that the forward pass computed filled in."""
        return map_aggregate(op.settings[name], lambda v: self.values[v.value] if isinstance(v, Position) else v)

    def mask(self, op: Op) -> Tensor:
        """The ReLU mask M of (3), bool, (B, ...)."""
        if (key := ("mask", op.output)) not in self.cache:
            a = self.values[op.output]
            self.cache[key] = (a > 0) & (a < 6) if op.kind == "relu6" else a > 0
        return self.cache[key]


@dataclass(frozen=True)
class Network:
    """A traced network of L layers.

    module: the folded network as an nn.Module that computes the same function; ops: its operations in order;
    ends: position of A_l in Record.values, l = 0..L; layers: the conv and linear operations in order, with `names`;
    bounds: per-channel [l_i, h_i] of normalised pixels, each (C, 1, 1) float64, for the z^B rule.
    """

    module: fx.GraphModule
    ops: tuple[Op, ...]
    ends: tuple[int, ...]
    names: tuple[str, ...]
    bounds: tuple[Tensor, Tensor] | None

    @property
    def depth(self) -> int:
        """L."""
        return len(self.ends) - 1

    @cached_property
    def layers(self) -> tuple[Op, ...]:
        return tuple(op for op in self.ops if op.kind in LINEAR)

    def unit(self, layer: int) -> list[Op]:
        """The operations from A_{l-1} to A_l."""
        return self._units[layer]

    @cached_property
    def _units(self) -> dict[int, list[Op]]:
        return {layer: list(ops) for layer, ops in groupby(self.ops, attrgetter("unit"))}

    def unit_name(self, layer: int) -> str:
        """The name of layer l: of its conv or linear layer, or of the block that holds several; "" of no layer."""
        inside = [(name, op.where) for name, op in zip(self.names, self.layers, strict=True) if op.unit == layer]
        names, paths = ([layer[i] for layer in inside] for i in range(2))
        return "".join(names) if len(names) < 2 else common_path(names) or common_path(paths) or "+".join(names)

    def numbers(self, names: Sequence[str] | None) -> list[int]:
        """l of the layers below the output with these names, in order; of all of them without.

        Raises UserError for a name that is none.
        """
        below = [(self.unit_name(layer), layer) for layer in range(1, self.depth)]
        unknown = [name for name in names or () if name not in dict(below)]
        if unknown:
            raise UserError(
                f"the model has no layer {unknown[0]} below its output; its layers are {', '.join(dict(below))}"
            )
        return [layer for name, layer in below if not names or name in names]

    @cached_property
    def used_last(self) -> dict[int, list[int]]:
        """The values that no operation after this one reads, by its output."""
        found: dict[int, list[int]] = {op.output: [] for op in self.ops}
        for position, output in {i: op.output for op in self.ops for i in op.inputs}.items():
            found[output].append(position)
        return found

    @torch.no_grad()
    def forward(
        self, x: Tensor, visit: Callable[[Op, Any], Any] | None = None, keep: Sequence[int] | None = None
    ) -> Record:
        """Run the network on x (B, C, H, W) and record.

        `visit(op, value)` may replace a value (used to calibrate BatchNorm); keep: the positions of what is recorded
        beside the logits, by default all: other values go after their last use, and their memory is used again.
        """
        values: list[Any] = [None] * (self.ops[-1].output + 1)
        argmax: dict[int, Tensor] = {}
        values[0] = x.contiguous(memory_format=memory_format(x.device)) if x.ndim == 4 else x
        for op in self.ops:
            value = op.call(*(values[i] for i in op.inputs))
            if op.kind == "max_pool":
                value, argmax[op.output] = value
            values[op.output] = value if visit is None else visit(op, value)
            if keep is not None:
                for position in set(self.used_last[op.output]) - set(keep):
                    values[position] = None
        if value.ndim != 2:
            raise UserError(
                f"the model returns a tensor of shape {tuple(value.shape)}; it must return logits, "
                "one row of classes per image (flatten its output)"
            )
        return Record(self, values, argmax)


def once(kept: dict[Any, Tensor], key: Any, find: Callable[[], Tensor], room: int) -> Tensor:
    """kept[key]; what is not there is found, and kept while all of it together takes `room` bytes at most."""
    if key in kept:
        return kept[key]
    found = find()
    if sum(tensor.nbytes for tensor in kept.values()) + found.nbytes <= room:
        kept[key] = found
    return found


def memory_format(device: torch.device) -> torch.memory_format:
    """Convolutions of the CPU are up to twice as fast in channels_last; float32 ones of the GPU are not."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def common_path(names: list[str]) -> str:
    """layer1.0.conv1, layer1.0.conv2 -> layer1.0; "" where they share nothing."""
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return ".".join(parts[0][:shared])


def trace(
    model: nn.Module,
    *,
    names: Iterable[str] | None = None,
    mean: Iterable[float] | None = None,
    std: Iterable[float] | None = None,
    batch_norm: str = "fold",
    units: Iterable[str] = (),
    keep: bool = True,
) -> Network:
    """Trace a classifier in evaluation mode. `model` is left as it is, unless `keep` is false: then its parameters
    become the network's, which saves their memory.

    names: one for each conv and linear layer in order (default: the module paths); mean, std: of the pixel
    normalisation, needed only by the z^B rule; batch_norm: "fold" it into its convolution, or "drop" it as an identity;
    units: module paths, each of which holds the layers of one unit l (blocks.0; blocks.*: every child of blocks), where
    the graph alone would make several. Raises UserError for a model that torch.fx can't trace, an operation that the
    walk doesn't know, and units that the graph has not.
    """
    model = (copy.deepcopy(model) if keep else model).eval().requires_grad_(False)
    try:
        module = graph_of(model)
    except Exception as error:  # fx raises many kinds; all mean the same to the user
        raise UserError(
            f"torch.fx can't trace {type(model).__name__} ({str(error).splitlines()[0]}); "
            "rewrite its forward without control flow that depends on values"
        ) from error
    module.to(memory_format=memory_format(next((p.device for p in module.parameters()), torch.device("cpu"))))
    functionalise(module)
    normalised = fold_batch_norm(module, batch_norm)
    ops, output = number_units(*lower(module, normalised), tuple(units))
    layer_names = tuple(names) if names is not None else tuple(op.where for op in ops if op.kind in LINEAR)
    bounds = None
    if mean is not None and std is not None:
        m, s = (torch.tensor(list(v), dtype=torch.float64).view(-1, 1, 1) for v in (mean, std))
        bounds = ((0 - m) / s, (1 - m) / s)
    return Network(module, tuple(ops), output, layer_names, bounds)


def number_units(ops: list[Op], output: int, paths: Sequence[str] = ()) -> tuple[list[Op], tuple[int, ...]]:
    """Keep what leads from x to the output, find the units l = 1..L, and give each operation its unit.

    A unit runs from one cut vertex of the graph (a value that every path passes) to another and holds at least one
    conv or linear layer; it ends at the ReLU after it if there is one, before any pool, else where its last layer
    (or the sum of its branches) does. So VGG's layers are units, and so are a ResNet's blocks. Layers under one of the
    module `paths` share a unit.
    Raises UserError for a path that holds no layer, or that begins or ends at no cut vertex.
    """
    depends, needed = {0}, {output}
    for op in ops:
        if op.kind != "shape" and depends & set(op.inputs):
            depends.add(op.output)
    for op in reversed(ops):
        if op.output in needed:
            needed.update(op.inputs)
    ops = [op for op in ops if op.output in needed]
    flow = [op for op in ops if op.output in depends]
    if output not in depends or not any(op.kind in LINEAR for op in flow):
        raise UserError("the model has no convolution or linear layer between its input and its output")
    held = layers_under(flow, paths)
    last_of = {path: output for output, path in held.items()}  # held is in order
    last_use: dict[int, int] = {}
    for op in flow:
        last_use.update({i: op.output for i in op.inputs if i in depends})
    ends, pending, closed, until = [0], False, False, 0  # until: where the last layer of the paths met so far is
    reach = last_use[0]  # the last use of anything computed so far
    for op in flow:
        pending |= op.kind in LINEAR
        if op.output in held:
            until = max(until, last_of[held[op.output]])
        is_cut = reach <= op.output
        reach = max(reach, last_use.get(op.output, 0))
        if closed and is_cut and op.kind in RELU:
            ends[-1] = op.output
        closed = False
        if pending and is_cut and op.output >= until:
            ends.append(op.output)
            pending, closed = False, True
    ends[-1] = output
    numbered, unit, seen_linear = [], 1, {0: False}
    for op in ops:
        while unit < len(ends) - 1 and op.output > ends[unit]:
            unit += 1
        below = any(seen_linear.get(i, False) for i in op.inputs)
        numbered.append(replace(op, unit=unit, first=op.kind in LINEAR and not below))
        seen_linear[op.output] = below or op.kind in LINEAR
    check_units([op for op in numbered if op.kind in LINEAR], held)
    return numbered, tuple(ends)


def layers_under(ops: list[Op], paths: Sequence[str]) -> dict[int, str]:
    """{output of a conv or linear layer: the module path that holds it}, in order; `paths` may have * between dots.

    Raises UserError for a path that holds no layer, and for a layer that two paths hold.
    """
    layers, held = [op for op in ops if op.kind in LINEAR], {}
    for path in paths:
        parts, met = path.split("."), False
        for op in layers:
            inside = op.where.split(".")
            if len(inside) < len(parts) or not all(map(fnmatchcase, inside, parts)):
                continue
            found, met = ".".join(inside[: len(parts)]), True
            if held.setdefault(op.output, found) != found:
                raise UserError(
                    f"the layer {op.where} lies under two of the units, {held[op.output]} and {found}; "
                    "leave one of them out"
                )
        if not met:
            shown = [op.where for op in layers[:4]] + ["..."] * (len(layers) > 4)
            raise UserError(
                f"no layer lies under the unit {path}; "
                f"set units to module paths of the model, whose layers are {', '.join(shown)}"
            )
    return dict(sorted(held.items()))


def check_units(layers: list[Op], held: dict[int, str]) -> None:
    """A path's unit must hold that path's layers alone; if not, the graph has no cut vertex on one side of it."""
    path_of = {op.unit: held[op.output] for op in layers if op.output in held}
    for op in layers:
        path = path_of.get(op.unit)
        if path is not None and held.get(op.output) != path:
            raise UserError(
                f"the unit {path} can't be cut out of the network, for {op.where} runs beside it; "
                "set units to a module that holds both"
            )
