"""Weights of single neurons as points in the plane (Fig. 3, left)."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from pipeline.experiments.interface import Result
from pipeline.weights.laws import drawing_law

COLUMNS = ["neuron", "w0", "w1"]


@dataclass(frozen=True)
class Options:
    """neurons: how many are drawn, each with two inputs."""

    neurons: int


def run(weights: Any, seed: int, options: Options) -> list[Result]:
    """A row per neuron, drawn by the weights' law as one layer of two inputs: COLUMNS. Raises UserError where no law
    draws."""
    w = drawing_law(weights, "directions").draw(torch.Size((options.neurons, 2)), seed, 1)
    return [Result(pd.DataFrame({"neuron": range(len(w)), "w0": w[:, 0].tolist(), "w1": w[:, 1].tolist()}))]
