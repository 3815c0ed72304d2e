"""What a table rests on: the files that are here now, and where a finished table came from."""

import contextlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.files import source_hash
from pipeline.run.cell import Cell, calibrated
from pipeline.run.context import Context
from pipeline.weights.planted import PlantedBy
from pipeline.weights.states import TrainedBy, weights_file


def fingerprints(cell: Cell, context: Context) -> dict[str, str | None]:
    """What the cell's files hold now; None for what is not here."""
    needs, data = cell.spec.needs, cell.data.value
    found: dict[str, str | None] = {}
    if "images" in needs or ("network" in needs and calibrated(cell)):
        found["data"] = context.image_hash(data)
    if "data" in needs:  # a training
        found |= {f"the {split} images": context.image_hash(data, split) for split in ("train", "test")}
    if "network" in needs:
        found["weights"] = context.file_hash(weights_file(cell.weights.value))
        if isinstance(cell.weights.value, TrainedBy):
            found |= fingerprints(cell.weights.value.cell, context)
    if "planted" in needs:
        with contextlib.suppress(UserError):  # not there yet
            found["the attack"] = context.file_hash(cell.attack.value.file(weights_file(cell.weights.value)))
        if isinstance(cell.attack.value, PlantedBy):
            found |= fingerprints(cell.attack.value.by.cell, context)
    for need, choice in {"network": cell.model, "model": cell.model, "rules": cell.rule, "asked": cell.rule}.items():
        if need in needs and hasattr(choice.value, "call"):  # the user's own function
            found[f"the code of {choice.name}"] = source_hash(choice.value.call)
    if start := getattr(cell.experiment.value, "start", None):  # a training's
        found["start"] = context.file_hash(Path(start).expanduser())
    return {what: value and value[:16] for what, value in found.items()}


def changes(cell: Cell, context: Context, known: dict[str, str | None]) -> list[str]:
    """What is here now, and other than `known`."""
    now = fingerprints(cell, context)
    return [what for what, value in now.items() if value and known.get(what) != value]


def manifest(cell: Cell, context: Context) -> dict[str, Any]:
    """Where the tables of cells that share their work come from; no host, no user."""
    packages, device = ("torch", "torchvision", "numpy", "pandas"), context.device
    commit, dirty = git_state()
    return {
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "commit": commit,
        "dirty": dirty,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "precision": {"dtype": cell.dtype.value, "tf32": False},
    }


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package is, and whether it has changes; None where it is no checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None, None

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None
