"""What an experiment is, and what it returns."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.rules import Activation, External, Method
from pipeline.errors import UserError

NO_RULE = {
    Activation: "the activation is a start at one layer, of no class, and no rule that runs through the layers",
    External: "an external attribution is a map at the input, and no rule that runs through the layers",
}


class Dtype(Enum):
    float32 = "float32"
    float64 = "float64"

    @property
    def torch(self) -> torch.dtype:
        return getattr(torch, self.value)


@dataclass(frozen=True)
class Experiment:
    """`run` computes the results; the names of its parameters say what it needs (see PARTS and runner.py).

    `version` is part of every key: raise it when the meaning of the table changes. `takes`: which of Rule, Activation
    and External it can work with, where it needs rules; `objection`: why it can't work with one of these, else "".
    `least_images`: options -> so many are needed, where one is compared with another. `picture`: the figure that shows
    one table. `dtype`: the precision, whatever the cell asks for. `fresh`: computed anew each time, for it judges the
    code that is here now. `report`: table -> (text for the terminal, a complaint that ends the command with exit code 1
    or None). `batch`: its share of the usual number of images at once, where it holds more of each in memory.
    """

    run: Callable[..., Any]
    options: type
    version: int
    takes: tuple[type[Method], ...] = (Rule,)
    objection: Callable[[Method], str] = lambda method: ""
    picture: str = ""
    dtype: Dtype | None = None
    fresh: bool = False
    report: Callable[[pd.DataFrame], tuple[str, str | None]] | None = None
    least_images: Callable[[Any], int] = lambda options: 1
    batch: float = 1.0

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.run).parameters)

    def refuse(self, experiment: str, rule: str, method: Method) -> None:
        """Raises UserError if the rule is none that this experiment can work with. experiment, rule: their names."""
        if not {"rules", "asked"} & set(self.needs):
            return
        why = (
            self.objection(method)
            if isinstance(method, self.takes)
            else NO_RULE.get(type(method), "its class is no Rule")
        )
        if why:
            raise UserError(
                f"experiment={experiment} can't work with rule={rule}: {why}; choose another rule, such as gbp, "
                "rectgrad or lrp (with rule=all, by rule.names)"
            )


@dataclass(frozen=True)
class Result:
    """What an experiment returns for one cell: rows, tensors to keep beside them ({file: {key: tensor}}), facts for
    the manifest, and the texts in the heads of the tensors' files ({file: {key: text}}).

    Of an experiment over images every tensor has a row per row of the table (or per image): parts are joined along
    dimension 0.
    """

    table: pd.DataFrame
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, dict[str, str]] = field(default_factory=dict)
