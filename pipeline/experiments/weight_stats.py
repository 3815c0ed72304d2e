"""Orthogonality and norms of the weights (Fig. 2b, 2c), on the folded weights that the walk uses."""

from dataclasses import dataclass
from enum import Enum

import pandas as pd
from torch import Tensor, nn

from pipeline.engine.network import Network
from pipeline.experiments.interface import Result
from pipeline.measures.weights import frame, layer_stats
from pipeline.weights.gauge import balanced

COLUMNS = [
    "layer", "name", "unit", "neurons", "dim", "zero_norms", "cosine_mean", "cosine_std", "cosine_abs_mean",
    "norm_mean", "norm_std", "isotropy", "mean_share", "participation",
]  # fmt: skip
WITH_FRAME = "frame"  # after them, with this option


class Gauge(Enum):
    stored = "stored"
    balanced = "balanced"  # each neuron's incoming norm is its outgoing one: the same function, the same maps


@dataclass(frozen=True)
class Options:
    """frame: also how far W W^T is from c I, shifted copies of a filter included (seconds for each large layer);
    gauge: of the weights as they are stored, or as they are in the balanced gauge (weights/gauge.py)."""

    frame: bool
    gauge: Gauge


def run(network: Network, options: Options) -> list[Result]:
    """A row per conv or linear layer: COLUMNS. layer: its number; unit: the l it belongs to; neurons, dim: n and d
    of its filters; cosine_*: over pairs i < j; norm_*: over neurons; zero_norms: neurons left out; isotropy,
    mean_share, participation, and with this option frame: see measures/weights.py (frame is NaN in layers with
    groups, dilation or different strides). Raises UserError for a network that has no balanced gauge that is known."""
    stored = options.gauge is Gauge.stored
    weights = [op.weight.detach() for op in network.layers] if stored else [w for w, _ in balanced(network)]
    rows = []
    for number, (name, op, w) in enumerate(zip(network.names, network.layers, weights, strict=True), start=1):
        found = {"layer": number, "name": name, "unit": op.unit, **layer_stats(w.flatten(1))}
        rows.append(found | ({WITH_FRAME: frame_of(op.layer, w)} if options.frame else {}))
    return [Result(pd.DataFrame(rows, columns=[*COLUMNS, WITH_FRAME] if options.frame else COLUMNS))]


def frame_of(layer: nn.Conv2d | nn.Linear, weight: Tensor) -> float:
    if isinstance(layer, nn.Linear):
        return frame(weight, 1)
    plain = layer.groups == 1 and set(layer.dilation) == {1} and len(set(layer.stride)) == 1
    return frame(weight, layer.stride[0]) if plain else float("nan")
