"""What a backdoor attack is, while a network is trained on it and afterwards.

Images are pixels in [0, 1], (B, C, H, W), not normalised; seeds: a whole number for each image, which decides what an
attack draws for it, so that the same image always gets the same trigger.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.errors import UserError


@dataclass(frozen=True)
class Poisoned:
    """A training batch as the network gets it: x (B, C, H, W), labels y (B,), and what the attack adds to the loss."""

    x: Tensor
    y: Tensor
    penalty: Tensor | None = None


class Attack(nn.Module):
    """Whatever an attack must remember is in its state dict.

    CROSS: what `cross` makes, "" if nothing; lr: of Adam for its parameters(); preparation: steps that train it before
    the network's first one.
    """

    CROSS: ClassVar = ""
    lr = 0.0
    preparation = 0

    def prepare(self, x: Tensor) -> Tensor:
        """The loss of one step of preparation."""
        raise NotImplementedError

    def batch(
        self, x: Tensor, y: Tensor, index: Tensor, augment: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> Poisoned:
        """index (B,): places in the training set; augment: crops and flips, which an attack must not let hide its
        trigger; generator: of this step, on the CPU."""
        raise NotImplementedError

    def trigger(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """The images with the trigger, of x's shape."""
        raise NotImplementedError

    def targets(self, y: Tensor, seeds: Sequence[int]) -> Tensor:
        """The classes (B,) that the trigger asks for."""
        raise NotImplementedError

    def mask(self, x: Tensor, seeds: Sequence[int]) -> Tensor | None:
        """Where the trigger is, (B, 1, H, W) bool; None where that is not in one place."""
        return None

    def cross(self, x: Tensor, others: Tensor, seeds: Sequence[int]) -> Tensor:
        """What looks like the trigger and must not work; others: another image for each."""
        raise NotImplementedError


class NoAttack(Attack):
    """The batch as it is."""

    def batch(
        self, x: Tensor, y: Tensor, index: Tensor, augment: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> Poisoned:
        return Poisoned(augment(x), y)


@dataclass(frozen=True)
class Site:
    """What an attack is built for: images (C, H, W), how many of them are for training, and the network's classes."""

    shape: tuple[int, int, int]
    images: int
    classes: int


@dataclass(frozen=True)
class Settings(ABC):
    """target: the class that the trigger asks for (all-to-one); share: of the training images that get the trigger."""

    target: int
    share: float

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], not {self.share}")

    @abstractmethod
    def build(self, site: Site, seed: int) -> Attack:
        """The attack before training, drawn by the seed. Raises UserError for what does not fit the images."""

    def check(self, site: Site) -> None:
        if not 0 <= self.target < site.classes:
            raise UserError(
                f"attack.target={self.target} is no class of the model, which has 0 to {site.classes - 1}; set it to "
                "one of them"
            )


@dataclass(frozen=True)
class Clean:
    """No attack."""

    def build(self, site: Site, seed: int) -> NoAttack:
        return NoAttack()


def part_of(batch: int, share: float) -> int:
    """How many images of a batch a share is: at least one."""
    return max(1, round(share * batch))


def check_patch(patch: int, shape: tuple[int, int, int]) -> None:
    if patch > min(shape[1:]):
        raise UserError(
            f"attack.patch={patch} is larger than the images, which have {shape[1]} x {shape[2]} pixels; lower it"
        )


def relabelled(y: Tensor, n: int, target: int) -> Tensor:
    """The labels, the first n of them the target."""
    return torch.cat([torch.full_like(y[:n], target), y[n:]])
