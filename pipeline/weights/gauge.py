"""The balanced gauge: of all networks with the same function, the one whose neurons' incoming norms are their outgoing
ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.engine.network import LINEAR, Network, Op
from pipeline.errors import UserError
from pipeline.weights.draw import set_parameter

FIXED = 0  # the group of pixels, of logits and of what a ReLU6 cuts: their scale means something
SWEEPS, TOLERANCE, RELAXATION = 2000, 1e-12, 1.5


@torch.no_grad()
def balance(network: Network) -> None:
    """Scale each channel by c > 0 on its way in and by 1 / c on its way out, so that its incoming weights have the norm
    of its outgoing ones. f and every map of every rule stay; norms and cosines of the weights do not.

    Raises UserError for a network whose channels can't be followed.
    """
    for op, (weight, bias) in zip(network.layers, balanced(network), strict=True):
        set_parameter(op.module, "weight", weight)
        if bias is not None:
            set_parameter(op.module, "bias", bias)


@torch.no_grad()
def balanced(network: Network) -> list[tuple[Tensor, Tensor | None]]:
    """Weights and bias of each conv and linear layer in that gauge; the network stays as it is.

    ReLUs, pools and sums hand a scale on, so that the channels of a residual stream share one. Sum |W|^2 is convex in
    log c, and the balanced gauge its minimum. Channels without weights on one side keep their scale. Raises UserError
    for a network whose channels can't be followed.
    """
    groups = channels(network)
    once = {id(op.module): (op, pair) for op, pair in zip(network.layers, groups, strict=True)}.values()
    scale = solve([energy(op, *pair) for op, pair in once], [pair for _, pair in once])
    found = []
    for op, (out, into) in zip(network.layers, groups, strict=True):
        w = op.weight.double().cpu()
        w = w.flatten(2) if w.ndim > 2 else w[..., None]
        w = w * scale[out][:, None, None] / scale[into_each(op, into)][..., None]
        bias = op.layer.bias
        moved = None if bias is None else (bias.double().cpu() * scale[out]).to(bias)
        found.append((w.view_as(op.weight).to(op.weight), moved))
    return found


def channels(network: Network) -> list[tuple[Tensor, Tensor]]:
    """For each conv and linear layer the groups of its outputs (out,) and of its inputs (in,), int64: channels of one
    group share their scale, FIXED have none."""
    parent = [FIXED]

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    def unite(one: list[int], other: list[int], where: str) -> None:
        if len(one) != len(other):
            raise UserError(f"the balanced gauge can't follow channels through {where}; use weight_stats.gauge=stored")
        for a, b in zip(one, other, strict=True):
            a, b = sorted((root(a), root(b)))
            parent[b] = a

    def fed(op: Op) -> list[int]:
        """The groups of a layer's inputs: a flattened channel is as many features in a row."""
        wanted = op.weight.shape[1] * (op.layer.groups if isinstance(op.layer, torch.nn.Conv2d) else 1)
        given = held[op.inputs[0]]
        given = [FIXED] * wanted if given == [FIXED] else given
        times = wanted // len(given) if isinstance(op.layer, torch.nn.Linear) else 1
        if times * len(given) != wanted:
            raise UserError(f"the balanced gauge can't follow channels to {op.where}; use weight_stats.gauge=stored")
        return [group for group in given for _ in range(times)]

    held: dict[int, list[int]] = {0: [FIXED]}  # of each value; of x one for all its channels
    layers: list[tuple[list[int], list[int]]] = []
    met: dict[int, tuple[list[int], list[int]]] = {}  # a module that is called twice has one scale on each side
    for op in network.ops:
        if op.kind == "shape":
            continue
        values = [held[i] for i in op.inputs if i in held]
        if op.kind in LINEAR:
            into, new = fed(op), list(range(len(parent), len(parent) + len(op.weight)))
            parent += new
            layers.append((new, into))
            for one, other in zip(met.setdefault(id(op.module), layers[-1]), layers[-1], strict=True):
                unite(one, other, op.where)
            held[op.output] = new
        elif op.kind == "concat" and op.settings["dim"] in (1, -3):
            held[op.output] = [group for value in values for group in value]
        elif op.kind == "mean" and not over_pixels(op.settings["dim"]):
            raise UserError(
                f"no balanced gauge across a mean over channels ({op.where}); use weight_stats.gauge=stored"
            )
        else:
            for other in values[1:]:
                unite(values[0], other, op.where)
            if op.kind == "relu6":
                unite(values[0], [FIXED] * len(values[0]), op.where)
            held[op.output] = values[0]
    logits = held[network.ops[-1].output]
    unite(logits, [FIXED] * len(logits), "the logits")

    def roots(groups: list[int]) -> Tensor:
        return torch.tensor([root(group) for group in groups])

    return [(roots(new), roots(into)) for new, into in layers]


def over_pixels(dim: int | Sequence[int]) -> bool:
    return {*([dim] if isinstance(dim, int) else dim)} <= {2, 3, -1, -2}


def into_each(op: Op, into: Tensor) -> Tensor:
    """Groups of the inputs (in,) -> of each filter's (out, in per filter)."""
    parts = op.layer.groups if isinstance(op.layer, torch.nn.Conv2d) else 1
    each = into.view(parts, -1)
    return each.repeat_interleave(len(op.weight) // parts, 0)


def energy(op: Op, out: Tensor, into: Tensor) -> Tensor:
    """Sums of squared weights from group to group, (groups of outputs, groups of inputs), in their sorted order."""
    rows, columns = (groups.unique(return_inverse=True) for groups in (out, into))
    w = op.weight.double().cpu().pow(2)
    w = w.flatten(2).sum(2) if w.ndim > 2 else w
    places = rows[1][:, None] * len(columns[0]) + into_each(op, columns[1])
    flat = torch.zeros(len(rows[0]) * len(columns[0]), dtype=torch.float64)
    return flat.index_add(0, places.flatten(), w.flatten()).view(len(rows[0]), len(columns[0]))


def solve(energies: list[Tensor], groups: list[tuple[Tensor, Tensor]]) -> Tensor:
    """c of each group, float64: layer by layer towards the minimum over its outputs' scales, upward and downward in
    turn, past it by RELAXATION, for a change takes many steps from end to end of a deep network."""
    rows, columns = ([pair[side].unique() for pair in groups] for side in (0, 1))
    log = torch.zeros(int(max(r.max() for r in rows)) + 1, dtype=torch.float64)
    own, near = [], []
    seen = torch.tensor([FIXED])
    for mine in rows:  # a residual stream belongs to the first of the layers that feed it
        own.append(mine[~torch.isin(mine, seen)])
        seen = torch.cat([seen, own[-1]])
        meets = [bool(torch.isin(own[-1], torch.cat(pair)).any()) for pair in zip(rows, columns, strict=True)]
        near.append([k for k, met in enumerate(meets) if met])
    for _ in range(SWEEPS):
        largest = 0.0
        for layer in [*range(len(energies)), *reversed(range(len(energies)))]:
            incoming, outgoing, mine = torch.zeros_like(log), torch.zeros_like(log), own[layer]
            for k in near[layer]:
                up, down = (2 * log[rows[k]]).exp(), (-2 * log[columns[k]]).exp()
                incoming[rows[k]] += up * (energies[k] @ down)
                outgoing[columns[k]] += down * (up @ energies[k])
            there = mine[(incoming[mine] > 0) & (outgoing[mine] > 0)]
            change = (outgoing[there] / incoming[there]).log() / 4
            log[there] += RELAXATION * change
            largest = max(largest, float(change.abs().max()) if len(there) else 0.0)
        if largest < TOLERANCE:
            break
    return log.exp()
