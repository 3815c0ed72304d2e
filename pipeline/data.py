"""Images by name: a frozen dataclass each, with `images(split)` and `identity()`.

`images` lists files without opening them; `load_batches` opens, transforms and batches. To add a data set: write such
a dataclass on Selection, enter it in DATA at the foot, add conf/data/<name>.yaml.
"""

import csv
import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from pipeline.errors import UserError

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
HASHED_FILES = 1000  # up to so many files are fingerprinted by their bytes, more by their sizes


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side, crop the centre, normalise: pixels in [0, 1] -> (pixel - mean) / std per channel."""

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    def transform(self) -> Callable[[Image.Image], Tensor]:
        """A PIL image -> (3, crop, crop) float32."""
        mode = transforms.InterpolationMode(self.interpolation)
        to_pixels = [transforms.Resize(self.resize, interpolation=mode), transforms.CenterCrop(self.crop)]
        return transforms.Compose([*to_pixels, transforms.ToTensor(), transforms.Normalize(self.mean, self.std)])


@dataclass(frozen=True)
class ImageSet:
    """Images in order, not yet opened. labels: class indices, -1 where unknown; load(i) -> a PIL image; files: for fingerprints."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    load: Callable[[int], Image.Image]
    files: tuple[Path, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, indices: Sequence[int]) -> "ImageSet":
        pick = lambda items: tuple(items[i] for i in indices)  # noqa: E731
        return ImageSet(pick(self.names), pick(self.labels), partial(_load_picked, self.load, tuple(indices)), pick(self.files) if self.files else None)

    def fingerprint(self) -> str:
        """A hash of the names, labels and contents (of the sizes, for very many files)."""
        digest = hashlib.sha256(repr((self.names, self.labels)).encode())
        for file in self.files or ():
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


@dataclass(frozen=True)
class Selection:
    """Which images: those named in `only` (null: all), of these every `step`-th, of these `limit` (null: all), the first ones or,
    with a `seed`, a random subset in order."""

    only: list[str] | None
    limit: int | None
    step: int
    seed: int | None
    on_error: OnError

    def __post_init__(self):
        if self.step < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError("step and limit must be at least 1")

    def select(self, images: ImageSet) -> ImageSet:
        if self.only is not None:
            places = {name: i for i, name in enumerate(images.names)}
            unknown = [name for name in self.only if name not in places]
            if unknown or not self.only:
                raise UserError(
                    f"data.only names {unknown[0] if unknown else 'nothing'}, which is no image here; they are called {', '.join(images.names[:3])} ..."
                )
            images = images.pick([places[name] for name in self.only])
        indices = list(range(0, len(images), self.step))
        if self.limit is not None and self.limit < len(indices):
            chosen = list(range(self.limit))
            if self.seed is not None:
                generator = torch.Generator().manual_seed(self.seed)
                chosen = sorted(torch.randperm(len(indices), generator=generator)[: self.limit].tolist())
            indices = [indices[i] for i in chosen]
        return images if len(indices) == len(images) else images.pick(indices)

    def identity(self) -> dict[str, Any]:
        """What determines the images, wherever they lie: all settings but the folder (data sets that are their folder add it)."""
        return {k: v for k, v in asdict(self).items() if k not in ("root", "download")}


@dataclass(frozen=True)
class Folder(Selection):
    """Any folder of images (searched through), or one image. Labels from a `labels.csv` in it (columns file, class_index)."""

    root: str

    def identity(self) -> dict[str, Any]:
        return asdict(self)

    def images(self, split: str = "test") -> ImageSet:
        root = existing(self.root)
        if root.is_file():
            return image_set([root], [root.name], [-1])
        if (root / "labels.csv").is_file():
            return self.select(labelled_folder(root))
        files = find_images(root)
        return self.select(image_set(files, [f.relative_to(root).as_posix() for f in files], [-1] * len(files)))


@dataclass(frozen=True)
class PackagedSamples(Selection):
    """Labelled images that an installed package ships in a folder; the label is the last number of the file name."""

    package: str
    folder: str
    pattern: str

    def images(self, split: str = "test") -> ImageSet:
        spec = importlib.util.find_spec(self.package)  # finds the package without importing it
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"the sample images come with the package {self.package}, which is not installed; run: pip install {self.package}")
        root = Path(next(iter(spec.submodule_search_locations))) / self.folder
        files = sorted(root.glob(self.pattern))
        if not files:
            raise UserError(f"the installed {self.package} has no images {self.folder}/{self.pattern}; install another version")
        return self.select(image_set(files, [f.name for f in files], [int(f.stem.rsplit("_", 1)[1]) for f in files]))


@dataclass(frozen=True)
class Cifar10(Selection):
    """CIFAR-10: torchvision's (downloaded once into `root`), or a folder `root` with `test/<class>/*.jpg` and `train/<class>/*.jpg`."""

    root: str
    download: bool

    def images(self, split: str = "test") -> ImageSet:
        root = Path(self.root).expanduser()
        if (root / split).is_dir():
            return self.select(class_folders(root / split, split))
        try:
            data = datasets.CIFAR10(root, train=split == "train", download=self.download)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"CIFAR-10 is not in {root} and can't be downloaded ({first_line(error)}); put cifar-10-python.tar.gz there, or set data.root to a folder with test/<class>/*.jpg"
            ) from None
        names = [f"{split}/{i:05d}" for i in range(len(data))]
        return self.select(ImageSet(tuple(names), tuple(data.targets), partial(_load_array, data.data)))


def _load_array(array, i: int) -> Image.Image:
    return Image.fromarray(array[i])


@dataclass(frozen=True)
class ImageNet(Selection):
    """The ImageNet validation set: `root` is (or holds as `val`) the folder of class folders, or torchvision's layout with its archives.

    With other than 1,000 class folders the class indices are unknown and no image has a label.
    """

    root: str

    def images(self, split: str = "test") -> ImageSet:
        root = existing(self.root, "set data.root to the ImageNet validation folder")
        if (root / "ILSVRC2012_img_val.tar").is_file() and not (root / "val").is_dir():
            datasets.ImageNet(root, split="val")  # unpacks the archives into root/val
        found = class_folders(root / "val" if (root / "val").is_dir() else root, "val")
        known = len(set(found.labels)) == 1000
        return self.select(found if known else replace(found, labels=(-1,) * len(found)))


def existing(path: str, what_to_do: str = "set data.root to a folder of images or an image") -> Path:
    root = Path(path).expanduser()
    if not root.exists():
        raise UserError(f"there is nothing at data.root={path}; {what_to_do}")
    return root


def find_images(root: Path) -> list[Path]:
    files = sorted(f for f in root.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise UserError(f"the folder {root} holds no images ({', '.join(SUFFIXES)}); set data.root to one that does")
    return files


def class_folders(root: Path, prefix: str) -> ImageSet:
    """`root/<class>/<image>`, classes numbered in the order of their names."""
    files = find_images(root)
    classes = sorted({f.relative_to(root).parts[0] for f in files if f.parent != root})
    if not classes:
        raise UserError(f"the folder {root} has no class folders; set data.root to one with <class>/<image> in it, or use data=folder")
    files = [f for f in files if f.parent != root]
    numbers = {name: i for i, name in enumerate(classes)}
    names = [f"{prefix}/{f.relative_to(root).as_posix()}" for f in files]
    return image_set(files, names, [numbers[f.relative_to(root).parts[0]] for f in files])


def labelled_folder(root: Path) -> ImageSet:
    with open(root / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "class_index"} <= rows[0].keys():
        raise UserError(f"{root / 'labels.csv'} needs rows and the columns file and class_index; mend it or remove it")
    missing = [row["file"] for row in rows if not (root / row["file"]).is_file()]
    if missing:
        raise UserError(f"{root / 'labels.csv'} names {len(missing)} files that are not there, {missing[0]} first; mend it or remove it")
    try:
        labels = [int(row["class_index"]) for row in rows]
    except ValueError as error:
        raise UserError(f"{root / 'labels.csv'} has a class_index that is no whole number ({error}); mend it or remove it") from None
    return image_set([root / row["file"] for row in rows], [row["file"] for row in rows], labels)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# ---- loading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """x (B, 3, H, W), names and labels (B,), -1 where unknown."""

    x: Tensor
    names: tuple[str, ...]
    labels: Tensor


class _Loaded(Dataset):
    """Each item: (index, x or None, why not)."""

    def __init__(self, images: ImageSet, preprocessing: Preprocessing):
        self.images, self.transform = images, preprocessing.transform()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        try:
            return i, self.transform(self.images.load(i)), ""
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for files that are cut off or no images
            return i, None, first_line(error)


def load_image(images: ImageSet, preprocessing: Preprocessing, i: int) -> Tensor | None:
    """x (3, H, W) of one image, None if it can't be read."""
    return _Loaded(images, preprocessing)[i][1]


def load_batches(images: ImageSet, preprocessing: Preprocessing, batch_size: int, workers: int, on_error: OnError, skipped: list[str]) -> Iterator[Batch]:
    """Batches in order. Names of images that can't be read go to `skipped`, or, with OnError.stop, raise UserError."""
    loader = DataLoader(_Loaded(images, preprocessing), batch_size=batch_size, num_workers=workers, collate_fn=list)
    for items in loader:
        for i, x, why in items:
            if x is None and on_error is OnError.stop:
                raise UserError(f"the image {images.names[i]} can't be read ({why}); replace it, or set data.on_error=skip to leave it out")
            if x is None:
                skipped.append(images.names[i])
        good = [(i, x) for i, x, _ in items if x is not None]
        if good:
            yield Batch(torch.stack([x for _, x in good]), tuple(images.names[i] for i, _ in good), torch.tensor([images.labels[i] for i, _ in good]))


DATA: dict[str, Callable[..., Any]] = {
    "imagenet": ImageNet,
    "imagenet_samples": PackagedSamples,
    "cifar10_samples": PackagedSamples,
    "cifar10": Cifar10,
    "folder": Folder,
}
