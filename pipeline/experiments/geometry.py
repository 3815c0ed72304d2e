"""Fig. 1: Theorem 1 in the plane. Eight neurons w_i, those that x activates, what comes back through them, and what
a negative filter leaves."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.engine.rules import Gbp
from pipeline.engine.walk import attribute
from pipeline.experiments.interface import Result
from pipeline.measures.maps import alignment
from pipeline.networks.shallow import shallow
from pipeline.seeds import keyed, normal

WEIGHTS, BACKWARD, DRAWS = 0, 1, 2  # streams
NORM = 1.25  # of x, a little longer than the weights


@dataclass(frozen=True)
class Options:
    """neurons: K; seed: of the weights and of r; x_angle: of the input, in degrees; draws: networks for the averages
    beside the one drawn."""

    neurons: int
    seed: int
    x_angle: float
    draws: int

    def __post_init__(self):
        if self.neurons < 2 or self.draws < 1:
            raise ValueError("neurons must be at least 2 and draws at least 1")


COLUMNS = ["kind", "name", "u", "v", "alignment", "activation", "mask", "r", "alignment_mean", "better"]


def run(options: Options) -> list[Result]:
    """A row per vector (u, v) of the plane: COLUMNS, alignment that with x.

    kind: input (x), weight (w_i), contribution (M_i r_i w_i), sum. The sums: R_+ and R_- (contributions with r_i > 0
    and < 0), R = R_+ + R_-, the gradient, and NFR, what GBP returns. alignment_mean: of the sum over `draws` other
    networks; better: the share of them in which it aligns better than the gradient.
    """
    angle = math.radians(options.x_angle)
    x = NORM * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    w = plane_weights(1, options.neurons, keyed(options.seed, WEIGHTS))[0]  # (K, 2)
    r = normal(keyed(options.seed, BACKWARD), options.neurons)
    z = w @ x[0]
    found = {name: value[0] for name, value in sums(w[None], r[None], x).items()}
    found["NFR"] = attribute(shallow(w, r[None]).forward(x), Gbp())[0]
    rows = [{"kind": "input", "name": "x", **vector(x[0], x)}]
    for i in range(options.neurons):
        facts = {"activation": float(z[i].clamp(min=0)), "mask": bool(z[i] > 0), "r": float(r[i])}
        rows.append({"kind": "weight", "name": f"w_{i + 1}", **facts, **vector(w[i], x)})
        rows.append({"kind": "contribution", "name": f"w_{i + 1}", **facts, **vector(r[i] * (z[i] > 0) * w[i], x)})
    typical = averages(options, x)
    rows += [{"kind": "sum", "name": name, **vector(value, x), **typical[name]} for name, value in found.items()]
    return [Result(pd.DataFrame(rows, columns=COLUMNS))]


def plane_weights(networks: int, neurons: int, generator: torch.Generator) -> Tensor:
    """(networks, K, 2): one neuron in each of K equal sectors at random places in it, the first sector turned at
    random, norms uniform on [.7, 1]: isotropic."""
    place, turn, norm = (
        torch.rand(networks, n, generator=generator, dtype=torch.float64) for n in (neurons, 1, neurons)
    )
    angle = 2 * math.pi * (torch.arange(neurons) + 0.2 + 0.6 * place + turn) / neurons
    return (0.7 + 0.3 * norm)[..., None] * torch.stack([angle.cos(), angle.sin()], -1)


def sums(w: Tensor, r: Tensor, x: Tensor) -> dict[str, Tensor]:
    """R_+, R_- and R, each (networks, 2), of weights (networks, K, 2) and backward signals (networks, K)."""
    passed = r * (w @ x[0] > 0)
    plus, minus = ((part[..., None] * w).sum(1) for part in (passed.clamp(min=0), passed.clamp(max=0)))
    return {"R_+": plus, "R_-": minus, "R": plus + minus}


def averages(options: Options, x: Tensor) -> dict[str, dict[str, float]]:
    generator = keyed(options.seed, DRAWS)
    w = plane_weights(options.draws, options.neurons, generator)
    r = normal(generator, options.draws, options.neurons)
    found = {name: alignment(value, x.expand_as(value)) for name, value in sums(w, r, x).items()}
    found["NFR"] = found["R_+"]
    defined = ~found["R_+"].isnan()  # somewhere no r_i > 0 meets an active neuron
    return {
        name: {"alignment_mean": float(value.nanmean()), "better": float((value > found["R"])[defined].double().mean())}
        for name, value in found.items()
    }


def vector(value: Tensor, x: Tensor) -> dict[str, Any]:
    return {"u": float(value[0]), "v": float(value[1]), "alignment": float(alignment(value[None], x))}
