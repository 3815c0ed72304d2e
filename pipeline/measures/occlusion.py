"""Occlusion: pixels in the order of a score, images in which the first of them are others, and the area under what
becomes of a class."""

from enum import Enum

import torch
from torch import Tensor


class Fill(Enum):
    mean = "mean"  # 0 of normalised space: the data's mean colour
    blur = "blur"  # of the image itself


def ranks(score: Tensor) -> Tensor:
    """(B, H, W) -> each pixel's place when the highest score comes first, 0 to HW - 1; of equal scores the first in
    reading order comes first."""
    order = score.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).view_as(score)


def counts(pixels: int, steps: int) -> list[int]:
    """How many of so many pixels the shares 0, 1/steps ... 1 are, to the nearest whole number."""
    return [(2 * i * pixels + steps) // (2 * steps) for i in range(steps + 1)]


def exchanged(x: Tensor, other: Tensor, place: Tensor, count: int) -> Tensor:
    """x (B, C, H, W) with the `count` first pixels of `other`, all channels together; place (B, H, W): ranks."""
    return torch.where((place < count)[:, None], other, x)


def probability(logits: Tensor, classes: Tensor) -> Tensor:
    """Softmax of (B, K) at the classes (B,), (B,) float64."""
    return logits.double().softmax(1).gather(1, classes[:, None])[:, 0]


def area(curve: Tensor) -> Tensor:
    """(B, n + 1) at the shares 0, 1/n ... 1 -> (B,), by trapezoids."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1))
