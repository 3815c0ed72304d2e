"""What the cells of one command share: where and how they are computed, and what is looked at or built once for all
of them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.engine.network import Network
from pipeline.errors import UserError
from pipeline.files import file_hash
from pipeline.images.batches import ImageSet, load_batches
from pipeline.images.sets import Selection
from pipeline.run.cell import Cell, digest, network_parts
from pipeline.run.store import Store
from pipeline.weights.states import HE_GAUSSIAN, network_of, original, preprocessing_of

CALIBRATION = 64  # images on which weights=... batchnorm: calibrated looks


@dataclass(frozen=True)
class Run:
    """How to compute, which changes no result: device (auto, cpu, cuda, cuda:1), images per batch (null: by size),
    processes that load images, the output folder, and whether finished cells are computed again."""

    device: str
    batch_size: int | None
    workers: int
    output: str
    force: bool

    def __post_init__(self):
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        if self.workers < 0:
            raise ValueError("workers must be at least 0")


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
    _images: dict[str, ImageSet] = field(default_factory=dict)
    _image_hashes: dict[str, str | None] = field(default_factory=dict)
    _file_hashes: dict[tuple[Path, int, int], str | None] = field(default_factory=dict)
    _kept: dict[str, tuple[str, Network]] = field(default_factory=dict)  # the last network of each purpose

    def image_set(self, data: Selection, split: str = "test") -> ImageSet:
        """The images of a data set, listed once. Raises UserError where they are not."""
        key = data_key(data, split)
        if key not in self._images:
            self._images[key] = data.images(split)
        return self._images[key]

    def image_hash(self, data: Selection, split: str = "test") -> str | None:
        """None for images that are not here."""
        key = data_key(data, split)
        if key not in self._image_hashes:
            try:
                self._image_hashes[key] = self.image_set(data, split).fingerprint()
            except (UserError, OSError):
                self._image_hashes[key] = None
        return self._image_hashes[key]

    def file_hash(self, file: Path | None) -> str | None:
        """None for a file that is not here."""
        if file is None or not file.is_file():
            return None
        stat = file.stat()
        key = (file, stat.st_mtime_ns, stat.st_size)
        if key not in self._file_hashes:
            self._file_hashes[key] = file_hash(file)
        return self._file_hashes[key]

    def network(self, cell: Cell) -> Network:
        return built(cell, self.device, lambda: self.first_images(cell))

    def original(self, cell: Cell) -> Network:
        """The cell's network without what the weights' law did to its layers."""
        plain = replace(cell, weights=replace(cell.weights, value=original(cell.weights.value)))
        return self.kept("original", plain, lambda: self.network(plain))

    def random_network(self, cell: Cell, seed: int) -> Network:
        """The cell's model under i.i.d. Gaussian weights."""
        drawn = replace(cell, weights=replace(cell.weights, name="gaussian", value=HE_GAUSSIAN), seed=seed)
        return self.kept("random", drawn, lambda: self.network(drawn))

    def kept(self, purpose: str, cell: Cell, build: Callable[[], Network]) -> Network:
        """Many cells are compared with one network: the last one is kept."""
        key = digest({"network": str(network_parts(cell))})
        if purpose not in self._kept or self._kept[purpose][0] != key:
            self._kept.pop(purpose, None)  # before the next one is there
            self._kept[purpose] = (key, build())
        return self._kept[purpose][1]

    def first_images(self, cell: Cell) -> torch.Tensor:
        images = self.image_set(cell.data.value)
        chosen = images.pick(range(min(CALIBRATION, len(images))))
        preprocessing = preprocessing_of(cell.weights.value, cell.model.value)
        batches = load_batches(chosen, preprocessing, CALIBRATION, 0, cell.data.value.on_error, [])
        return torch.cat([batch.x for batch in batches])


def context_of(run: Run) -> Context:
    """Raises UserError for a device that is not there, and for an output folder that can't be written."""
    store = Store(Path(run.output))
    store.check_writable()
    return Context(run, store, device_of(run.device))


def data_key(data: Selection, split: str) -> str:
    return digest({"is": type(data).__name__, "settings": str(asdict(data)), "split": split})


def built(cell: Cell, device: torch.device, first_images: Callable[[], torch.Tensor]) -> Network:
    network = network_of(cell.weights.value, cell.model.value, cell.seed, cell.dtype.torch, first_images)
    network.module.to(device)
    return network
