"""Key information sufficiency (20): S, and how a map becomes an image."""

from enum import Enum

import torch
from torch import Tensor


class Rescale(Enum):
    minmax = "minmax"  # the paper's
    percentile = "percentile"  # the same, after cutting off the tails, which min and max hang on
    contrast = "contrast"  # x's mean and standard deviation instead of its range


def kis(v_k: Tensor, a: Tensor, v_k_star: Tensor, a_star: Tensor) -> Tensor:
    """S of (20), 1 - |v_k* A_L* - v_k A_L|_1 / |v_k A_L|_1, (B,) float64; NaN where the denominator is 0.

    v_k, v_k_star: (B, n) rows of the last linear layer; a, a_star: (B, n) its inputs A_L. Products elementwise, no bias.
    """
    original, star = v_k.double() * a.double(), v_k_star.double() * a_star.double()
    denominator = original.abs().sum(1)
    s = 1 - (star - original).abs().sum(1) / denominator
    return torch.where(denominator > 0, s, torch.nan)


def rescaled(r: Tensor, x: Tensor, how: Rescale, percent: float) -> Tensor:
    """R~ of (20): each map R mapped linearly to [min x, max x] over all its channels; of x's shape and type, NaN where R is constant or not finite.

    percent: what rescale=percentile cuts off at each end of R.
    """
    source, wanted = r.flatten(1).double(), x.flatten(1).double()
    n = source.shape[1]
    if how is Rescale.contrast:
        unit = (source - source.mean(1, keepdim=True)) / source.std(1, keepdim=True)
        found = unit * wanted.std(1, keepdim=True) + wanted.mean(1, keepdim=True)
    else:
        ordered = source.sort(1).values
        cut = int(percent / 100 * (n - 1)) if how is Rescale.percentile else 0
        low, high = ordered[:, cut, None], ordered[:, n - 1 - cut, None]
        bottom, top = wanted.amin(1, keepdim=True), wanted.amax(1, keepdim=True)
        found = (source.clamp(low, high) - low) / (high - low) * (top - bottom) + bottom
    usable = source.isfinite().all(1) & (source.amax(1) > source.amin(1))
    return torch.where(usable[:, None], found, torch.nan).view_as(x).to(x.dtype)
