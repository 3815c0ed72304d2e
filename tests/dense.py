"""The paper's rules, slow and literal: loops over the entries of explicit matrices, one sample, no tensor tricks.

A network is a list of layers (W, b), W[i][j] from unit i of A_{l-1} to unit j of A_l; a ReLU after all but the last.
"""

from collections.abc import Callable
from fractions import Fraction
from math import floor

import torch
from torch import Tensor, nn

Vector = list[float]
Matrix = list[Vector]
Layers = list[tuple[Matrix, Vector]]


def matrix(stage: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple[Matrix, Vector]:
    """An affine map, given as a function on (B, *shape), as W and b: its values at 0 and at each basis vector."""
    basis = torch.eye(torch.Size(shape).numel(), dtype=torch.float64)
    with torch.no_grad():
        b = stage(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        w = stage(basis.view(-1, *shape)).flatten(1) - b
    return w.tolist(), b.tolist()


def layers(stages: list[nn.Module], shape: tuple[int, ...]) -> Layers:
    """`stages`: the affine maps between the ReLUs, in order."""
    out = []
    for stage in stages:
        out.append(matrix(stage, shape))
        shape = tuple(stage(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
    return out


def positive(v: float) -> float:
    return v if v > 0 else 0.0


def negative(v: float) -> float:
    return v if v < 0 else 0.0


def forward(net: Layers, x: Vector) -> tuple[list[Vector], list[Vector]]:
    """(2), with biases: A_0 .. A_L and z_0 .. z_L (z_0 is not used)."""
    a, z = [x], [x]
    for depth, (w, b) in enumerate(net, 1):
        z.append([b[j] + sum(w[i][j] * a[-1][i] for i in range(len(w))) for j in range(len(b))])
        a.append([positive(v) for v in z[-1]] if depth < len(net) else z[-1])
    return a, z


def times(w: Matrix, r: Vector) -> Vector:
    """W r"""
    return [sum(row[j] * r[j] for j in range(len(r))) for row in w]


def tau(products: Vector, quantile: str) -> float:
    """The order statistic floor(q (n - 1)), q rational."""
    return sorted(products)[floor(Fraction(quantile) * (len(products) - 1))]


def filtered(rule: str, r: Vector, a: Vector, quantile: str) -> Vector:
    """What the rule's filter at layer l's ReLU leaves of r_l: (5), (6), (7)."""
    if rule == "grad":
        return [r[j] if a[j] > 0 else 0.0 for j in range(len(r))]
    if rule == "gbp":
        return [positive(r[j]) if a[j] > 0 else 0.0 for j in range(len(r))]
    if rule == "rectgrad":
        threshold = tau([a[j] * r[j] for j in range(len(r))], quantile)
        return [r[j] if a[j] * r[j] > threshold else 0.0 for j in range(len(r))]
    raise KeyError(rule)


def z_plus(w: Matrix, a: Vector, relevance: Vector) -> Vector:
    """(10): relevance of A_{l-1} from that of z_l, by loops over z_ij."""
    below = [0.0] * len(a)
    for j, from_above in enumerate(relevance):
        z = [positive(w[i][j] * a[i]) for i in range(len(a))]
        if sum(z) > 0:
            for i in range(len(a)):
                below[i] += z[i] / sum(z) * from_above
    return below


def z_box(w: Matrix, x: Vector, low: Vector, high: Vector, relevance: Vector) -> Vector:
    """(11): relevance of x from that of z_1."""
    below = [0.0] * len(x)
    for j, from_above in enumerate(relevance):
        z = [w[i][j] * x[i] - low[i] * positive(w[i][j]) - high[i] * negative(w[i][j]) for i in range(len(x))]
        for i in range(len(x)):
            below[i] += z[i] / sum(z) * from_above
    return below


def gradient_form(relevance: Vector, a: Vector) -> Vector:
    """r with A * r = relevance, 0 where A is 0."""
    return [relevance[i] / a[i] if a[i] != 0 else 0.0 for i in range(len(a))]


def lrp(
    net: Layers, x: Vector, target: int, start: str, bottom: str, box: tuple[Vector, Vector] | None = None
) -> Vector:
    """z+ from the output to A_1 in relevances, as the LRP literature writes it; the bottom as `bottom` says.

    "split", "zbox": the pixels' relevance. "plain", "plus": r_0 = W_1 r_1, or W_1+ with z+'s normalisation.
    """
    a, z = forward(net, x)
    relevance = [0.0] * len(a[-1])
    relevance[target] = 1.0 if start == "unit" else a[-1][target]
    for depth in range(len(net), 1, -1):
        relevance = z_plus(net[depth - 1][0], a[depth - 1], relevance)
    w = net[0][0]
    if bottom == "split":
        return z_plus(w, x, relevance)
    if bottom == "zbox":
        assert box is not None
        return z_box(w, x, *box, relevance)
    if bottom == "plain":
        return times(w, gradient_form(relevance, a[1]))
    w_plus = [[positive(v) for v in row] for row in w]
    z_plus_1 = [sum(w_plus[i][j] * x[i] for i in range(len(x))) for j in range(len(z[1]))]
    return times(w_plus, [relevance[j] / z_plus_1[j] for j in range(len(z[1]))])


def descend(
    net: Layers, a: list[Vector], r: Vector, top: int, rule_at: Callable[[int], str], quantile: str = "0.9"
) -> Vector:
    """r_0 from r_top, layer l under the rule `rule_at(l)`."""
    for depth in range(top, 0, -1):
        if depth < len(net):
            r = filtered(rule_at(depth), r, a[depth], quantile)
        r = times(net[depth - 1][0], r)
    return r


def cascade(net: Layers, x: Vector, target: int, rule: str, n: int, quantile: str = "0.9") -> Vector:
    """(19) for one N: the rule where L - N < l <= L, the gradient where l <= L - N. "activation": r_{L-N} = A_{L-N}."""
    a, _ = forward(net, x)
    depth = len(net)
    if rule == "activation" and n > 0:
        return descend(net, a, a[depth - n], depth - n, lambda layer: "grad")
    start = [float(k == target) for k in range(len(a[-1]))]
    return descend(net, a, start, depth, lambda layer: rule if depth - n < layer else "grad", quantile)


def cascade_z_plus(net: Layers, x: Vector, target: int, start: str, n: int) -> Vector:
    """(19) for z+ and one N, 1 <= N < L: relevance in the top N layers, below them the gradient of what it weights."""
    a, _ = forward(net, x)
    relevance = [0.0] * len(a[-1])
    relevance[target] = 1.0 if start == "unit" else a[-1][target]
    for depth in range(len(net), len(net) - n, -1):
        relevance = z_plus(net[depth - 1][0], a[depth - 1], relevance)
    return descend(net, a, gradient_form(relevance, a[len(net) - n]), len(net) - n, lambda layer: "grad")
