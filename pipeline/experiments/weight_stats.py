"""Orthogonality and norms of the weights (Fig. 2b, 2c), on the folded weights that the walk uses."""

from dataclasses import dataclass

import pandas as pd
from torch import nn

from pipeline.engine.network import Network
from pipeline.experiments.interface import Result
from pipeline.measures.weights import frame, layer_stats

COLUMNS = [
    "layer", "name", "unit", "neurons", "dim", "zero_norms", "cosine_mean", "cosine_std", "cosine_abs_mean",
    "norm_mean", "norm_std", "isotropy", "mean_share", "participation",
]  # fmt: skip
WITH_FRAME = "frame"  # after them, with this option


@dataclass(frozen=True)
class Options:
    """frame: also how far W W^T is from c I, shifted copies of a filter included (seconds for each large layer)."""

    frame: bool


def run(network: Network, options: Options) -> list[Result]:
    """A row per conv or linear layer: COLUMNS. layer: its number; unit: the l it belongs to; neurons, dim: n and d
    of its filters; cosine_*: over pairs i < j; norm_*: over neurons; zero_norms: neurons left out; isotropy,
    mean_share, participation, and with this option frame: see measures/weights.py (frame is NaN in layers with
    groups, dilation or different strides)."""
    rows = [
        {"layer": number, "name": name, "unit": op.unit, **layer_stats(op.weight.detach().flatten(1))}
        | ({WITH_FRAME: frame_of(op.layer)} if options.frame else {})
        for number, (name, op) in enumerate(zip(network.names, network.layers, strict=True), start=1)
    ]
    return [Result(pd.DataFrame(rows, columns=[*COLUMNS, WITH_FRAME] if options.frame else COLUMNS))]


def frame_of(layer: nn.Conv2d | nn.Linear) -> float:
    if isinstance(layer, nn.Linear):
        return frame(layer.weight.detach(), 1)
    plain = layer.groups == 1 and set(layer.dilation) == {1} and len(set(layer.stride)) == 1
    return frame(layer.weight.detach(), layer.stride[0]) if plain else float("nan")
