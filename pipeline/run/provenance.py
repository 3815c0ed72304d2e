"""What a table rests on: the files that are here now, and where a finished table came from."""

import platform
import subprocess
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.files import file_hash, source_hash
from pipeline.images.batches import ImageSet
from pipeline.run.cell import Cell
from pipeline.weights.states import TrainedBy, fingerprint


def image_set(cell: Cell) -> ImageSet:
    return _image_set(Hashable(cell.data.value))


@dataclass(frozen=True)
class Hashable:
    """A settings object as a key of a cache: settings that print alike are alike."""

    value: Any = field(compare=False)
    text: str = ""

    def __post_init__(self):
        object.__setattr__(self, "text", repr(self.value))


@cache
def _image_set(data: Hashable, split: str = "test") -> ImageSet:
    return data.value.images(split)


@cache
def _data_fingerprint(data: Hashable, split: str = "test") -> str | None:
    try:
        return _image_set(data, split).fingerprint()
    except (UserError, OSError):
        return None


@cache
def _weights_fingerprint(weights: Hashable) -> str | None:
    return fingerprint(weights.value)


def fingerprints(cell: Cell) -> dict[str, str | None]:
    """What the cell's files hold now; None for what is not here."""
    needs, found = cell.spec.needs, {}
    if "images" in needs:
        found["data"] = _data_fingerprint(Hashable(cell.data.value))
    if "data" in needs:  # a training
        found |= {
            f"the {split} images": _data_fingerprint(Hashable(cell.data.value), split) for split in ("train", "test")
        }
    if "network" in needs:
        found["weights"] = _weights_fingerprint(Hashable(cell.weights.value))
        if isinstance(cell.weights.value, TrainedBy):
            found |= fingerprints(cell.weights.value.cell)
    for need, choice in {"network": cell.model, "model": cell.model, "rules": cell.rule}.items():
        if need in needs and hasattr(choice.value, "call"):  # the user's own function
            found[f"the code of {choice.name}"] = source_hash(choice.value.call)
    if start := getattr(cell.experiment.value, "start", None):  # a training's
        found["start"] = file_hash(Path(start).expanduser())
    return {what: value and value[:16] for what, value in found.items()}


def forget_files() -> None:
    """Look at the files anew from here on: they may have changed since."""
    for cached in (_image_set, _data_fingerprint, _weights_fingerprint):
        cached.cache_clear()


def manifest(cell: Cell, device: torch.device) -> dict[str, Any]:
    """Where the tables of cells that differ in their rule come from; no host, no user."""
    packages = ("torch", "torchvision", "numpy", "pandas")
    commit, dirty = git_state()
    return {
        "fingerprints": fingerprints(cell),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "commit": commit,
        "dirty": dirty,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": {"dtype": cell.dtype.value, "tf32": False},
    }


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package is, and whether it has changes; None where it is no checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None, None
    try:
        git = lambda *args: subprocess.run(
            ["git", *args], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()  # noqa: E731
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None
