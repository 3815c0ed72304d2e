"""Theorem 1: a random hidden layer gives x back under a negative filtering rule. How well, against the number K of
neurons, and for which weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.network import Network
from pipeline.engine.walk import attribute
from pipeline.errors import UserError
from pipeline.experiments.interface import Result
from pipeline.images.batches import Images
from pipeline.measures.maps import alignment
from pipeline.networks.shallow import shallow
from pipeline.seeds import derived_seed, keyed, name_seed, normal
from pipeline.weights.draw import standard_normal
from pipeline.weights.laws import Law, drawing_law

CORNER = (
    0.55  # e_i + CORNER e_j: where R of i.i.d. uniform weights leaves x most; for K without end the alignment is .9933
)
FITTED = 10  # K / d from which on the rate is fitted


COLUMNS = ["image", "target", "input", "dim", "neurons", "predicted", "draw", "alignment", "slope"]


@dataclass(frozen=True)
class Options:
    """sides: of the input, d = 3 side^2; neurons_per_dim: K / d; inputs: patch (of the image), random (normal), corner
    (e_i + .55 e_j); draws: of the weights, seeds from `seed`."""

    sides: list[int]
    neurons_per_dim: list[int]
    inputs: list[str]
    draws: int
    seed: int

    def __post_init__(self):
        if unknown := [name for name in self.inputs if name not in INPUTS]:
            raise ValueError(f"there is no {unknown[0]}; choose from {', '.join(INPUTS)}")
        if not (self.sides and self.neurons_per_dim and self.inputs):
            raise ValueError("sides, neurons_per_dim and inputs need one entry at least")
        if min([self.draws, *self.sides, *self.neurons_per_dim]) < 1:
            raise ValueError("draws, sides and neurons_per_dim must be at least 1")


def run(images: Images, rules: Sequence[Rule], weights: Any, options: Options) -> list[Result]:
    """One table per rule, a row per image, input, d, K and draw of the hidden weights, by the law `weights`: COLUMNS.
    target is -1; predicted: 1 - alignment of GBP, see predicted_gap; slope: of log tan^2 of the angle, mean over draws,
    against log K (-1 is the rate 1/K).

    The readout is Gaussian, of its own stream, for every law: all that the theorem asks of r is not to depend on W.
    Raises UserError for weights that no law draws.
    """
    law = drawing_law(weights, "theorem1")
    kept = [(name, x.double().cpu()) for batch in images for name, x in zip(batch.names, batch.x, strict=True)]
    if not kept:  # none of these can be read
        return [Result(pd.DataFrame(columns=COLUMNS)) for _ in rules]
    labels = pd.DataFrame([{"image": name, "target": -1, "input": kind} for kind in options.inputs for name, _ in kept])
    tables: list[list[pd.DataFrame]] = [[] for _ in rules]
    for side in options.sides:
        x = torch.stack([INPUTS[kind](image, name, side) for kind in options.inputs for name, image in kept])  # (B, d)
        dim = x.shape[1]
        for neurons in (dim * ratio for ratio in options.neurons_per_dim):
            facts = {"dim": dim, "neurons": neurons, "predicted": predicted_gap(law, x, neurons).numpy()}
            for draw in range(options.seed, options.seed + options.draws):
                network = hidden_layer(law, dim, neurons, draw)
                for table, found in zip(tables, aligned(network, x, rules), strict=True):
                    table.append(labels.assign(**facts, draw=draw, alignment=found.numpy()))
    return [Result(with_slope(pd.concat(table, ignore_index=True))) for table in tables]


def hidden_layer(law: Law, dim: int, neurons: int, draw: int) -> Network:
    """K neurons of the law under a Gaussian readout, float64; a stream for each (draw, d, K)."""
    seed = derived_seed(draw, dim, neurons)
    hidden = law.draw(torch.Size((neurons, dim)), seed, 1)
    return shallow(hidden.double(), standard_normal((1, neurons), seed, 2).double())


def aligned(network: Network, x: Tensor, rules: Sequence[Rule]) -> list[Tensor]:
    """(B,) alignments of each rule; NaN where x activates no neuron (weights that are all positive)."""
    record = network.forward(x)
    alive = record.logits[:, 0] != 0
    found = torch.full((len(rules), len(x)), torch.nan, dtype=x.dtype)
    if alive.any():
        record = record if alive.all() else network.forward(x[alive])
        for row, rule in zip(found, rules, strict=True):
            row[alive] = alignment(attribute(record, rule), x[alive])
    return list(found)


def predicted_gap(law: Law, x: Tensor, neurons: int) -> Tensor:
    """1 - alignment (B,) of GBP, for large K, r normal and elliptical weights of covariance S (or in many dimensions).

    R = sum_i r_i+ M_i w_i has the mean K / sqrt(2 pi) m, where m = E w 1(w.x > 0) is half the gradient of E|w.x| and
    lies along S x, and over all directions together the variance K (tr S / 4 - |m|^2 / (2 pi)). For S = c I the squared
    tangent of the angle is pi^2 (d - 1) / K, over the law's effective width. NaN for a law that is not centred.
    """
    variances = law.deviations(x.shape[1]).to(x).square()
    sx = x * variances
    # |m|^2, of unit x: |S x|^2 / (x.S x) times (E|w.x|)^2 / (4 x.S x), which is effective width / (2 pi)
    squared = sx.square().sum(1) / (x * sx).sum(1) * law.effective_width / (2 * math.pi)
    scatter = (variances.sum() / 4 - squared / (2 * math.pi)) * 2 * math.pi / neurons
    return 1 - alignment(sx, x) / (1 + scatter / squared).sqrt()


def with_slope(table: Any) -> pd.DataFrame:  # (Any: pandas types every selection as a frame, a series or a scalar)
    series = ["image", "input", "dim"]
    squared_tangent = (table["alignment"] ** -2 - 1).where(table["alignment"] > 0)
    means = table.assign(tangent=squared_tangent).groupby([*series, "neurons"], as_index=False)["tangent"].mean()
    slopes = means.groupby(series)[["dim", "neurons", "tangent"]].apply(slope).rename("slope")
    return table.merge(slopes, left_on=series, right_index=True)


def slope(means: pd.DataFrame) -> float:
    """Least squares of log tan^2 on log K, where K >= FITTED d; NaN with fewer than two points."""
    used = means[(means["neurons"] >= FITTED * means["dim"]) & (means["tangent"] > 0)]
    return float(np.polyfit(np.log(used["neurons"]), np.log(used["tangent"]), 1)[0]) if len(used) > 1 else float("nan")


# ---- inputs: image (3, H, W), its name, side -> x (3 side^2,) float64 --------------------------------------------


def patch(image: Tensor, name: str, side: int) -> Tensor:
    """A square of the image at a random place, normalised pixels."""
    if side > min(image.shape[1:]):
        raise UserError(f"a patch of {side} px is larger than the image {name}; lower theorem1.sides")
    top, left = (
        int(torch.randint(size - side + 1, (), generator=keyed(name_seed(name), side, axis)))
        for axis, size in enumerate(image.shape[1:])
    )
    return image[:, top : top + side, left : left + side].flatten()


def gaussian(image: Tensor, name: str, side: int) -> Tensor:
    return normal(keyed(name_seed(name), side, 2), len(image) * side**2)


def corner(image: Tensor, name: str, side: int) -> Tensor:
    i, j = torch.randperm(len(image) * side**2, generator=keyed(name_seed(name), side, 3))[:2].tolist()
    x = torch.zeros(len(image) * side**2, dtype=torch.float64)
    x[i], x[j] = 1, CORNER
    return x


INPUTS = {"patch": patch, "random": gaussian, "corner": corner}
