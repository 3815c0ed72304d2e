"""attack=planted: the backdoor that a network was trained with, the explained one or another."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.attacks.files import Known, beside, read_attack
from pipeline.files import CHECKPOINTS
from pipeline.weights.states import TrainedBy


@dataclass(frozen=True)
class Planted:
    """path: a file of an attack's state or of the weights beside which it lies, also by the name of a checkpoint that
    the package ships; null: beside the weights of the network. name: the attack that it must be; null: any. training:
    in place of the path that of weights=trained, of a network that is trained first."""

    path: str | None
    name: str | None
    training: dict[str, Any] | None

    def identity(self) -> dict[str, Any]:
        return {"path": self.path}

    def file(self, weights: Path | None) -> Path:
        """weights: the file of the network's. Raises UserError if there is no such state."""
        if self.path is None:
            return beside(weights)
        if (shipped := CHECKPOINTS / f"{self.path}.attack.safetensors").is_file():
            return shipped
        given = Path(self.path).expanduser()
        return given if given.name.endswith("attack.safetensors") else beside(given)

    def read(self, weights: Path | None) -> Known:
        return read_attack(self.file(weights), self.name)


@dataclass(frozen=True)
class PlantedBy:
    """The same of a network that this program trains."""

    by: TrainedBy
    name: str | None

    def identity(self) -> dict[str, Any]:
        return self.by.identity()

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **self.by.describe()}

    def file(self, weights: Path | None) -> Path:
        return beside(self.by.path)

    def read(self, weights: Path | None) -> Known:
        return read_attack(self.file(weights), self.name)
