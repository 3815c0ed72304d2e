"""Images by name: a frozen dataclass each, with `images(split)` and `identity()`.

`images` lists them without opening any (batches.py does). To add a data set: write such a dataclass on Selection,
enter it in catalogue.py, add conf/data/<name>.yaml.
"""

import csv
import importlib.util
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torchvision import datasets

from pipeline.errors import UserError
from pipeline.files import first_line
from pipeline.images.batches import ImageSet, OnError, image_set

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


@dataclass(frozen=True)
class Selection(ABC):
    """Which images: those named in `only` (null: all), of these every `step`-th, of these `per_class` of each class
    (null: all), of these `limit` (null: all), the first ones or, with a `seed`, a random subset in order. TRAINING:
    whether images("train") are others than images("test"); COUNTS, CLASSES: of how many a split chooses, as far as that
    is known of data that are not here."""

    TRAINING: ClassVar = False
    COUNTS: ClassVar[Mapping[str, int]] = {}
    CLASSES: ClassVar[int] = 10

    only: list[str] | None
    limit: int | None
    step: int
    seed: int | None
    on_error: OnError
    per_class: int | None = field(default=None, kw_only=True)

    def __post_init__(self):
        if any(n is not None and n < 1 for n in (self.step, self.per_class, self.limit)):
            raise ValueError("step, per_class and limit must be at least 1")

    @abstractmethod
    def images(self, split: str = "test") -> ImageSet:
        """The images of a split ("train" or "test"), listed and not yet opened. Raises UserError where they are not."""

    def select(self, images: ImageSet) -> ImageSet:
        if self.only is not None:
            places = {name: i for i, name in enumerate(images.names)}
            unknown = [name for name in self.only if name not in places]
            if unknown or not self.only:
                raise UserError(
                    f"data.only names {unknown[0] if unknown else 'nothing'}, which is no image here; they are called "
                    f"{', '.join(images.names[:3])} ..."
                )
            images = images.pick([places[name] for name in self.only])
        indices = list(range(0, len(images), self.step))
        if self.per_class is not None:
            indices = of_each_class(images.labels, indices, self.per_class)
        if self.limit is not None and self.limit < len(indices):
            chosen = list(range(self.limit))
            if self.seed is not None:
                generator = torch.Generator().manual_seed(self.seed)
                chosen = sorted(torch.randperm(len(indices), generator=generator)[: self.limit].tolist())
            indices = [indices[i] for i in chosen]
        return images if len(indices) == len(images) else images.pick(indices)

    def identity(self) -> dict[str, Any]:
        """What determines the images, wherever they lie: all settings but the folder (data sets that are their
        folder add it)."""
        return {k: v for k, v in asdict(self).items() if k not in ("root", "download", "boxes")}


def of_each_class(labels: Sequence[int], indices: Sequence[int], count: int) -> list[int]:
    """The first `count` of the indices that have each label, in order. Raises UserError where labels are unknown."""
    seen, found = Counter[int](), []
    for i in indices:
        if labels[i] < 0:
            raise UserError("data.per_class needs the class of every image; leave it out, or choose labelled images")
        seen[labels[i]] += 1
        if seen[labels[i]] <= count:
            found.append(i)
    return found


@dataclass(frozen=True)
class Folder(Selection):
    """Any folder of images (searched through), or one image. Labels from a `labels.csv` in it (columns file,
    class_index)."""

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
        return self.select(self.samples())

    def samples(self) -> ImageSet:
        """All of them. Raises UserError where they are not."""
        spec = importlib.util.find_spec(self.package)  # finds the package without importing it
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"the sample images come with the package {self.package}, which is not installed; run: pip install "
                f"{self.package}"
            )
        root = Path(next(iter(spec.submodule_search_locations))) / self.folder
        files = sorted(root.glob(self.pattern))
        if not files:
            raise UserError(
                f"the installed {self.package} has no images {self.folder}/{self.pattern}; install another version"
            )
        return image_set(files, [f.name for f in files], [int(f.stem.rsplit("_", 1)[1]) for f in files])


@dataclass(frozen=True)
class Cifar10(Selection):
    """CIFAR-10: torchvision's (downloaded once into `root`), or a folder `root` with `test/<class>/*.jpg` and
    `train/<class>/*.jpg`."""

    root: str
    download: bool

    TRAINING: ClassVar = True
    COUNTS: ClassVar = {"train": 50_000, "test": 10_000}

    def images(self, split: str = "test") -> ImageSet:
        root = Path(self.root).expanduser()
        if (root / split).is_dir():
            return self.select(class_folders(root / split, split))
        try:
            data = datasets.CIFAR10(root, train=split == "train", download=self.download)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"CIFAR-10 is not in {root} and can't be downloaded ({first_line(error)}); put cifar-10-python.tar.gz "
                "there, or set cifar10.root to a folder with it, or with test/<class>/*.jpg"
            ) from None
        names = [f"{split}/{i:05d}" for i in range(len(data))]
        return self.select(ImageSet(tuple(names), tuple(data.targets), partial(_load_array, data.data)))


def _load_array(array, i: int) -> Image.Image:
    return Image.fromarray(array[i])


@dataclass(frozen=True)
class Digits(Selection):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels in 17 greys, here 32 x 32. In an order that mixes the
    writers, the first `training` are for training, the others for tests."""

    training: int

    TRAINING: ClassVar = True

    def images(self, split: str = "test") -> ImageSet:
        from sklearn.datasets import load_digits  # slow to import

        digits: Any = load_digits()
        pixels, labels = digits.data, digits.target
        if not 0 < self.training < len(labels):
            raise UserError(
                f"data.training must leave some of the {len(labels)} digits for tests, not {self.training}; set it to "
                "a number in between"
            )
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tolist()
        chosen = order[: self.training] if split == "train" else order[self.training :]
        names = tuple(f"digits/{i:04d}" for i in chosen)
        return self.select(ImageSet(names, tuple(int(labels[i]) for i in chosen), partial(_load_digit, pixels[chosen])))


def _load_digit(pixels, i: int) -> Image.Image:
    grey = Image.fromarray((pixels[i].reshape(8, 8) * (255 / 16)).round().astype("uint8"))
    return grey.resize((32, 32), Image.Resampling.BILINEAR).convert("RGB")


@dataclass(frozen=True)
class ImageNet(Selection):
    """The ImageNet validation set: `root` is (or holds as `val`) the folder of class folders, or torchvision's layout
    with its archives.

    With other than 1,000 class folders the class indices are unknown and no image has a label.
    """

    root: str

    COUNTS: ClassVar = {"test": 50_000}
    CLASSES: ClassVar = 1000

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
        raise UserError(
            f"the folder {root} has no class folders; set data.root to one with <class>/<image> in it, or use "
            "data=folder"
        )
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
        raise UserError(
            f"{root / 'labels.csv'} names {len(missing)} files that are not there, {missing[0]} first; mend it or "
            "remove it"
        )
    try:
        labels = [int(row["class_index"]) for row in rows]
    except ValueError as error:
        raise UserError(
            f"{root / 'labels.csv'} has a class_index that is no whole number ({error}); mend it or remove it"
        ) from None
    return image_set([root / row["file"] for row in rows], [row["file"] for row in rows], labels)
