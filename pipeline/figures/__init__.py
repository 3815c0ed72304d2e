"""Figures: each a module with `numbers(tables)`, all that is drawn, `caption(tables, profile)`, and `draw(numbers,
text)`. They read tables and compute nothing else. tables[sweep] has its cells' rows, with columns that say which
cell it is (weights, seed, rule, rule.first_layer, ...).

Series come from the tables, by style.looks: known rules and laws in their order, then whatever else is there. A
module that can't draw everything has `refuse(sweeps)` as well: given for each sweep what tells its cells apart, one
mapping per cell with the keys of those columns, it returns a sentence that says why not and what to do, or None. It
is asked before anything is computed. One with `numbers(tables, absent)` is drawn from the sweeps that can be computed;
absent[sweep] is why another can't.

A figure of maps has `draw(numbers, text, maps)`: maps[sweep] is a list of (which cell, {file: {key: tensor}}), one
per cell in the order of the sweep, as its rows are in tables[sweep]; its csv holds the numbers that are printed in
it. pipeline/figures/maps.py draws maps.

To add one: write such a module, enter it in FIGURES, add conf/figure/<name>.yaml with its sweeps."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from pipeline.figures import style
from pipeline.files import save_atomically

FIGURES: dict[str, ModuleType] = {
    name: import_module(f"pipeline.figures.{name}")
    for name in (
        "attribute",
        "backdoors",
        "behaviours",
        "claims",
        "fig1",
        "fig2",
        "fig3",
        "fig4",
        "fig5",
        "fig6",
        "fig7",
        "fig8",
        "fig9",
        "filter",
        "filter_maps",
        "gamma",
        "kis",
        "table1",
        "theory",
    )
}


def draws_maps(module: ModuleType) -> bool:
    return "maps" in signature(module.draw).parameters


def does_without(module: ModuleType) -> bool:
    """Whether it says of sweeps that are absent why they are, instead of needing all."""
    return "absent" in signature(module.numbers).parameters


def refusal(module: ModuleType, sweeps: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """Why these cells can't be drawn, from the module's `refuse`; None if they can."""
    return module.refuse(sweeps) if hasattr(module, "refuse") else None


def save(
    module: ModuleType,
    name: str,
    tables: Mapping[str, pd.DataFrame],
    profile: str,
    folder: Path,
    maps: Mapping[str, Any] | None = None,
    absent: Mapping[str, str] | None = None,
) -> Path:
    """Draw a figure from its sweeps' tables (and maps): <name>.pdf, .png, .svg and .csv (exactly what is drawn) in
    `folder`; the pdf's path. absent: why sweeps are not there, for a figure that does without."""
    style.use_style()
    numbers = module.numbers(tables, absent or {}) if does_without(module) else module.numbers(tables)
    text = module.caption(tables, profile)
    figure = module.draw(numbers, text) if maps is None else module.draw(numbers, text, maps)
    paths = [folder / f"{name}{suffix}" for suffix in (".csv", ".png", ".svg", ".pdf")]
    save_atomically(paths[0], lambda path: numbers.to_csv(path, index=False))
    for path in paths[1:]:
        save_atomically(path, lambda temporary: style.save(figure, temporary, text))
    style.close(figure)
    return paths[-1]
