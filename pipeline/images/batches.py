"""What an image set is, and how its images become the batches of an experiment: opened, resized, cropped,
normalised."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pipeline.errors import UserError
from pipeline.files import first_line
from pipeline.seeds import name_seed

HASHED_FILES = 1000  # up to so many files are fingerprinted by their bytes, more by their sizes


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side, crop the centre, normalise: pixels in [0, 1] -> (pixel - mean) / std per channel."""

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    def pixels(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) as it was before it was normalised."""
        mean, std = (torch.tensor(v, dtype=torch.float64).to(x).view(-1, 1, 1) for v in (self.mean, self.std))
        return x * std + mean

    def transform(self) -> Callable[[Image.Image], Tensor]:
        """A PIL image -> (3, crop, crop) float32."""
        to_pixels = self.to_pixels(transforms.InterpolationMode(self.interpolation))
        return transforms.Compose([*to_pixels, transforms.Normalize(self.mean, self.std)])

    def mask(self, objects: Image.Image) -> Tensor:
        """A picture of where an image's objects are, white there -> (1, crop, crop) bool."""
        pixels: Any = transforms.Compose(self.to_pixels(transforms.InterpolationMode.NEAREST))(objects)
        return pixels > 0.5

    def to_pixels(self, mode: transforms.InterpolationMode) -> list[Callable]:
        return [
            transforms.Resize(self.resize, interpolation=mode), transforms.CenterCrop(self.crop), transforms.ToTensor()
        ]  # fmt: skip


@dataclass(frozen=True)
class ImageSet:
    """Images in order, not yet opened. labels: class indices, -1 where unknown; load(i) -> a PIL image; objects(i),
    where that is known -> a PIL image in greys of the same size, white where its objects are. For fingerprints, files:
    each image's; beside: each one's second file."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    load: Callable[[int], Image.Image]
    files: tuple[Path, ...] | None = None
    objects: Callable[[int], Image.Image] | None = None
    beside: tuple[Path, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, indices: Sequence[int]) -> "ImageSet":
        pick = lambda items: tuple(items[i] for i in indices)  # noqa: E731
        return ImageSet(
            pick(self.names),
            pick(self.labels),
            partial(_load_picked, self.load, tuple(indices)),
            pick(self.files) if self.files else None,
            partial(_load_picked, self.objects, tuple(indices)) if self.objects else None,
            pick(self.beside) if self.beside else None,
        )

    def fingerprint(self) -> str:
        """A hash of the names, labels and contents (of the sizes, for very many files)."""
        digest = hashlib.sha256(repr((self.names, self.labels)).encode())
        for file in (*(self.files or ()), *(self.beside or ())):
            content = file.read_bytes() if len(self) <= HASHED_FILES else str(file.stat().st_size).encode()
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()[:16]


def _load_picked(load: Callable[[int], Image.Image], indices: tuple[int, ...], i: int) -> Image.Image:
    return load(indices[i])


def open_file(files: tuple[Path, ...], i: int) -> Image.Image:
    with Image.open(files[i]) as image:
        return image.convert("RGB")


def image_set(files: Sequence[Path], names: Sequence[str], labels: Sequence[int]) -> ImageSet:
    return ImageSet(tuple(names), tuple(labels), partial(open_file, tuple(files)), tuple(files))


class OnError(Enum):
    stop = "stop"  # an image that can't be read ends the run, by name
    skip = "skip"  # it is left out and counted in the manifest


# ---- loading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """x (B, 3, H, W), names and labels (B,), -1 where unknown; objects (B, 1, H, W) bool: where they are, if that is
    known."""

    x: Tensor
    names: tuple[str, ...]
    labels: Tensor
    objects: Tensor | None = None


class _Loaded(Dataset):
    """Each item: (index, x or None, why not)."""

    def __init__(self, images: ImageSet, preprocessing: Preprocessing):
        self.images, self.transform = images, preprocessing.transform()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        try:
            return i, self.transform(self.images.load(i)), ""
        except (OSError, SyntaxError, ValueError) as error:  # of Pillow, for files that are cut off or no images
            return i, None, first_line(error)


def load_image(images: ImageSet, preprocessing: Preprocessing, i: int) -> Tensor | None:
    """x (3, H, W) of one image, None if it can't be read."""
    return _Loaded(images, preprocessing)[i][1]


def loaded(loader: DataLoader) -> Iterator[list[tuple[int, Tensor | None, str]]]:
    """Its batches. Raises UserError if a process that loads them died."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"{first_line(error)}; set run.workers to less, 0 loads in this process") from None


def load_batches(
    images: ImageSet, preprocessing: Preprocessing, batch_size: int, workers: int, on_error: OnError, skipped: list[str]
) -> Iterator[Batch]:
    """Batches in order. Names of images that can't be read go to `skipped`, or, with OnError.stop, raise UserError."""
    loader = DataLoader(_Loaded(images, preprocessing), batch_size=batch_size, num_workers=workers, collate_fn=list)
    for items in loaded(loader):
        for i, x, why in items:
            if x is None and on_error is OnError.stop:
                raise UserError(
                    f"the image {images.names[i]} can't be read ({why}); replace it, or set data.on_error=skip to "
                    "leave it out"
                )
            if x is None:
                skipped.append(images.names[i])
        good = [(i, x) for i, x, _ in items if x is not None]
        if good:
            yield Batch(
                torch.stack([x for _, x in good]),
                tuple(images.names[i] for i, _ in good),
                torch.tensor([images.labels[i] for i, _ in good]),
                torch.stack([preprocessing.mask(images.objects(i)) for i, _ in good]) if images.objects else None,
            )


@dataclass(frozen=True)
class Handed:
    """Images that are at hand: one batch, as an experiment sees them."""

    batch: Batch

    def __iter__(self) -> Iterator[Batch]:
        yield self.batch

    @property
    def alone(self) -> bool:
        return len(self.batch.names) < 2

    def first_names(self, count: int) -> tuple[str, ...]:
        return self.batch.names[:count]

    def other(self, name: str) -> Tensor:
        """x of the image that follows, (1, 3, H, W)."""
        at = (self.batch.names.index(name) + 1) % len(self.batch.names)
        return self.batch.x[at : at + 1]


@dataclass
class Images:
    """The images of one part, as an experiment sees them: iterate for batches on the device; `other` gives another
    image's x."""

    images: ImageSet
    first: int
    stop: int
    preprocessing: Preprocessing
    on_error: OnError
    batch_size: int
    workers: int
    device: torch.device
    dtype: torch.dtype
    advance: Callable[[int], object]
    skipped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Batch]:
        chosen = self.images.pick(range(self.first, self.stop))
        for batch in load_batches(
            chosen, self.preprocessing, self.batch_size, self.workers, self.on_error, self.skipped
        ):
            objects = None if batch.objects is None else batch.objects.to(self.device)
            yield Batch(batch.x.to(self.device, self.dtype), batch.names, batch.labels.to(self.device), objects)
            self.advance(len(batch.names))

    @property
    def alone(self) -> bool:
        """Whether there is no other image."""
        return len(self.images) < 2

    def first_names(self, count: int) -> tuple[str, ...]:
        """Of the first images of all parts."""
        return self.images.names[:count]

    def other(self, name: str, drawn: bool = False) -> torch.Tensor:
        """x of the image that follows in the order of the data (the first after the last), (1, 3, H, W). drawn: of
        one that the name picks at random: where data are sorted by class, the next image has the same one."""
        n, at = len(self.images), self.images.names.index(name)
        start = name_seed(name) % (n - 1) if drawn and n > 1 else 0
        for i in range(n - 1):
            x = load_image(self.images, self.preprocessing, (at + 1 + (start + i) % (n - 1)) % n)
            if x is not None:
                return x[None].to(self.device, self.dtype)
        raise UserError("the null map 'another image' needs at least two images; set data.limit to 2 or more")
