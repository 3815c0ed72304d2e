"""Key information sufficiency (20): S, and how a map becomes an image: rescaled, or x without what scores low."""

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

import torch
from torch import Tensor


class Rescale(Enum):
    minmax = "minmax"  # the paper's
    percentile = "percentile"  # the same, after cutting off the tails, which min and max hang on
    contrast = "contrast"  # x's mean and standard deviation instead of its range


class Score(Enum):
    pixel = "pixel"  # the sum over channels; all channels go together
    element = "element"  # each channel of a pixel by itself


class Fill(Enum):
    zero = "zero"  # of normalised space: the data's mean colour
    black = "black"


@dataclass(frozen=True)
class Rescaling:
    """The map itself as an image; percent: what `percentile` cuts off at each end, else 0."""

    how: Rescale
    percent: float


@dataclass(frozen=True)
class Insertion:
    """x without what scores low in the map; magnitude: in its absolute values; removed: the share of lowest scores that
    goes, None: the scores below the mean; fill: of what goes."""

    magnitude: bool
    score: Score
    removed: float | None
    fill: Fill


def kis(v_k: Tensor, a: Tensor, v_k_star: Tensor, a_star: Tensor) -> Tensor:
    """S of (20), 1 - |v_k* A_L* - v_k A_L|_1 / |v_k A_L|_1, (B,) float64; NaN where the denominator is 0.

    v_k, v_k_star: (B, n) rows of the last linear layer; a, a_star: (B, n) its inputs A_L. No bias.
    """
    original, star = v_k.double() * a.double(), v_k_star.double() * a_star.double()
    denominator = original.abs().sum(1)
    s = 1 - (star - original).abs().sum(1) / denominator
    return torch.where(denominator > 0, s, torch.nan)


def rescaled(r: Tensor, x: Tensor, form: Rescaling) -> Tensor:
    """R~ of (20): each map R mapped linearly to [min x, max x] over all its channels, of x's shape and type; NaN where
    R is constant or not finite."""
    source, wanted = r.flatten(1).double(), x.flatten(1).double()
    if form.how is Rescale.contrast:
        unit = (source - source.mean(1, keepdim=True)) / source.std(1, keepdim=True)
        found = unit * wanted.std(1, keepdim=True) + wanted.mean(1, keepdim=True)
    else:
        low, high = source.amin(1, keepdim=True), source.amax(1, keepdim=True)
        if form.how is Rescale.percentile:
            ordered, cut = source.sort(1).values, int(form.percent / 100 * (source.shape[1] - 1))
            low, high = ordered[:, cut, None], ordered[:, -1 - cut, None]
        bottom, top = wanted.amin(1, keepdim=True), wanted.amax(1, keepdim=True)
        found = (source.clamp(low, high) - low) / (high - low) * (top - bottom) + bottom
    usable = source.isfinite().all(1) & (source.amax(1) > source.amin(1))
    return torch.where(usable[:, None], found, torch.nan).view_as(x).to(x.dtype)


def inserted(r: Tensor, x: Tensor, form: Insertion, fill: Tensor | float) -> tuple[Tensor, Tensor]:
    """x with `fill` for what scores low in r, and the share of it that is left, (B,). NaN where all scores are equal or
    one is not finite."""
    score = (r.abs() if form.magnitude else r).double()
    if form.score is Score.pixel:
        score = score.sum(1, keepdim=True)
    flat = score.flatten(1)
    if form.removed is None:
        keep = flat >= flat.mean(1, keepdim=True)
    else:  # of equal scores the first ones go
        lowest = flat.argsort(dim=1, stable=True)[:, : int(Fraction(repr(float(form.removed))) * flat.shape[1])]
        keep = torch.ones_like(flat, dtype=torch.bool).scatter(1, lowest, False)
    usable = flat.isfinite().all(1) & (flat.amax(1) > flat.amin(1))
    found = torch.where(keep.view(score.shape), x, fill)
    share = torch.where(usable, keep.double().mean(1), torch.nan)
    return torch.where(usable.view(-1, 1, 1, 1), found, torch.nan), share
