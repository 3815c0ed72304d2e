"""Measures of one layer's weights: how isotropic, how orthogonal, how long."""

from torch import Tensor

BLOCK = 1024  # neurons whose cosines are computed together


def isotropy(filters: Tensor) -> float:
    """(d + 2) / 3 * mean of sum u^4 - 1 over unit filters u, (n, d): 0 if directions are uniform on the sphere; -0.4
    for a cube's."""
    u = filters.double()
    u = u / u.norm(dim=1, keepdim=True)
    return float((u.shape[1] + 2) / 3 * u.pow(4).sum(1).mean() - 1)


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
    return {
        "neurons": len(filters),
        "dim": filters.shape[1],
        "zero_norms": int((~kept).sum()),
        "cosine_mean": mean,
        "cosine_std": max(square / pairs - mean**2, 0.0) ** 0.5 if pairs else float("nan"),
        "cosine_abs_mean": absolute / pairs if pairs else float("nan"),
        "norm_mean": float(norms[kept].mean()),
        "norm_std": float(norms[kept].std(unbiased=False)),
        "isotropy": isotropy(filters[kept]),
        "participation": n**2 / (n + 2 * square) if n else float("nan"),
    }
