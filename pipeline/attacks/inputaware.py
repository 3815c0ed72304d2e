"""InputAware (Nguyen and Tran 2020): a pattern and a mask that a network makes for each image, and that must not work
on another one.

Two things differ from the public releases: the gradients of the generator are zeroed before each step (theirs add up),
and the generator sees and makes pixels in [0, 1]. Theirs sees normalised images, whose distances are some four times as
long: of patterns, normalised too, that leaves the ratio as it is, of masks it is a weight of 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.attacks.interface import Attack, Poisoned, Settings, Site, part_of, relabelled
from pipeline.errors import UserError
from pipeline.seeds import derived_seed


@dataclass(frozen=True)
class InputAware(Settings):
    """cross: share of images that get pattern and mask of another image and keep their label; preparation: steps that
    train the mask before it is frozen, on `pairs` pairs of images; density: of the mask above which it costs, times
    density_weight; diversity_weight: of the demand that other images get other patterns, and mask_diversity_weight that
    they get other masks; lr: of Adam."""

    cross: float
    preparation: int
    pairs: int
    density: float
    density_weight: float
    diversity_weight: float
    lr: float
    mask_diversity_weight: float = 1.0  # of files that do not name it

    def __post_init__(self):
        super().__post_init__()
        if self.cross < 0 or self.share + self.cross > 1:
            raise ValueError(f"share and cross must add up to 1 at most, not {self.share + self.cross:g}")
        if min(self.preparation, self.pairs) < 1 or self.lr <= 0:
            raise ValueError("preparation and pairs must be at least 1, and lr positive")

    def build(self, site: Site, seed: int) -> "InputAwareAttack":
        self.check(site)
        if any(side % 8 or side < 16 for side in site.shape[1:]):
            raise UserError(
                f"attack=inputaware halves the images three times, and theirs are {site.shape[1]} x {site.shape[2]} "
                "pixels; choose data of a multiple of 8, from 16"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, 1))
            return InputAwareAttack(self, site.shape[0])


def block(inputs: int, outputs: int, *after: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs, momentum=0.05), *after)


def encoder_decoder(channels: int, outputs: int) -> nn.Sequential:
    """Pixels in [0, 1] -> (B, outputs, H, W) before the tanh."""
    layers: list[nn.Module] = []
    for inputs, width in ((channels, 32), (32, 64), (64, 128)):
        layers += [block(inputs, width, nn.ReLU()), block(width, width, nn.ReLU()), nn.MaxPool2d(2)]
    layers.append(block(128, 128, nn.ReLU()))
    for inputs, width in ((128, 64), (64, 32), (32, outputs)):
        last = () if width == outputs else (nn.ReLU(),)
        layers += [
            nn.Upsample(scale_factor=2, mode="bilinear"),
            block(inputs, inputs, nn.ReLU()),
            block(inputs, width, *last),
        ]
    return nn.Sequential(*layers)


class InputAwareAttack(Attack):
    CROSS = "cross-trigger"

    def __init__(self, settings: InputAware, channels: int):
        super().__init__()
        self.settings, self.lr, self.preparation = settings, settings.lr, settings.preparation
        self.mask_net, self.pattern_net = encoder_decoder(channels, 1), encoder_decoder(channels, channels)

    def masks(self, x: Tensor) -> Tensor:
        """(B, 1, H, W), nearly 0 or 1."""
        m = torch.tanh(self.mask_net(2 * x - 1)) / 2 + 0.5
        return torch.tanh(20 * m - 10) / 2 + 0.5

    def patterns(self, x: Tensor) -> Tensor:
        return torch.tanh(self.pattern_net(2 * x - 1)) / 2 + 0.5

    def prepare(self, x: Tensor) -> Tensor:
        self.train()
        n = min(self.settings.pairs, len(x) // 2)
        one, two = x[:n], x[n : 2 * n]
        masks = self.masks(torch.cat([one, two]))
        dense = (masks[:n] - self.settings.density).relu().mean()
        diverse = diversity(one, two, masks[:n], masks[n:])
        return self.settings.density_weight * dense + self.settings.mask_diversity_weight * diverse

    def applied(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """x with pattern and mask of `source`, and the pattern."""
        with torch.no_grad():
            mask = self.masks(source)
        pattern = self.patterns(source)
        return x + (pattern - x) * mask, pattern

    def batch(
        self, x: Tensor, y: Tensor, index: Tensor, augment: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> Poisoned:
        self.pattern_net.train()
        self.mask_net.eval()  # trained and frozen
        x, n = augment(x), part_of(len(x), self.settings.share)
        both = n + (part_of(len(x), self.settings.cross) if self.settings.cross else 0)
        others = x.roll(len(x) // 2, 0)  # in the random order of an epoch
        sources = torch.cat([x[:n], others[n:both]])
        made, patterns = self.applied(x[:both], sources)
        apart = diversity(x[:n], others[:n], patterns[:n], self.patterns(others[:n]))
        return Poisoned(
            torch.cat([made, x[both:]]),
            relabelled(y, n, self.settings.target),
            self.settings.diversity_weight * apart,
        )

    def trigger(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.cross(x, x, seeds)

    def targets(self, y: Tensor, seeds: Sequence[int]) -> Tensor:
        return torch.full_like(y, self.settings.target)

    def cross(self, x: Tensor, others: Tensor, seeds: Sequence[int]) -> Tensor:
        self.eval()
        with torch.no_grad():
            return self.applied(x, others)[0]

    def mask(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        self.eval()
        with torch.no_grad():
            return self.masks(x) > 0.5


def diversity(x: Tensor, x2: Tensor, made: Tensor, made2: Tensor) -> Tensor:
    """Mean over pairs of the distance of the images over that of what was made for them; small where they differ."""

    def rms(difference: Tensor) -> Tensor:
        return difference.square().mean((1, 2, 3)).add(1e-12).sqrt()  # its gradient is finite where nothing differs

    return (rms(x - x2) / (rms(made - made2) + 1e-7)).mean()
