"""A traced network: a flat list of operations in which the paper's layers l = 1..L are numbered, and a forward pass that records.

`trace` turns an nn.Module into a Network: torch.fx graph, BatchNorm folded, in-place operations undone, each operation
given a kind (a key of walk.GRADIENTS) and the unit l it belongs to. `Network.forward` keeps every value in a Record.
"""

import copy
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from pipeline.errors import UserError

LINEAR = ("conv", "linear")
RELU = ("relu", "relu6")
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)

# What a node of the fx graph is, by its module's type, function or method. "shape" yields no tensor.
KINDS: dict[Any, str] = {
    nn.Conv2d: "conv", nn.Linear: "linear", nn.ReLU: "relu", nn.ReLU6: "relu6",
    nn.MaxPool2d: "max_pool", nn.AdaptiveMaxPool2d: "max_pool", nn.AvgPool2d: "avg_pool", nn.AdaptiveAvgPool2d: "adaptive_avg_pool",
    nn.Dropout: "identity", nn.Dropout2d: "identity", nn.Identity: "identity", nn.Flatten: "reshape", nn.ZeroPad2d: "pad",
    F.relu: "relu", F.relu_: "relu", torch.relu: "relu", torch.relu_: "relu", "relu": "relu", "relu_": "relu", F.relu6: "relu6",
    F.max_pool2d: "max_pool", torch.max_pool2d: "max_pool", F.adaptive_max_pool2d: "max_pool",
    F.avg_pool2d: "avg_pool", F.adaptive_avg_pool2d: "adaptive_avg_pool", torch.mean: "mean", "mean": "mean",
    F.dropout: "identity", torch.dropout: "identity", "contiguous": "identity", F.pad: "pad",
    torch.flatten: "reshape", torch.reshape: "reshape", "flatten": "reshape", "view": "reshape", "reshape": "reshape",
    operator.add: "add", operator.iadd: "add", torch.add: "add", "add": "add", "add_": "add",
    torch.cat: "concat", torch.concat: "concat",
    "size": "shape", getattr: "shape", operator.getitem: "shape", operator.mul: "shape", operator.floordiv: "shape",
}  # fmt: skip
POOLS = {  # functions that also return where each maximum was
    F.max_pool2d: F.max_pool2d_with_indices,
    torch.max_pool2d: F.max_pool2d_with_indices,
    F.adaptive_max_pool2d: F.adaptive_max_pool2d_with_indices,
}


@dataclass(frozen=True)
class Op:
    """One operation. `inputs` and `output` are positions in Record.values (0 is x); `unit` is the l it belongs to;
    `first` marks a linear layer with none below it; `where` names it in messages; `module` holds a layer's parameters."""

    kind: str
    inputs: tuple[int, ...]
    output: int
    call: Callable[..., Any]
    where: str
    module: nn.Module | None = None
    unit: int = 0
    first: bool = False
    norm: str = ""  # the BatchNorm that followed it
    settings: dict[str, Any] = field(default_factory=dict)


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
    bounds: per-channel [l_i, h_i] of normalised pixels, each (C, 1, 1), for the z^B rule.
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
        units: dict[int, list[Op]] = {layer: [] for layer in range(1, self.depth + 1)}
        for op in self.ops:
            units[op.unit].append(op)
        return units

    def unit_name(self, layer: int) -> str:
        """The name of layer l: of its conv or linear layer, or of the block that holds several."""
        names = [name for name, op in zip(self.names, self.layers, strict=True) if op.unit == layer]
        return names[0] if len(names) == 1 else common_path(names)

    @torch.no_grad()
    def forward(self, x: Tensor, visit: Callable[[Op, Any], Any] | None = None) -> Record:
        """Run the network on x (B, C, H, W) and record. `visit(op, value)` may replace a value (used to calibrate BatchNorm)."""
        values: list[Any] = [None] * (self.ops[-1].output + 1)
        argmax: dict[int, Tensor] = {}
        values[0] = x.contiguous(memory_format=memory_format(x.device)) if x.ndim == 4 else x
        for op in self.ops:
            value = op.call(*(values[i] for i in op.inputs))
            if op.kind == "max_pool":
                value, argmax[op.output] = value
            if op.kind == "shape" and isinstance(value, Tensor):
                raise UserError(f"the walk does not know the operation that yields {op.where}; add its gradient to pipeline/walk.py")
            values[op.output] = value if visit is None else visit(op, value)
        return Record(self, values, argmax)


def memory_format(device: torch.device) -> torch.memory_format:
    """Convolutions of the CPU are up to twice as fast in channels_last; float32 ones of the GPU are not."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def common_path(names: list[str]) -> str:
    """layer1.0.conv1, layer1.0.conv2 -> layer1.0"""
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return ".".join(parts[0][:shared]) or "+".join(names)


def trace(
    model: nn.Module,
    *,
    names: Iterable[str] | None = None,
    mean: Iterable[float] | None = None,
    std: Iterable[float] | None = None,
    batch_norm: str = "fold",
) -> Network:
    """Trace a classifier in evaluation mode. `model` is left as it is.

    names: one for each conv and linear layer in order (default: the module paths); mean, std: of the pixel normalisation,
    needed only by the z^B rule; batch_norm: "fold" it into its convolution, or "drop" it as the identity.
    Raises UserError for a model that torch.fx can't trace and for an operation that the walk doesn't know.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    try:
        module = fx.symbolic_trace(model)
    except Exception as error:  # fx raises many kinds; all mean the same to the user
        raise UserError(f"torch.fx can't trace {type(model).__name__} ({str(error).splitlines()[0]}); rewrite its forward without control flow that depends on values") from error
    module.to(memory_format=memory_format(next((p.device for p in module.parameters()), torch.device("cpu"))))
    normalised = fold_batch_norm(module, batch_norm)
    ops, output = number_units(*lower(module, normalised))
    layer_names = tuple(names) if names is not None else tuple(op.where for op in ops if op.kind in LINEAR)
    bounds = None
    if mean is not None and std is not None:
        m, s = torch.tensor(list(mean)).view(-1, 1, 1), torch.tensor(list(std)).view(-1, 1, 1)
        bounds = ((0 - m) / s, (1 - m) / s)
    return Network(module, tuple(ops), output, layer_names, bounds)


def fold_batch_norm(module: fx.GraphModule, how: str) -> dict[str, str]:
    """Merge each BatchNorm into the convolution or linear layer before it, exactly (in float64); {layer: its BatchNorm}."""
    modules, normalised = dict(module.named_modules()), {}
    for node in list(module.graph.nodes):
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, BATCH_NORM):
            continue
        before = node.args[0]
        layer = modules.get(str(before.target)) if before.op == "call_module" else None
        uses = sum(n.op == "call_module" and n.target == before.target for n in module.graph.nodes)
        if not isinstance(layer, nn.Conv2d | nn.Linear) or len(before.users) > 1 or uses > 1 or norm.running_mean is None:
            raise UserError(f"the BatchNorm at {node.target} does not follow a convolution or linear layer of its own, so it can't be folded; the walk does not know it")
        if how == "fold":
            weights = [None if p is None else p.double() for p in (layer.weight, layer.bias)]
            statistics = [None if p is None else p.double() for p in (norm.running_mean, norm.running_var)]
            affine = [None if p is None else p.double() for p in (norm.weight, norm.bias)]
            fuse = fuse_conv_bn_weights if isinstance(layer, nn.Conv2d) else fuse_linear_bn_weights
            weight, bias = fuse(*weights, *statistics, norm.eps, *affine)  # type: ignore[arg-type]
            kept = layer.weight.dtype
            layer.weight = nn.Parameter(weight.to(kept, memory_format=torch.preserve_format), requires_grad=False)
            layer.bias = nn.Parameter(bias.to(kept), requires_grad=False)
        normalised[before.target] = str(node.target)
        node.replace_all_uses_with(before)
        module.graph.erase_node(node)
    module.graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    return normalised


def lower(module: fx.GraphModule, normalised: dict[str, str]) -> tuple[list[Op], int]:
    """The fx graph as operations, and the position of the output. An in-place operation renames what it overwrites."""
    modules = dict(module.named_modules())
    position: dict[fx.Node, int] = {}
    ops: list[Op] = []
    count = 0
    for node in module.graph.nodes:
        if node.op == "placeholder":
            if position:
                raise UserError(f"{node.target}: the model takes more than one input; the walk knows models of one image batch")
            position[node] = 0
        elif node.op == "get_attr":
            raise UserError(f"the walk does not know parameters used outside of modules ({node.target}); put them into a Conv2d or Linear")
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise UserError("the model returns more than one tensor; the walk needs the logits alone")
            return ops, position[node.args[0]]
        else:
            count += 1
            op, overwritten = lower_node(node, modules, position, count, normalised)
            ops.append(op)
            position[node] = count
            if overwritten is not None:
                old = position[overwritten]
                position.update({n: count for n, p in position.items() if p == old})
    raise UserError("the model returns nothing")


def lower_node(node: fx.Node, modules: dict[str, nn.Module], position: dict[fx.Node, int], output: int, normalised: dict[str, str]) -> tuple[Op, fx.Node | None]:
    """One operation and, if it works in place, the node that it overwrites. Raises UserError for one that is not known."""
    tensors = [n for n in node.all_input_nodes]
    place = {n: i for i, n in enumerate(tensors)}
    where = scope(node)
    if node.op == "call_module":
        target = modules[str(node.target)]
        kind = KINDS.get(type(target))
        name = type(target).__name__
        inplace = getattr(target, "inplace", False)
    else:
        target = node.target
        kind = KINDS.get(target)
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        inplace = bool(node.kwargs.get("inplace")) or name in ("iadd",) or name.endswith("_")
    if kind is None or (kind == "conv" and (target.padding_mode != "zeros")):
        raise UserError(f"the walk does not know the operation {name} at {where}; add its gradient to pipeline/walk.py")
    if kind == "pad" and node.op != "call_module" and (node.kwargs.get("mode", "constant") != "constant" or node.kwargs.get("value") or len(node.args) > 2):
        raise UserError(f"the walk does not know the operation pad at {where} with a mode or value of its own; add its gradient to pipeline/walk.py")

    def bind(call):  # the call with everything but its tensors filled in
        def run(*values):
            args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: values[place[n]])
            return call(*args, **kwargs)

        return run

    settings: dict[str, Any] = {}
    if isinstance(target, nn.Module):
        if inplace:
            target.inplace = False
        if kind == "max_pool":
            target = copy.copy(target)
            target.return_indices = True
        call = bind(target)
        if kind in ("avg_pool",):
            settings = {k: getattr(target, k) for k in ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")}
        elif kind == "pad":
            settings = {"pad": target.padding}
    elif kind == "identity":
        call = bind(lambda value, *_, **__: value)  # dropout in evaluation mode
    elif kind == "max_pool":
        call = bind(POOLS[target])
    elif isinstance(target, str):
        call = bind(lambda value, *args, **kwargs: getattr(value, target.rstrip("_") if kind in ("relu", "add") else target)(*args, **kwargs))
    else:
        plain = {F.relu_: F.relu, torch.relu_: torch.relu, operator.iadd: operator.add}.get(target, target)
        call = bind(lambda *args, **kwargs: plain(*args, **{k: v for k, v in kwargs.items() if k != "inplace"}))
        if kind == "avg_pool":
            names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
            settings = {"stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True, "divisor_override": None}
            settings |= dict(zip(names, node.args[1:], strict=False)) | {k: v for k, v in node.kwargs.items() if k in names}
        elif kind == "pad":
            settings = {"pad": node.args[1] if len(node.args) > 1 else node.kwargs["pad"]}
    if kind == "concat":
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        tensors = list(node.args[0] if node.args else node.kwargs["tensors"])  # in order, repeats kept
        call, settings = (lambda *values: torch.cat(values, dim)), {"dim": dim}
    if kind == "add":
        if len(node.args) != 2 or not all(isinstance(a, fx.Node) for a in node.args) or node.kwargs:
            raise UserError(f"the walk knows the addition of two tensors only, not the one at {where}; add its gradient to pipeline/walk.py")
        tensors = list(node.args)
        call = torch.add
    if kind == "mean":
        settings = {"dim": node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")}
    op = Op(kind, tuple(position[n] for n in tensors), output, call, where, target if isinstance(target, nn.Module) else None, settings=settings, norm=normalised.get(str(node.target), "") if node.op == "call_module" else "")
    return op, (tensors[0] if inplace else None)


def scope(node: fx.Node) -> str:
    """Where in the model a node stands: its module path, or the path of the module whose forward calls it."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return f"{path}.{node.name}" if path else node.name


def number_units(ops: list[Op], output: int) -> tuple[list[Op], tuple[int, ...]]:
    """Keep what leads from x to the output, find the units l = 1..L, and give each operation its unit.

    A unit runs from one cut vertex of the graph (a value that every path passes) to another and holds at least one
    conv or linear layer; it ends at the ReLU after it if there is one, before any pool, else where its last layer
    (or the sum of its branches) does. So VGG's layers are units, and so are a ResNet's blocks.
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
    last_use: dict[int, int] = {}
    for op in flow:
        last_use.update({i: op.output for i in op.inputs if i in depends})
    ends, pending, closed = [0], False, False
    reach = last_use[0]  # the last use of anything computed so far
    for op in flow:
        pending |= op.kind in LINEAR
        is_cut = reach <= op.output
        reach = max(reach, last_use.get(op.output, 0))
        if closed and is_cut and op.kind in RELU:
            ends[-1] = op.output
        closed = closed and op.kind == "identity"
        if pending and is_cut:
            ends.append(op.output)
            pending, closed = False, True
    ends[-1] = output
    numbered, unit, seen_linear = [], 1, {0: False}
    for op in ops:
        while unit < len(ends) - 1 and op.output > ends[unit]:
            unit += 1
        below = any(seen_linear.get(i, False) for i in op.inputs)
        numbered.append(Op(**{**op.__dict__, "unit": unit, "first": op.kind in LINEAR and not below}))
        seen_linear[op.output] = below or op.kind in LINEAR
    return numbered, tuple(ends)
