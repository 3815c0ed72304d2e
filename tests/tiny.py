"""A network and images small enough for tests of everything around the engine."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

OWN = ["model=own", "model.call=tests.tiny:network", "model.resize=16", "model.crop=16"]


def network(batch_norm: bool = False) -> nn.Module:
    norm = [nn.BatchNorm2d(8)] if batch_norm else []
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        *norm,
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 64, 5),
    )


def normalised() -> nn.Module:
    return network(batch_norm=True)


def with_sigmoid() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))


def map_of_logits() -> nn.Module:
    """Classes, but still a map of them: (B, 5, 1, 1)."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1))


def ends_in_a_pool() -> nn.Module:
    """No final linear layer, as in SqueezeNet."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def mean_gradient(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).gather(1, target[:, None]).sum(), x)
    return gradient


def slow_gradient(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A second for each batch."""
    time.sleep(1)
    return mean_gradient(model, x, target)


def killed(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """As a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return x


def wrong_shape(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return x.mean(1)


def images(folder: Path, count: int = 5, side: int = 16, suffix: str = "png") -> Path:
    """`count` different smooth colour images."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BILINEAR).save(folder / f"image{i:03d}.{suffix}")
    return folder
