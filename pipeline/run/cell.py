"""A cell is what determines one table: an experiment, and of model, weights, rule, data, seed, precision and target
what it asks for."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from enum import Enum
from functools import cached_property
from typing import Any

from pipeline.experiments.interface import Dtype, Experiment
from pipeline.weights.laws import BatchNormReset
from pipeline.weights.states import preprocessing_of


@dataclass(frozen=True)
class Choice:
    """A named option of one config group: the yaml's name and the dataclass it was parsed into."""

    name: str
    value: Any

    def identity(self) -> dict[str, Any]:
        """A field that has a default adds nothing where it is left at it: a new setting leaves older keys as they
        were."""
        given = self.value.identity() if hasattr(self.value, "identity") else asdict(self.value)
        usual = {f.name: f.default for f in fields(self.value) if f.default is not MISSING}
        return {"is": type(self.value).__name__} | {k: v for k, v in given.items() if k not in usual or v != usual[k]}

    def describe(self) -> dict[str, Any]:
        return {
            "choice": self.name,
            **(self.value.describe() if hasattr(self.value, "describe") else asdict(self.value)),
        }


@dataclass(frozen=True)
class Cell:
    """One table to be. `target`: which class is explained (targets.py)."""

    experiment: Choice
    spec: Experiment
    model: Choice
    weights: Choice
    rule: Choice
    data: Choice
    attack: Choice
    seed: int
    dtype: Dtype
    target: str

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines the table and nothing else, as plain data."""
        found: dict[str, Any] = {
            "experiment": self.experiment.name,
            "version": self.spec.version,
            "options": options_of(self.experiment.value),
        }
        for need in self.spec.needs:
            found |= PARTS.get(need, lambda cell: {})(self)
        return json.loads(json.dumps(found, default=plain))

    @cached_property
    def key(self) -> str:
        return digest(self.identity)

    @cached_property
    def shared_key(self) -> str:
        """Cells that differ in their rule alone (and in their options, where the experiment is `asked`) share their
        work."""
        apart = {"rule", "options"} if "asked" in self.spec.needs else {"rule"}
        return digest({k: v for k, v in self.identity.items() if k not in apart})

    @property
    def title(self) -> str:
        named = {"model": self.model.name, "network": f"{self.weights.name} seed {self.seed}", "images": self.data.name}
        wanted = {*self.spec.needs} | ({"model"} if "network" in self.spec.needs else set())
        wanted |= {"images"} if "data" in self.spec.needs else set()
        return " ".join([self.experiment.name, *(text for need, text in named.items() if need in wanted)])

    def describe(self) -> dict[str, Any]:
        """The whole configuration as plain data, for config.yaml."""
        groups = {name: getattr(self, name) for name in ("experiment", "model", "weights", "rule", "data", "attack")}
        settings = {name: choice.describe() for name, choice in groups.items()}
        return json.loads(
            json.dumps({**settings, "seed": self.seed, "dtype": self.dtype, "target": self.target}, default=plain)
        )


def options_of(options: Any) -> dict[str, Any]:
    """Of an experiment's options those that can change its table."""
    return {
        name: value for name, value in asdict(options).items() if name not in getattr(options, "CHANGE_NOTHING", ())
    }


def network_parts(cell: Cell) -> dict[str, Any]:
    weights = cell.weights.value
    parts = {"model": cell.model.identity(), "weights": cell.weights.identity(), "dtype": cell.dtype}
    if getattr(weights, "seeded", True):
        parts["seed"] = cell.seed
    return parts | (image_parts(cell) if calibrated(cell) else {})


def calibrated(cell: Cell) -> bool:
    """Whether the network depends on the first images."""
    return getattr(cell.weights.value, "batchnorm", None) is BatchNormReset.calibrated


def image_parts(cell: Cell) -> dict[str, Any]:
    return {
        "data": cell.data.identity(),
        "preprocessing": asdict(preprocessing_of(cell.weights.value, cell.model.value)),
        "dtype": cell.dtype,
    }


# What each parameter of an experiment's function depends on.
PARTS: Mapping[str, Callable[[Cell], dict[str, Any]]] = {
    "network": network_parts,
    "images": image_parts,
    "rules": lambda cell: {"rule": cell.rule.identity()},
    "asked": lambda cell: {"rule": cell.rule.identity()},
    "target": lambda cell: {"target": cell.target},
    "model": lambda cell: {"model": cell.model.identity()},
    "weights": lambda cell: {"weights": cell.weights.identity()},
    "seed": lambda cell: {"seed": cell.seed},
    "data": lambda cell: {"data": cell.data.identity()},
    "attack": lambda cell: {"attack": cell.attack.identity()},
    "planted": lambda cell: {"attack": cell.attack.identity()},
}


def plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{value!r} is no plain data")


def spelt(settings: Any) -> str:
    """A settings object as text: settings that are spelt alike are alike."""
    return type(settings).__name__ + json.dumps(asdict(settings), default=plain)


def digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
