"""Orthogonality and norms of the weights (Fig. 2b, 2c), on the folded weights that the walk uses."""

from dataclasses import dataclass

import pandas as pd

from pipeline.engine.network import Network
from pipeline.experiments.interface import Result
from pipeline.measures.weights import layer_stats

COLUMNS = [
    "layer", "name", "unit", "neurons", "dim", "zero_norms", "cosine_mean", "cosine_std", "cosine_abs_mean",
    "norm_mean", "norm_std", "isotropy", "participation",
]  # fmt: skip


@dataclass(frozen=True)
class Options:
    """None so far."""


def run(network: Network, options: Options) -> list[Result]:
    """A row per conv or linear layer: COLUMNS. layer: its number; unit: the l it belongs to; neurons, dim: n and d
    of its filters; cosine_*: over pairs i < j; norm_*: over neurons; zero_norms: neurons left out; isotropy,
    participation: see measures/weights.py."""
    rows = [
        {"layer": number, "name": name, "unit": op.unit, **layer_stats(op.weight.detach().flatten(1))}
        for number, (name, op) in enumerate(zip(network.names, network.layers, strict=True), start=1)
    ]
    return [Result(pd.DataFrame(rows, columns=COLUMNS))]
