"""Orthogonality and norms of the weights (Fig. 2b, 2c), on the folded weights that the walk uses."""

from dataclasses import dataclass

import pandas as pd

from pipeline.engine.network import Network
from pipeline.experiments.interface import Result
from pipeline.measures.weights import layer_stats


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
        rows.append(
            {"layer": number, "name": name, "unit": op.unit, **layer_stats(module.weight.detach().flatten(1), groups)}
        )  # type: ignore[union-attr]
    return [Result(pd.DataFrame(rows))]
