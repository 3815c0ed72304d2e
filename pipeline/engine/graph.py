"""A torch.fx graph, made ready for lowering.py: traced, in-place operations undone, BatchNorm folded."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from pipeline.errors import UserError

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)

# What a node of the fx graph is, by its module's type, function or method. "shape" yields no tensor.
KINDS: dict[Any, str] = {
    nn.Conv2d: "conv", nn.Linear: "linear", nn.ReLU: "relu", nn.ReLU6: "relu6",
    nn.MaxPool2d: "max_pool", nn.AdaptiveMaxPool2d: "max_pool",
    nn.AvgPool2d: "avg_pool", nn.AdaptiveAvgPool2d: "adaptive_avg_pool", nn.Flatten: "reshape", nn.ZeroPad2d: "pad",
    nn.Dropout: "identity", nn.Dropout2d: "identity", nn.Identity: "identity",
    F.relu: "relu", F.relu_: "relu", torch.relu: "relu", torch.relu_: "relu", "relu": "relu", "relu_": "relu",
    F.relu6: "relu6",
    F.max_pool2d: "max_pool", torch.max_pool2d: "max_pool", F.adaptive_max_pool2d: "max_pool",
    F.avg_pool2d: "avg_pool", F.adaptive_avg_pool2d: "adaptive_avg_pool", torch.mean: "mean", "mean": "mean",
    F.dropout: "identity", torch.dropout: "identity", "contiguous": "identity", F.pad: "pad",
    torch.flatten: "reshape", torch.reshape: "reshape", "flatten": "reshape", "view": "reshape", "reshape": "reshape",
    operator.add: "add", operator.iadd: "add", torch.add: "add", "add": "add", "add_": "add",
    torch.cat: "concat", torch.concat: "concat",
    "size": "shape", getattr: "shape", operator.getitem: "shape", operator.mul: "shape", operator.floordiv: "shape",
}  # fmt: skip
OUT_OF_PLACE = {F.relu_: F.relu, torch.relu_: torch.relu, operator.iadd: operator.add, "relu_": "relu", "add_": "add"}


class InPlaceProxy(fx.Proxy):
    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class InPlaceTracer(fx.Tracer):
    """torch.fx's tracer takes `x += y` for `x = x + y`; this one keeps it apart: other names of x see the sum too."""

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
                f"{scope(node)} overwrites a tensor of which another view is used later, which the walk does not know; "
                "do not work in place there"
            )
        if owner is not None:
            owner.inplace = False  # type: ignore[assignment]
        node.kwargs = {k: v for k, v in node.kwargs.items() if k != "inplace"}
        if named:
            node.target = OUT_OF_PLACE.get(node.target, node.target)
        before.replace_all_uses_with(node, delete_user_cb=lambda user, node=node: place[user] > place[node])
    module.graph.lint()
    module.recompile()


def fold_batch_norm(module: fx.GraphModule, how: str) -> dict[str, str]:
    """Merge each BatchNorm into the conv or linear layer before it, exactly (in float64): {layer: its BatchNorm}.

    how: "fold", or "drop" it as if it were the identity. Raises UserError for one that follows no layer of its own.
    """
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
                f"the BatchNorm at {node.target} does not follow a convolution or linear layer of its own, "
                "so it can't be folded; the walk does not know it"
            )
        if how == "fold":
            mean, variance, gamma, beta = map(double, (norm.running_mean, norm.running_var, norm.weight, norm.bias))
            fuse = fuse_conv_bn_weights if isinstance(layer, nn.Conv2d) else fuse_linear_bn_weights
            weight, bias = fuse(double(layer.weight), double(layer.bias), mean, variance, norm.eps, gamma, beta)
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


def double(p: Tensor | None) -> Any:
    return None if p is None else p.double()


def scope(node: fx.Node) -> str:
    """Where in the model a node stands: its module path, or the path of the module whose forward calls it."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return f"{path}.{node.name}" if path else node.name
