"""Maps that no network made: what any attribution has to be better than."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.seeds import name_seed


def mosaic(x: Tensor, blocks: int) -> Tensor:
    """x in blocks x blocks squares of their mean colour, a low-pass."""
    return F.interpolate(F.adaptive_avg_pool2d(x, blocks), size=x.shape[-2:], mode="nearest")


def mean_colour(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True).expand_as(x)


def edges(x: Tensor) -> Tensor:
    """Sobel magnitude of the grey image (mean over channels), on all channels, not centred."""
    kernel = x.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    gradient = F.conv2d(grey, torch.stack([kernel, kernel.T])[:, None])
    return gradient.norm(dim=1, keepdim=True).expand_as(x)


def blur(x: Tensor, ratio: int) -> Tensor:
    """Gaussian blur, sigma = side / ratio."""
    sigma = x.shape[-1] / ratio
    radius = min(int(4 * sigma + 0.5), x.shape[-1] - 1)
    t = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(t**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    across = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="reflect"), kernel, groups=x.shape[1])
    return F.conv2d(F.pad(across, (0, 0, radius, radius), mode="reflect"), kernel.transpose(2, 3), groups=x.shape[1])


def noise(x: Tensor, image: str) -> Tensor:
    """N(0, 1), keyed by the image; x: one image (..., H, W)."""
    generator = torch.Generator().manual_seed(name_seed(image))
    return torch.randn(x.shape, generator=generator).to(x)
