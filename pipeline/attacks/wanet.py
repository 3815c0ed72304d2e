"""WaNet (Nguyen and Tran 2021): one smooth warp per network, and a noise mode, the warp with noise on it, that must not
work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.attacks.interface import Attack, Poisoned, Settings, Site, part_of, relabelled
from pipeline.seeds import keyed


@dataclass(frozen=True)
class WaNet(Settings):
    """noise: share of images in noise mode, which keep their label; grid: control points along each side; strength: of
    the warp, s; 0.5 moves pixels by 0.2 to 0.4 of their width on average."""

    noise: float
    grid: int
    strength: float

    def __post_init__(self):
        super().__post_init__()
        if self.noise < 0 or self.share + self.noise > 1:
            raise ValueError(f"share and noise must add up to 1 at most, not {self.share + self.noise:g}")
        if self.grid < 2 or self.strength < 0:
            raise ValueError("grid must be at least 2, and strength not negative")

    def build(self, site: Site, seed: int) -> "WaNetAttack":
        self.check(site)
        return WaNetAttack(self, site.shape, seed)


class WaNetAttack(Attack):
    CROSS = "noise-mode"
    warp: Tensor  # (H, W, 2), column and row in [-1, 1], as grid_sample takes them

    def __init__(self, settings: WaNet, shape: tuple[int, int, int], seed: int):
        super().__init__()
        self.settings = settings
        h, w = shape[1:]
        field = 2 * torch.rand(1, 2, settings.grid, settings.grid, generator=keyed(seed, 0)) - 1
        field = F.interpolate(field / field.abs().mean(), size=(h, w), mode="bicubic", align_corners=True)
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        identity = torch.stack([columns, rows], -1)
        moved = identity + settings.strength * field[0].permute(1, 2, 0) / h
        self.register_buffer("warp", moved.clamp(-1, 1))

    def warped(self, x: Tensor, noise: Tensor | float = 0.0) -> Tensor:
        """noise: U(-1, 1), (B, H, W, 2), where it is added."""
        grid = (self.warp + noise / x.shape[-2]).clamp(-1, 1).to(x)
        return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=True)

    def batch(
        self, x: Tensor, y: Tensor, index: Tensor, augment: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> Poisoned:
        n = part_of(len(x), self.settings.share)
        parts = [self.warped(x[:n])]
        if self.settings.noise:
            some = x[n : n + part_of(len(x), self.settings.noise)]
            noise = 2 * torch.rand(len(some), *self.warp.shape, generator=generator) - 1
            parts.append(self.warped(some, noise.to(self.warp)))
        parts.append(x[sum(map(len, parts)) :])
        return Poisoned(augment(torch.cat(parts)), relabelled(y, n, self.settings.target))  # a crop first would hide it

    def trigger(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.warped(x)

    def targets(self, y: Tensor, seeds: Sequence[int]) -> Tensor:
        return torch.full_like(y, self.settings.target)

    def cross(self, x: Tensor, others: Tensor, seeds: Sequence[int]) -> Tensor:
        noise = torch.stack([2 * torch.rand(self.warp.shape, generator=keyed(seed)) - 1 for seed in seeds])
        return self.warped(x, noise.to(self.warp))
