"""What captions say of the tables: the network, its weights and seeds, the images; a template filled with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

FIXED = ("pretrained", "checkpoint", "trained")  # weights that no seed draws


@dataclass(frozen=True)
class Facts:
    """What captions say of a table: {sweep[column]} in a template is a column's first value, {sweep.state} a text."""

    table: pd.DataFrame

    def __getitem__(self, column: str) -> Any:
        return self.table[column].iloc[0]

    @property
    def count(self) -> int:
        return self.table["image"].nunique()

    @property
    def images(self) -> str:
        return f"{self.count} images of {self['data']}"

    @property
    def weights(self) -> str:
        return weights_text(self.table)

    @property
    def seeds(self) -> str:
        return seeds_text(self.table, ", ")

    @property
    def weight_seeds(self) -> str:
        return seeds_text(self.table, ", weight ")

    @property
    def state(self) -> str:
        return state_text(self.table)


def words(template: str, tables: Mapping[str, pd.DataFrame], **values: Any) -> str:
    """A caption's template filled in, on one line: with values, and with the Facts of each table."""
    facts = {sweep: Facts(table) for sweep, table in tables.items()}
    return " ".join(template.format(**facts | values).split())


def seeds_text(table: pd.DataFrame, before: str) -> str:
    """Behind `before`, the seeds of the weights; nothing where no seed draws them."""
    seeds = sorted(table["seed"].unique())
    if len(seeds) > 1:
        return f"{before}seeds {seeds[0]}-{seeds[-1]} (n = {len(seeds)})"
    return "" if table["weights"].iloc[0] in FIXED else f"{before}seed {seeds[0]}"


def weights_text(table: pd.DataFrame) -> str:
    """The choice of weights, and the file, the training or the other weights that it names."""
    known = table.columns.intersection(["weights.path", "weights.enum", "weights.training"])
    named = [table["weights"].iloc[0], *table[known].iloc[0].dropna()]
    if "weights.base" in table and isinstance(base := table["weights.base"].iloc[0], str):
        named += ["on", base]
    return " ".join(map(str, named))


def state_text(table: pd.DataFrame) -> str:
    """Which network: model, weights and, where one draws them, their seed."""
    return f"{table['model'].iloc[0]}, weights {weights_text(table)}{seeds_text(table, ' ')}"


def several_maps(cells: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a figure of one map per image can't show these cells; None if it can."""
    if any(cell["rule"] == "activation" for cell in cells):
        return "this figure shows one map per image, and rule=activation gives one for each layer; choose another rule"
    return None
