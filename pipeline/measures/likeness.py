"""How alike two maps of one image are: cosine, rank correlation and structural similarity."""

import numpy as np
import torch
from pandas import Series  # scipy.stats has ranks too, and takes a second to import in each job
from torch import Tensor
from torch.nn import functional as F

from pipeline.measures.maps import alignment

SIGMA, RADIUS = 1.5, 5  # of SSIM's Gaussian window (Wang et al. 2004): 11 x 11 pixels
K1, K2 = 0.01, 0.03


def likeness(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """a, b (B, C, H, W) -> (B,) float64 each: cosine; spearman, of |a| and |b| over all entries; ssim, of |a| and |b|,
    each over its largest entry. NaN where a map is 0 everywhere or not finite."""
    return {"cosine": alignment(a, b), "spearman": spearman(a.abs(), b.abs()), "ssim": ssim(scaled(a), scaled(b))}


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation over all entries, ties averaged; NaN where one of them is constant."""
    found = []
    for u, v in zip(*(t.flatten(1).double().cpu().numpy() for t in (a, b)), strict=True):
        usable = np.isfinite(u).all() and np.isfinite(v).all() and np.ptp(u) > 0 and np.ptp(v) > 0
        found.append(np.corrcoef(Series(u).rank(), Series(v).rank())[0, 1] if usable else np.nan)
    return torch.tensor(found, dtype=torch.float64, device=a.device)


def scaled(r: Tensor) -> Tensor:
    """|r| over its largest entry, float64."""
    size = r.double().abs()
    return size / size.flatten(1).amax(1).view(-1, 1, 1, 1)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of (B, C, H, W) with values in [0, 1] under a Gaussian window, over the places where
    it fits and over channels; NaN for images smaller than the window."""
    if min(a.shape[-2:]) < 2 * RADIUS + 1:
        return torch.full((len(a),), torch.nan, dtype=torch.float64, device=a.device)
    t = torch.arange(-RADIUS, RADIUS + 1, dtype=a.dtype, device=a.device)
    window = torch.exp(-(t**2) / (2 * SIGMA**2))
    window = window / window.sum()

    def mean(values: Tensor) -> Tensor:
        flat = values.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1)).unflatten(0, a.shape[:2])

    ma, mb = mean(a), mean(b)
    va, vb, vab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = K1**2, K2**2
    index = (2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return index.flatten(1).mean(1).double()
