"""What the cells of one command share: where and how they are computed, and what is looked at or built once for all
of them."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline.engine.network import Network
from pipeline.errors import UserError
from pipeline.experiments.unmodified import OriginalCache
from pipeline.files import file_hash
from pipeline.images.batches import ImageSet, load_batches
from pipeline.images.sets import Selection
from pipeline.run.cell import Cell, digest, network_parts, spelt
from pipeline.run.leases import Leases
from pipeline.run.store import Store
from pipeline.weights.states import HE_GAUSSIAN, network_of, original, preprocessing_of

T = TypeVar("T")
CALIBRATION = 64  # images on which weights=... batchnorm: calibrated looks


@dataclass(frozen=True)
class Run:
    """How to compute, which changes no result: device (auto, cpu, cuda, cuda:1), images per batch (null: by size),
    processes that load images, threads that compute (null: torch's choice), the output folder, whether finished
    cells are computed again, which share of the work is done here (shard: "2/8", of each eighth part the second;
    groups: only cells that share their work under these names), and the seconds between signs of life that other
    processes see (heartbeat), and whether jobs that were sent are waited for."""

    device: str
    batch_size: int | None
    workers: int
    threads: int | None
    output: str
    force: bool
    shard: str | None
    groups: list[str] | None
    heartbeat: float
    wait: bool

    def __post_init__(self):
        if self.shard is not None:
            shard_of(self.shard)
        if self.shard is not None and self.force:
            raise ValueError("force is for one process, which would undo what others do; leave run.shard out")
        if self.heartbeat <= 0:
            raise ValueError("heartbeat must be more than 0 seconds")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        if self.workers < 0:
            raise ValueError("workers must be at least 0")
        if self.threads is not None and self.threads < 1:
            raise ValueError("threads must be at least 1")


@dataclass(frozen=True)
class Shard:
    """Of units that are numbered, those that leave `number` when divided by `count`."""

    number: int
    count: int

    def __contains__(self, unit: int) -> bool:
        return unit % self.count == self.number % self.count  # so 8/8 is 0/8, however shards are counted


def shard_of(text: str) -> Shard:
    """Raises ValueError for what is no shard."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[2]) < 1 or int(found[1]) > int(found[2]):
        raise ValueError(f"shard must be a number and their count, such as 2/8, and not {text}")
    return Shard(int(found[1]), int(found[2]))


def device_of(name: str) -> torch.device:
    """auto: a GPU if there is one. Raises UserError for a device that is not there. TF32 is off: float32 means
    float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(automatic if name == "auto" else name)
    except RuntimeError:
        raise UserError(f"run.device={name} is no device; set it to auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"run.device={name} needs a CUDA GPU that torch can use, and here is none; set run.device=cpu")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"run.device={name} is not supported; set it to auto, cpu, cuda or cuda:N")
    return device


@dataclass(frozen=True)
class Context:
    """One command's settings, store and device, with what its cells have in common. A file is hashed again when it
    changes."""

    run: Run
    store: Store
    device: torch.device
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)  # manifests of cells seen whole, by key
    _once: dict[object, Any] = field(default_factory=dict)
    _kept: dict[str, tuple[str, Network]] = field(default_factory=dict)  # the last network of each purpose
    original_cache: OriginalCache = field(default_factory=OriginalCache)

    def once(self, key: object, find: Callable[[], T]) -> T:
        if key not in self._once:
            self._once[key] = find()
        return self._once[key]

    def image_set(self, data: Selection, split: str = "test") -> ImageSet:
        """The images of a data set. Raises UserError where they are not."""
        return self.once(("images", spelt(data), split), lambda: data.images(split))

    def put_images(self, data: Selection, split: str, images: ImageSet) -> None:
        """Use these in place of the data set's own."""
        self._once[("images", spelt(data), split)] = images

    def image_hash(self, data: Selection, split: str = "test") -> str | None:
        """None for images that are not here."""

        def find() -> str | None:
            try:
                return self.image_set(data, split).fingerprint()
            except (UserError, OSError):
                return None

        return self.once(("hash", spelt(data), split), find)

    def file_hash(self, file: Path | None) -> str | None:
        """None for a file that is not here."""
        if file is None or not file.is_file():
            return None
        stat = file.stat()
        return self.once((file, stat.st_mtime_ns, stat.st_size), lambda: file_hash(file))

    def network(self, cell: Cell) -> Network:
        """The cell's network, on the device."""
        model, dtype = cell.model.value, cell.dtype.torch
        network = network_of(cell.weights.value, model, cell.seed, dtype, lambda: self.first_images(cell))
        network.module.to(self.device)
        return network

    def original(self, cell: Cell) -> Network:
        """The cell's network without what the weights' law did to its layers."""
        plain = replace(cell, weights=replace(cell.weights, value=original(cell.weights.value)))
        return self.kept("original", plain)

    def random_network(self, cell: Cell, seed: int) -> Network:
        """The cell's model under i.i.d. Gaussian weights."""
        drawn = replace(cell, weights=replace(cell.weights, name="gaussian", value=HE_GAUSSIAN), seed=seed)
        return self.kept("random", drawn)

    def kept(self, purpose: str, cell: Cell) -> Network:
        """Many cells are compared with one network: the last one is kept."""
        key = digest({"network": str(network_parts(cell))})
        if purpose not in self._kept or self._kept[purpose][0] != key:
            self._kept.pop(purpose, None)  # before the next one is there
            self._kept[purpose] = (key, self.network(cell))
        return self._kept[purpose][1]

    def first_images(self, cell: Cell) -> torch.Tensor:
        images = self.image_set(cell.data.value)
        chosen = images.pick(range(min(CALIBRATION, len(images))))
        preprocessing = preprocessing_of(cell.weights.value, cell.model.value)
        batches = load_batches(chosen, preprocessing, CALIBRATION, 0, cell.data.value.on_error, [])
        return torch.cat([batch.x for batch in batches])


def context_of(run: Run) -> Context:
    """Raises UserError for a device that is not there, and for an output folder that can't be written."""
    store = Store(Path(run.output), Leases(run.heartbeat))
    store.check_writable()
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    return Context(run, store, device_of(run.device))
