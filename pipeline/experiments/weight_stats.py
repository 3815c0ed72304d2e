"""Orthogonality and norms of the weights (Fig. 2b, 2c), on the folded weights that the walk uses."""

from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from pipeline.metrics import isotropy
from pipeline.network import Network
from pipeline.store import Result

BLOCK = 1024  # neurons whose cosines are computed together


@dataclass(frozen=True)
class Options:
    """None so far."""


def run(network: Network, options: Options) -> list[Result]:
    """A row per conv or linear layer. layer: its number; unit: the l it belongs to; neurons, dim: n and d of its filters;
    cosine_*: over pairs i < j; norm_*: over neurons; zero_norms: neurons left out; isotropy, participation: see below."""
    rows = []
    for number, (name, op) in enumerate(zip(network.names, network.layers, strict=True), start=1):
        module = op.module
        groups = getattr(module, "groups", 1)
        rows.append({"layer": number, "name": name, "unit": op.unit, **layer_stats(module.weight.detach().flatten(1), groups)})  # type: ignore[union-attr]
    return [Result(pd.DataFrame(rows))]


def layer_stats(filters: Tensor, groups: int = 1) -> dict[str, float]:
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
        total, absolute, square = total + float(above.sum()), absolute + float(above.abs().sum()), square + float(above.pow(2).sum())
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
