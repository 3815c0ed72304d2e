"""From a torch.fx graph to a flat list of operations: BatchNorm folded, in-place operations undone, what is not known refused by name."""

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
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


AVG_POOL = {
    "kernel_size": None,
    "stride": None,
    "padding": 0,
    "ceil_mode": False,
    "count_include_pad": True,
    "divisor_override": None,
}
OUT_OF_PLACE = {F.relu_: F.relu, torch.relu_: torch.relu, operator.iadd: operator.add, "relu_": "relu", "add_": "add"}


@dataclass(frozen=True)
class Position:
    """In Op.settings: a number that the forward pass computes, by its position in Record.values."""

    value: int


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
        if (
            not isinstance(layer, nn.Conv2d | nn.Linear)
            or len(before.users) > 1
            or uses > 1
            or norm.running_mean is None
        ):
            raise UserError(
                f"the BatchNorm at {node.target} does not follow a convolution or linear layer of its own, so it can't be folded; the walk does not know it"
            )
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


class InPlaceProxy(fx.Proxy):
    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class InPlaceTracer(fx.Tracer):
    """torch.fx's tracer takes `x += y` for `x = x + y`; this one keeps it apart, for other names of x see the sum too."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return InPlaceProxy(node, self)


def graph_of(model: nn.Module) -> fx.GraphModule:
    tracer = InPlaceTracer()
    return fx.GraphModule(model, tracer.trace(model), type(model).__name__)


def functionalise(module: fx.GraphModule) -> None:
    """Rewrite the graph so that nothing works in place: later uses of an overwritten value read the operation's result.

    Identities go (dropout in evaluation mode, contiguous), and view becomes reshape, for views need one memory format.
    Raises UserError where an operation overwrites what another view of the same tensor shows.
    """
    modules: dict[str, nn.Module] = dict(module.named_modules())
    place = {node: i for i, node in enumerate(module.graph.nodes)}
    in_place = {name for name, m in modules.items() if getattr(m, "inplace", False)}
    storage: dict[fx.Node, fx.Node] = {}
    for node in list(module.graph.nodes):
        owner = modules[str(node.target)] if node.op == "call_module" else None
        kind = KINDS.get(type(owner) if owner is not None else node.target)
        before = next((value for value in (*node.args, *node.kwargs.values()) if isinstance(value, fx.Node)), None)
        named = node.op != "call_module"  # a module may be called "view" or "relu_"
        if kind == "identity" and before is not None:
            node.replace_all_uses_with(before)
            module.graph.erase_node(node)
            continue
        storage[node] = storage[before] if kind == "reshape" and before is not None else node
        if named and node.target == "view":
            node.target = "reshape"
        if before is None or not (node.kwargs.get("inplace") or node.target in (OUT_OF_PLACE if named else in_place)):
            continue
        seen_elsewhere = [
            n
            for n, of in storage.items()
            if of is storage[before] and n is not before and any(place[user] > place[node] for user in n.users)
        ]
        if seen_elsewhere or (
            storage[before] is not before and any(place[user] > place[node] for user in storage[before].users)
        ):
            raise UserError(
                f"{scope(node)} overwrites a tensor of which another view is used later, which the walk does not know; do not work in place there"
            )
        if owner is not None:
            owner.inplace = False  # type: ignore[assignment]
        node.kwargs = {k: v for k, v in node.kwargs.items() if k != "inplace"}
        if named:
            node.target = OUT_OF_PLACE.get(node.target, node.target)
        before.replace_all_uses_with(node, delete_user_cb=lambda user, node=node: place[user] > place[node])
    module.graph.lint()
    module.recompile()


def lower(module: fx.GraphModule, normalised: dict[str, str]) -> tuple[list[Op], int]:
    """The fx graph as operations, and the position of the output. Raises UserError for what the walk does not know."""
    modules: dict[str, nn.Module] = dict(module.named_modules())
    position: dict[fx.Node, int] = {}
    numbers: set[fx.Node] = set()  # shapes and what is computed from them
    ops: list[Op] = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            if position:
                raise UserError(
                    f"{node.target}: the model takes more than one input; the walk knows models of one image batch"
                )
            position[node] = 0
        elif node.op == "get_attr":
            raise UserError(
                f"the walk does not know parameters used outside of modules ({node.target}); put them into a Conv2d or Linear"
            )
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise UserError("the model returns more than one tensor; the walk needs the logits alone")
            return ops, position[node.args[0]]
        else:
            op = lower_node(node, modules, position, len(ops) + 1, normalised, numbers)
            ops.append(op)
            position[node] = op.output
            if op.kind == "shape":
                numbers.add(node)
    raise UserError("the model returns nothing")


def lower_node(
    node: fx.Node,
    modules: dict[str, nn.Module],
    position: dict[fx.Node, int],
    output: int,
    normalised: dict[str, str],
    numbers: set[fx.Node],
) -> Op:
    """One operation. Raises UserError for one that is not known, by its name and place."""
    module = modules[str(node.target)] if node.op == "call_module" else None
    key: Any = type(module) if module is not None else node.target
    kind, tensors = KINDS.get(key), list(node.all_input_nodes)
    if kind in ("shape", "add") and tensors and all(n in numbers for n in tensors):
        kind = "shape"
    elif kind == "shape" and not (key == "size" or (key is getattr and node.args[1] == "shape")):
        kind = None  # arithmetic or indexing of tensors
    settings = operation_settings(kind, module, node) if kind else None
    if kind is None or settings is None:
        name = key if isinstance(key, str) else getattr(key, "__name__", str(key))
        raise UserError(
            f"the walk does not know the operation {name} at {scope(node)}{' with these arguments' if kind else ''}; add its gradient to pipeline/gradients.py"
        )
    call = bound_call(kind, module, node, tensors)
    if kind == "concat":  # in order, repeats kept
        tensors = list(node.args[0] if node.args else node.kwargs["tensors"])  # type: ignore[arg-type]
        dim = settings["dim"]
        call = lambda *values: torch.cat(values, dim)  # noqa: E731
    elif kind == "add":
        tensors, call = list(node.args), torch.add  # type: ignore[assignment]
    settings = fx.map_arg(settings, lambda n: Position(position[n]))  # type: ignore[arg-type,return-value]
    norm = normalised.get(str(node.target), "") if module is not None else ""
    return Op(
        kind, tuple(position[n] for n in tensors), output, call, scope(node), module, settings=settings, norm=norm
    )  # type: ignore[arg-type]


def operation_settings(kind: str, module: nn.Module | None, node: fx.Node) -> dict[str, Any] | None:
    """What the gradient of this kind must know; None if the operation has arguments for which the gradient is not written."""

    def argument(place: int, name: str, default: Any = None) -> Any:
        return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)

    if kind == "conv":
        return {} if module.padding_mode == "zeros" else None  # type: ignore[union-attr]
    if kind == "avg_pool":
        return {
            name: getattr(module, name) if module is not None else argument(place, name, default)
            for place, (name, default) in enumerate(AVG_POOL.items(), start=1)
        }
    if kind == "pad":
        plain = module is not None or (argument(2, "mode", "constant") == "constant" and not argument(3, "value"))
        return {"pad": module.padding if module is not None else argument(1, "pad")} if plain else None
    if kind == "concat":
        return {"dim": argument(1, "dim", node.kwargs.get("axis", 0))}
    if kind == "add":
        return (
            {} if len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args) and not node.kwargs else None
        )
    if kind == "mean":
        return {"dim": argument(1, "dim")} if argument(1, "dim") is not None else None
    return {}


def bound_call(kind: str, module: nn.Module | None, node: fx.Node, tensors: list[fx.Node]) -> Callable[..., Any]:
    """The operation as a function of its tensors alone; a max-pool also returns where each maximum was."""
    function: Any = node.target if module is None else module
    if kind == "max_pool" and module is not None:
        function = copy.copy(module)
        function.return_indices = True
    elif kind == "max_pool":
        function = POOLS[function]
    elif isinstance(function, str):
        method = function
        function = lambda value, *args, **kwargs: getattr(value, method)(*args, **kwargs)  # noqa: E731
    place = {n: i for i, n in enumerate(tensors)}

    def call(*values: Any) -> Any:
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: values[place[n]])
        return function(*args, **kwargs)

    return call


def scope(node: fx.Node) -> str:
    """Where in the model a node stands: its module path, or the path of the module whose forward calls it."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return f"{path}.{node.name}" if path else node.name
