"""From a torch.fx graph to a flat list of operations. What the walk does not know is refused by name."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pipeline.engine.graph import KINDS, scope
from pipeline.errors import UserError

LINEAR = ("conv", "linear")
RELU = ("relu", "relu6")
POOLS = {  # functions that also return where each maximum was
    F.max_pool2d: F.max_pool2d_with_indices,
    torch.max_pool2d: F.max_pool2d_with_indices,
    F.adaptive_max_pool2d: F.adaptive_max_pool2d_with_indices,
}
AVG_POOL = {  # in the order in which the gradient's kernel takes them
    "kernel_size": None, "stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True,
    "divisor_override": None,
}  # fmt: skip


@dataclass(frozen=True)
class Position:
    """In Op.settings: a number that the forward pass computes, by its position in Record.values."""

    value: int


@dataclass(frozen=True)
class Op:
    """One operation. `inputs` and `output` are positions in Record.values (0 is x); `unit` is the l it belongs to;
    `first` marks a conv or linear layer with none below it; `where` names it in messages; `module` holds parameters."""

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

    @property
    def layer(self) -> nn.Conv2d | nn.Linear:
        """The module of a conv or linear layer."""
        assert isinstance(self.module, nn.Conv2d | nn.Linear), f"{self.where} has no weights"
        return self.module

    @property
    def weight(self) -> Tensor:
        """Its weights (out, in, ...)."""
        return self.layer.weight


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
                f"the walk does not know parameters used outside of modules ({node.target}); "
                "put them into a Conv2d or Linear"
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
    kind, tensors = KINDS.get(key), node.all_input_nodes
    if kind in ("shape", "add") and tensors and all(n in numbers for n in tensors):
        kind = "shape"
    elif kind == "shape" and not (key == "size" or (key is getattr and node.args[1] == "shape")):
        kind = None  # arithmetic or indexing of tensors
    settings = operation_settings(kind, module, node) if kind else None
    if kind is None or settings is None:
        name = key if isinstance(key, str) else getattr(key, "__name__", str(key))
        raise UserError(
            f"the walk does not know the operation {name} at {scope(node)}{' with these arguments' if kind else ''}; "
            "add its gradient to pipeline/engine/gradients.py"
        )

    def placed(n: fx.Node) -> Any:
        return Position(position[n])

    call = bound_call(kind, module, node, tensors)
    if kind == "concat":  # in order, repeats kept
        listed: Any = node.args[0] if node.args else node.kwargs["tensors"]
        tensors = list(listed)
        dim = settings["dim"]
        call = lambda *values: torch.cat(values, dim)  # noqa: E731
    elif kind == "add":
        tensors, call = [n for n in node.args if isinstance(n, fx.Node)], torch.add
    filled: Any = fx.map_arg(settings, placed)
    norm = normalised.get(str(node.target), "") if module is not None else ""
    inputs = tuple(position[n] for n in tensors)
    return Op(kind, inputs, output, call, scope(node), module, settings=filled, norm=norm)


def operation_settings(kind: str, module: nn.Module | None, node: fx.Node) -> dict[str, Any] | None:
    """What the gradient of this kind must know; None if the gradient is not written for the operation's arguments."""

    def argument(place: int, name: str, default: Any = None) -> Any:
        return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)

    if isinstance(module, nn.Conv2d):
        return {} if module.padding_mode == "zeros" else None
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
        plain = len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args) and not node.kwargs
        return {} if plain else None
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
