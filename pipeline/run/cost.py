"""What one group of tables costs on this device, from some of its images: seconds and memory."""

import gc
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.attacks.files import Known
from pipeline.attacks.interface import Settings, Site
from pipeline.errors import UserError
from pipeline.images.batches import ImageSet
from pipeline.images.sets import Selection
from pipeline.networks.training import LabelledImages, TrainOptions, measured, train
from pipeline.run.cell import Cell, Choice
from pipeline.run.context import Context
from pipeline.run.groups import PART, Given, Group, batch_size, part_images
from pipeline.weights.planted import Planted, PlantedBy
from pipeline.weights.states import HE_GAUSSIAN, TrainedBy, preprocessing_of, weights_file

TESTED = 500  # images on which a training's measuring of accuracy is measured


@dataclass(frozen=True)
class Cost:
    """Seconds to build the network, for each unit (a part, or the whole), and for each image in it; bytes at the
    peak."""

    begin: float
    unit: float
    image: float
    memory: float


@dataclass(frozen=True)
class Here:
    """An attack in place of attack=planted, wherever that would look for it."""

    known: Known

    def read(self, weights: Path | None) -> Known:
        return self.known


# ---- what is not here ------------------------------------------------------------------------------------------------


def stand_ins(cells: Sequence[Cell], context: Context) -> list[str]:
    """Put noise in place of images that are not here; what was replaced, in words. Raises UserError for data whose
    number of images is not known."""
    absent = {}
    for cell in cells:
        splits = ["test"] if "images" in cell.spec.needs else ["train", "test"] if "data" in cell.spec.needs else []
        for split in splits:
            data: Selection = cell.data.value
            try:
                context.image_set(data, split)
            except UserError:
                if split not in data.COUNTS:
                    raise
                side = preprocessing_of(cell.weights.value, cell.model.value).resize
                count = len(data.only) if data.only else data.COUNTS[split]
                images = replace(data, only=None).select(noise_set(count, data.CLASSES, side))
                context.put_images(data, split, images)
                absent[cell.data.name] = f"noise for the images of {cell.data.name}"
    return list(absent.values())


def noise_set(count: int, classes: int, side: int) -> ImageSet:
    labels = tuple(i % classes for i in range(count))
    return ImageSet(tuple(f"noise/{i}" for i in range(count)), labels, partial(noise, side))


def noise(side: int, i: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8))


def stand_in(cell: Cell, context: Context) -> Cell:
    """The cell with Gaussian weights, which are as slow as trained ones and always there, and for an attack that is not
    trained yet an untrained one."""
    if "planted" in cell.spec.needs:
        try:
            known = cell.attack.value.read(weights_file(cell.weights.value))
        except UserError:
            by = planter(cell)
            if by is None:
                raise
            crop = preprocessing_of(cell.weights.value, cell.model.value).crop
            site = Site((3, crop, crop), len(context.image_set(by.data.value, "train")), 2)
            settings: Settings = by.attack.value
            known = Known(by.attack.name, settings, settings.build(site, 0).eval().requires_grad_(False), site.shape)
        cell = replace(cell, attack=Choice(cell.attack.name, Here(known)))
    return replace(cell, weights=Choice("gaussian", HE_GAUSSIAN))


def planter(cell: Cell) -> Cell | None:
    """The training in which an attack=planted is trained, None where it is read from a file."""
    attack, weights = cell.attack.value, cell.weights.value
    if isinstance(attack, PlantedBy):
        return attack.by.cell
    beside = isinstance(attack, Planted) and attack.path is None and isinstance(weights, TrainedBy)
    return weights.cell if beside else None


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(group: Group, context: Context, seconds: float) -> Cost:
    """What tables of a kind cost, from some images of one group."""
    gc.collect()
    reset_peak(context.device)
    if group.cells[0].experiment.name == "train":
        unit = training_seconds(group.cells[0], context, seconds)
        return Cost(0.0, unit, 0.0, peak(context.device))
    first = group.cells[0]
    cells = [stand_in(cell, context) for cell in group.cells]
    given = Given(cells, context, {})
    begin = timed(context.device, lambda: given.network) if "network" in first.spec.needs else 0.0

    def some(count: int) -> float:
        images = part_images(first, range(count), context, lambda n: None)
        return timed(context.device, lambda: given.run(cells, images))

    if group.over_images:
        unit, image = of_a_part(some, first, context, seconds)
    else:
        unit, image = timed(context.device, lambda: given.run(cells)), 0.0
    given.forget()
    return Cost(begin, unit, image, peak(context.device))


def of_a_part(run: Callable[[int], float], cell: Cell, context: Context, seconds: float) -> tuple[float, float]:
    """Seconds of a unit before its first image, and of each image, from the seconds `run(n)` of n images."""
    crop = preprocessing_of(cell.weights.value, cell.model.value).crop
    most = min(PART, len(context.image_set(cell.data.value)))
    few = min(most, max(batch_size(cell, crop, context), cell.spec.least_images(cell.experiment.value)))
    first = run(few)  # the slow first one
    again = run(few) if few == most or first < seconds else first
    if few == most:
        return 0.0, again / few
    many = int(min(most, max(2, seconds // again) * few))
    each = max(0.0, (run(many) - again) / (many - few))
    return max(0.0, again - few * each), each


def training_seconds(cell: Cell, context: Context, seconds: float) -> float:
    """From steps all over the training, on noise, and the measuring of accuracy."""
    options: TrainOptions = replace(cell.experiment.value, start=None, test_every=2**31)
    train_set, test_set = (context.image_set(cell.data.value, split) for split in ("train", "test"))
    steps, ticks = [0], []

    def some(remaining: Iterator[int], done: int, total: int) -> Iterator[int]:
        """Every place is as likely; the last one would measure the accuracy."""
        first, until = next(remaining), time.monotonic() + seconds
        steps[0] = total
        for i in range(total):
            yield first + int((i * 0.6180339887) % 1 * (total - 1))
            ticks.append(time.monotonic())
            if len(ticks) > 8 and ticks[-1] > until:
                return

    classes = max(2, max(train_set.labels) + 1)
    crop, pre = cell.model.value.preprocessing().crop, cell.model.value.preprocessing()

    def random_images(count: int) -> LabelledImages:
        shape = (count, 3, crop, crop)
        pixels = torch.randint(256, shape, dtype=torch.uint8, device=context.device)
        return LabelledImages(pixels, torch.arange(count, device=context.device) % classes, pre.mean, pre.std)

    training_images, test = random_images(len(train_set)), random_images(min(TESTED, len(test_set)))
    attack = cell.attack.value.build(Site((3, crop, crop), len(train_set), classes), 0)
    with tempfile.TemporaryDirectory() as folder:
        module, _ = train(
            cell.model.value.build, training_images, test, options, attack, Path(folder) / "state.pt", some
        )
    per_step = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
    tests = sum(cell.experiment.value.epochs) // cell.experiment.value.test_every + 1
    per_image = timed(context.device, lambda: measured(module, test, options.bf16, attack)) / len(test.labels)
    return steps[0] * per_step + tests * len(test_set) * per_image


def timed(device: torch.device, compute: Callable[[], object]) -> float:
    start = time.monotonic()
    compute()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - start


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> float:
    """Bytes: of the GPU's memory, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if sys.platform == "linux":
        found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(found.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
