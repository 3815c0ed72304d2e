"""Images with a trained attack's trigger, as a network takes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.attacks.files import Known
from pipeline.errors import UserError
from pipeline.images.batches import Batch, Images
from pipeline.seeds import name_seed

CARRIED = ("transplanted", "mean")  # the trigger of an image, on something else
SAMPLES = ("clean", "triggered", "cross", *CARRIED)


@dataclass(frozen=True)
class Triggers:
    """A trained attack on images normalised with mean and std per channel, each (C, 1, 1)."""

    known: Known
    mean: Tensor
    std: Tensor

    def seeds(self, batch: Batch) -> list[int]:
        return [name_seed(name) for name in batch.names]

    def pixels(self, x: Tensor) -> Tensor:
        """Normalised -> in [0, 1], float32, as attacks take them."""
        return (x.double() * self.std + self.mean).float()

    def changed(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """x with its pixels changed; the others stay as they are, to the last bit."""
        before = self.pixels(x)
        after = change(before)
        return torch.where(after == before, x, ((after.double() - self.mean) / self.std).to(x))

    def trigger(self, batch: Batch) -> Tensor:
        return self.changed(batch.x, lambda x: self.known.attack.trigger(x, self.seeds(batch)))

    def goals(self, batch: Batch) -> Tensor:
        """(B,) the classes that the triggers ask for."""
        return self.known.attack.targets(batch.labels, self.seeds(batch))

    def mask(self, batch: Batch) -> Tensor | None:
        """(B, 1, H, W) bool, where the trigger is; None where that is everywhere."""
        return self.known.attack.mask(self.pixels(batch.x), self.seeds(batch))

    def there(self, samples: Sequence[str]) -> list[str]:
        """The samples that the attack has: some have no `cross`.

        Raises UserError where that leaves none.
        """
        found = [sample for sample in samples if sample != "cross" or self.known.attack.CROSS]
        if samples and not found:
            raise UserError(
                f"the attack {self.known.name} has no images that only look triggered; choose other samples than cross"
            )
        return found

    def on(self, sample: str, batch: Batch, images: Images) -> Tensor:
        """One of SAMPLES, of x's shape: the images as they are; with the trigger; with what only looks like it (cross,
        where the attack has that); other images, and plain ones of the mean colour, with what the trigger changed in
        these."""
        attack, seeds = self.known.attack, self.seeds(batch)
        if sample == "clean":
            return batch.x
        if sample == "triggered":
            return self.trigger(batch)
        if sample in CARRIED:
            return self.transplanted(batch, self.plain(sample, batch, images))
        others = self.pixels(others_of(batch, images))
        return self.changed(batch.x, lambda x: attack.cross(x, others, seeds))

    def plain(self, sample: str, batch: Batch, images: Images) -> Tensor:
        """The same without the trigger, of x's shape: the images, the other ones, or the mean colour."""
        if sample not in CARRIED:
            return batch.x
        return torch.zeros_like(batch.x) if sample == "mean" else others_of(batch, images)

    def transplanted(self, batch: Batch, others: Tensor) -> Tensor:
        """Other images with the pixels inside the mask, or with the change where there is none."""
        mask, triggered = self.mask(batch), self.trigger(batch)
        if mask is not None:
            return torch.where(mask, triggered, others)
        change = self.pixels(triggered) - self.pixels(batch.x)
        return self.changed(others, lambda pixels: (pixels + change).clamp(0, 1))


def others_of(batch: Batch, images: Images) -> Tensor:
    """Another image for each, drawn by its name."""
    return torch.cat([images.other(name, drawn=True) for name in batch.names])


def triggers_of(planted: Known, images: Images) -> Triggers:
    """Raises UserError for images of another size."""
    pre, device = images.preprocessing, images.device
    if planted.shape[1:] != (pre.crop, pre.crop):
        raise UserError(
            f"the attack was trained on images of {planted.shape[1]} x {planted.shape[2]} pixels, and the model takes "
            f"{pre.crop} x {pre.crop}; choose a model of that size"
        )
    mean, std = (
        torch.tensor(values, dtype=torch.float64, device=device).view(-1, 1, 1) for values in (pre.mean, pre.std)
    )
    return Triggers(replace(planted, attack=planted.attack.to(device)), mean, std)


def check_labels_known(batch: Batch) -> None:
    """Raises UserError for images without labels: an attack's success is counted on those of other classes."""
    if bool((batch.labels < 0).any()):
        raise UserError(f"{batch.names[int((batch.labels < 0).nonzero()[0])]} has no label; choose labelled data")
