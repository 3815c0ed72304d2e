"""Measures of one layer's weights: how isotropic, how orthogonal, how long."""

import torch
from torch import Tensor

BLOCK = 1024  # neurons whose cosines are computed together


def isotropy(filters: Tensor) -> tuple[float, float]:
    """(d tr M^2 / (tr M)^2, |E w|^2 / E |w|^2) of the law that filters (n, d) were drawn from, M = E[w w^T]; both by
    sums over pairs of different neurons, which a finite n does not bias.

    The first is 1 where M = c I, the paper's isotropy (Theorem 1), else more; the second, 0 for a centred law, says how
    much of that is a common mean. NaN of a single neuron.
    """
    w = filters.double()
    n, d = w.shape
    norms = w.pow(2).sum(1)
    among = (w @ w.T if n < d else w.T @ w).pow(2).sum() - norms.pow(2).sum()  # of (w_i . w_j)^2, i != j
    pairs = norms.sum() ** 2 - norms.pow(2).sum()
    common = (w.sum(0).pow(2).sum() - norms.sum()) / (n - 1) if n > 1 else w.new_tensor(float("nan"))
    return float(d * among / pairs), float(common / norms.sum())


def frame(weight: Tensor, stride: int) -> float:
    """D tr (W W^T)^2 / (tr W W^T)^2 of a layer as one matrix W on an image without borders: 1 if W W^T = c I.

    weight: (out, in, k, k) of a convolution, or (out, in) of a linear layer. A convolution's neurons include their
    shifted copies, so that this asks more than the isotropy of its filters.
    """
    w = weight.double()
    if w.ndim == 2:
        gram = w @ w.T if len(w) < w.shape[1] else w.T @ w
        return float(w.shape[1] * gram.pow(2).sum() / gram.trace() ** 2)
    channels, side = w.shape[1], w.shape[2:]
    places = [(y, x) for y in range(side[0]) for x in range(side[1])]
    gram = torch.einsum("ocp,odq->pqcd", w.flatten(2), w.flatten(2))
    sums: dict[tuple[int, ...], Tensor] = {}  # W W^T between pixels of one phase and those a shift away
    for p, (y, x) in enumerate(places):
        for q, (v, u) in enumerate(places):
            key = (y % stride, x % stride, y - v, x - u)
            sums[key] = sums[key] + gram[p, q] if key in sums else gram[p, q]
    energy = sum(float(block.pow(2).sum()) for block in sums.values())
    trace = sum(float(block.trace()) for key, block in sums.items() if key[2:] == (0, 0))
    return channels * stride**2 * energy / trace**2


def layer_stats(filters: Tensor) -> dict[str, float]:
    """Statistics of the filters (n, d) of one layer, in float64; standard deviations of the population.

    Filters of different groups look at different inputs; they are compared within their own d weights all the same.
    participation: (sum of eigenvalues)^2 / sum of their squares, of the Gram matrix of unit filters: about
    n d / (n + d) if they point everywhere, 1 if all point one way.
    """
    filters = filters.double()
    norms = filters.norm(dim=1)
    kept = norms > 0
    unit = filters[kept] / norms[kept, None]
    n = len(unit)
    total = absolute = square = 0.0
    for at in range(0, n, BLOCK):
        cosines = unit[at : at + BLOCK] @ unit.T
        above = cosines.triu(at + 1)
        total, absolute, square = (
            total + float(above.sum()),
            absolute + float(above.abs().sum()),
            square + float(above.pow(2).sum()),
        )
    pairs = n * (n - 1) / 2
    mean = total / pairs if pairs else float("nan")
    spread, common = isotropy(filters[kept])
    return {
        "neurons": len(filters),
        "dim": filters.shape[1],
        "zero_norms": int((~kept).sum()),
        "cosine_mean": mean,
        "cosine_std": max(square / pairs - mean**2, 0.0) ** 0.5 if pairs else float("nan"),
        "cosine_abs_mean": absolute / pairs if pairs else float("nan"),
        "norm_mean": float(norms[kept].mean()),
        "norm_std": float(norms[kept].std(unbiased=False)),
        "isotropy": spread,
        "mean_share": common,
        "participation": n**2 / (n + 2 * square) if n else float("nan"),
    }
