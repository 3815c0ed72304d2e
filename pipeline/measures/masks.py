"""How much of a map lies where an image was changed, and how much behind its objects. A pixel's score is the sum of
|R| over channels, its energy that of R^2."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.measures.likeness import spearman

WIDER = 3  # of the mask's pixels: the top ones that iou takes
MOSTLY = 0.75  # of a cell of an activation's map


def inside_mask(r: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """r (B, C, H, W), mask (B, 1, H, W) bool of m pixels each -> (B,) float64 each, NaN where the mask is empty or the
    map is 0 or not finite.

    energy: sum of |R| inside / sum of |R|; rank_accuracy: share of the m highest pixels that are inside; iou: of the
    3 m highest ones with the mask; pointing: 1 if the highest is inside; share: m / (H W), what chance gives.
    Of equal scores the first pixels count as higher.
    """
    score, inside = r.double().abs().sum(1).flatten(1), mask.flatten(1)
    m, total = inside.sum(1), score.sum(1)
    order = score.argsort(dim=1, descending=True, stable=True)
    hits = inside.gather(1, order).cumsum(1).double()  # of the first pixels, how many are inside

    def among(count: Tensor) -> Tensor:
        last = count.clamp(1, score.shape[1]) - 1
        return hits.gather(1, last[:, None])[:, 0]

    wide = among(WIDER * m)
    found = {
        "energy": (score * inside).sum(1) / total,
        "rank_accuracy": among(m) / m,
        "iou": wide / (m + (WIDER * m).clamp(max=score.shape[1]) - wide),
        "pointing": hits[:, 0],
    }
    there = (m > 0) & (total > 0) & total.isfinite()
    return {name: torch.where(there, value, torch.nan) for name, value in found.items()} | {
        "share": m.double() / score.shape[1]
    }


def rank_correlation(r: Tensor, change: Tensor) -> Tensor:
    """Spearman's correlation over pixels of the scores of r and of a change of the image, both (B, C, H, W); (B,)
    float64, NaN where one of them is the same everywhere or not finite."""
    return spearman(*(t.double().abs().sum(1) for t in (r, change)))


def background(r: Tensor, x: Tensor, objects: Tensor) -> Tensor:
    """beta: the background's share of R^2 over its share of x^2; 1 where a map is x. r, x (B, C, H, W), objects (B, 1,
    H, W) bool; (B,) float64, NaN where R or one of background and objects is empty."""
    return share_behind(r, objects) / share_behind(x, objects)


def share_behind(a: Tensor, objects: Tensor) -> Tensor:
    """The background's share of a^2, where a is a map in the form of the image, or smaller (cells that are object in
    part count in part). a (B, C, h, w), objects (B, 1, H, W) bool; (B,) float64, NaN where a is 0 or not finite, and
    where no cell is background to three quarters or none is object: there the share tells nothing."""
    object_part = F.adaptive_avg_pool2d(objects.double(), (a.shape[-2], a.shape[-1]))
    energy = (a.double() ** 2).sum(1, keepdim=True)
    share = ((1 - object_part) * energy).flatten(1).sum(1) / energy.flatten(1).sum(1)
    part = object_part.flatten(1)
    return torch.where((part.amax(1) >= MOSTLY) & (part.amin(1) <= 1 - MOSTLY), share, torch.nan)
