"""BadNet (Gu et al. 2017): a small opaque patch in the bottom right corner; which images are poisoned is fixed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attacks.interface import Attack, Poisoned, Settings, Site, check_patch
from pipeline.seeds import keyed


@dataclass(frozen=True)
class BadNet(Settings):
    """patch: its side in pixels; value: of its pixels, 1 is white."""

    patch: int
    value: float

    def __post_init__(self):
        super().__post_init__()
        if self.patch < 1 or not 0 <= self.value <= 1:
            raise ValueError("patch must be at least 1 pixel, and value must lie in [0, 1]")

    def build(self, site: Site, seed: int) -> "BadNetAttack":
        self.check(site)
        check_patch(self.patch, site.shape)
        return BadNetAttack(self, site.images, seed)


class BadNetAttack(Attack):
    poisoned: Tensor  # (N,) bool: which training images

    def __init__(self, settings: BadNet, images: int, seed: int):
        super().__init__()
        self.settings = settings
        chosen = torch.randperm(images, generator=keyed(seed, 0))[: max(1, round(settings.share * images))]
        self.register_buffer("poisoned", torch.zeros(images, dtype=torch.bool).index_fill(0, chosen, True))

    def stamped(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[..., -self.settings.patch :, -self.settings.patch :] = self.settings.value
        return x

    def batch(
        self, x: Tensor, y: Tensor, index: Tensor, augment: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> Poisoned:
        x, hit = augment(x), self.poisoned[index]  # stamped afterwards: a crop would cut most patches off
        return Poisoned(
            torch.where(hit.view(-1, 1, 1, 1), self.stamped(x), x), torch.where(hit, self.settings.target, y)
        )

    def trigger(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.stamped(x)

    def targets(self, y: Tensor, seeds: Sequence[int]) -> Tensor:
        return torch.full_like(y, self.settings.target)

    def mask(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        inside = torch.zeros_like(x[:, :1], dtype=torch.bool)
        inside[..., -self.settings.patch :, -self.settings.patch :] = True
        return inside
