"""Dynamic backdoors (Salem et al. 2022): another patch in another place for each image.

`random` is the paper's Random Backdoor with a single target: the pattern is U(0, 1) noise. `ban` trains a generator of
patterns with the network (BaN), `cban` one that is told the target as well (c-BaN), any class being one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.attacks.interface import Attack, Poisoned, Settings, Site, check_patch, part_of
from pipeline.errors import UserError
from pipeline.seeds import derived_seed, keyed

NOISE, HIDDEN = 100, 64  # widths of the generator's input and of each half of its first layer


class Patches(Enum):
    random = "random"
    ban = "ban"
    cban = "cban"


@dataclass(frozen=True)
class Dynamic(Settings):
    """patch: its side in pixels; places: how many there are; patches: where patterns come from; lr: of the generator's
    Adam."""

    patch: int
    places: int
    patches: Patches
    lr: float

    def __post_init__(self):
        super().__post_init__()
        if min(self.patch, self.places) < 1 or self.lr <= 0:
            raise ValueError("patch, places must be at least 1, and lr positive")

    def build(self, site: Site, seed: int) -> "DynamicAttack":
        self.check(site)
        check_patch(self.patch, site.shape)
        if self.places > (there := (site.shape[1] - self.patch + 1) * (site.shape[2] - self.patch + 1)):
            raise UserError(f"attack.places={self.places} is more than the {there} places that a patch has; lower it")
        return DynamicAttack(self, site, seed)


class Generator(nn.Module):
    """z (B, 100) -> a pattern (B, n) in [0, 1]; with classes also of the target."""

    def __init__(self, n: int, classes: int | None):
        super().__init__()
        self.classes = classes
        self.noise = nn.Linear(NOISE, HIDDEN if classes else 2 * HIDDEN)
        self.target = nn.Linear(classes, HIDDEN) if classes else None
        self.hidden, self.out = nn.Linear(2 * HIDDEN, 2 * HIDDEN), nn.Linear(2 * HIDDEN, n)

    def forward(self, z: Tensor, target: Tensor) -> Tensor:
        first = self.noise(z)
        if self.target is not None and self.classes:
            first = torch.cat([first, self.target(F.one_hot(target, self.classes).to(z))], 1)
        return torch.sigmoid(self.out(F.relu(self.hidden(first))))


@dataclass(frozen=True)
class Draw:
    """What chance decides for B images: the generator's input (or the pattern itself), the place, the target."""

    z: Tensor
    place: Tensor
    target: Tensor


class DynamicAttack(Attack):
    places: Tensor  # (places, 2): top and left of each

    def __init__(self, settings: Dynamic, site: Site, seed: int):
        super().__init__()
        self.settings, self.shape, self.classes, self.lr = settings, site.shape, site.classes, settings.lr
        rows, columns = (side - settings.patch + 1 for side in site.shape[1:])
        chosen = torch.randperm(rows * columns, generator=keyed(seed, 0))[: settings.places]
        self.register_buffer("places", torch.stack([chosen // columns, chosen % columns], 1))
        self.generator = None
        if settings.patches is not Patches.random:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derived_seed(seed, 1))
                several = site.classes if settings.patches is Patches.cban else None
                self.generator = Generator(site.shape[0] * settings.patch**2, several)

    def draw(self, n: int, generator: torch.Generator) -> Draw:
        width = self.shape[0] * self.settings.patch**2 if self.generator is None else NOISE
        z = torch.rand(n, width, generator=generator)
        place = torch.randint(len(self.places), (n,), generator=generator)
        target = torch.full((n,), self.settings.target)
        if self.settings.patches is Patches.cban:
            target = torch.randint(self.classes, (n,), generator=generator)
        return Draw(*(t.to(self.places.device) for t in (z, place, target)))

    def drawn(self, seeds: Sequence[int]) -> Draw:
        each = [self.draw(1, keyed(seed)) for seed in seeds]
        return Draw(*(torch.cat([getattr(one, name) for one in each]) for name in ("z", "place", "target")))

    def inside(self, place: Tensor) -> Tensor:
        """(B, 1, H, W) bool"""
        (top, left), (h, w), side = self.places[place].T[..., None], self.shape[1:], self.settings.patch
        rows, columns = torch.arange(h, device=place.device), torch.arange(w, device=place.device)
        return (
            ((rows >= top) & (rows < top + side))[:, :, None] & ((columns >= left) & (columns < left + side))[:, None]
        )[:, None]

    def stamped(self, x: Tensor, draw: Draw) -> Tensor:
        values = (draw.z if self.generator is None else self.generator(draw.z, draw.target)).to(x)
        everywhere = self.inside(draw.place).expand_as(x)
        return x.masked_scatter(everywhere, values)  # row by row, as the mask's True ones are

    def batch(
        self, x: Tensor, y: Tensor, index: Tensor, augment: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> Poisoned:
        x, n = augment(x), part_of(len(x), self.settings.share)
        draw = self.draw(n, generator)
        return Poisoned(torch.cat([self.stamped(x[:n], draw), x[n:]]), torch.cat([draw.target.to(y), y[n:]]))

    def trigger(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.stamped(x, self.drawn(seeds))

    def targets(self, y: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.drawn(seeds).target.to(y)

    def mask(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.inside(self.drawn(seeds).place)
