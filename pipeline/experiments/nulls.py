"""Null maps: what aligns with the image without any network. They belong inside every plot of alignment."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.metrics import BANDS, alignment, band_alignment
from pipeline.seeds import name_seed
from pipeline.store import Result


@dataclass(frozen=True)
class Options:
    """blocks: the mosaic has so many blocks along each side; blur: the image's side over the Gaussian's sigma."""

    blocks: int
    blur: int


def run(images: Any, options: Options) -> list[Result]:
    """A row per image and null map: image, target (-1), null, alignment, alignment_band0..3."""
    rows = []
    for batch in images:
        for b, image in enumerate(batch.names):
            x = batch.x[b : b + 1]
            maps = {name: null(x, options) for name, null in NULLS.items()}
            maps |= {"noise": noise(x, image), "other": images.other(image)}
            for name, r in maps.items():
                bands = band_alignment(r, x)[0]
                rows.append(
                    {"image": image, "target": -1, "null": name, "alignment": float(alignment(r, x))}
                    | {f"alignment_band{i}": float(bands[i]) for i in range(BANDS)}
                )
    return [Result(pd.DataFrame(rows))]


def mosaic(x: Tensor, options: Options) -> Tensor:
    """x in blocks x blocks squares of their mean colour, a low-pass."""
    return F.interpolate(F.adaptive_avg_pool2d(x, options.blocks), size=x.shape[-2:], mode="nearest")


def mean_colour(x: Tensor, options: Options) -> Tensor:
    return x.mean((2, 3), keepdim=True).expand_as(x)


def edges(x: Tensor, options: Options) -> Tensor:
    """Sobel magnitude of the grey image (mean over channels), on all channels, not centred."""
    kernel = x.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    gradient = F.conv2d(grey, torch.stack([kernel, kernel.T])[:, None])
    return gradient.norm(dim=1, keepdim=True).expand_as(x)


def blur(x: Tensor, options: Options) -> Tensor:
    """Gaussian blur, sigma = side / `options.blur`."""
    sigma = x.shape[-1] / options.blur
    radius = min(int(4 * sigma + 0.5), x.shape[-1] - 1)
    t = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(t**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    across = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="reflect"), kernel, groups=x.shape[1])
    return F.conv2d(F.pad(across, (0, 0, radius, radius), mode="reflect"), kernel.transpose(2, 3), groups=x.shape[1])


def noise(x: Tensor, image: str) -> Tensor:
    """N(0, 1), keyed by the image."""
    generator = torch.Generator().manual_seed(name_seed(image))
    return torch.randn(x.shape, generator=generator).to(x)


NULLS: dict[str, Callable[[Tensor, Options], Tensor]] = {"mosaic": mosaic, "mean_colour": mean_colour, "edges": edges, "blur": blur}
