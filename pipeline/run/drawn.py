"""From the tables of a figure's cells to its files: the only module that sees both."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import UserError
from pipeline.files import file_hash, save_atomically
from pipeline.run.cell import Cell, digest
from pipeline.run.context import Context
from pipeline.run.runner import left_out, out_of_reach, run_cells


def draw_figure(
    figure: str,
    sweeps: Mapping[str, Sequence[Cell]],
    profile: str,
    context: Context,
    name: str = "",
    force: bool = False,
    absent: Mapping[str, str] | None = None,
) -> Path | None:
    """Compute what is missing, read the tables (and the maps, if the figure draws them), draw; path of the figure's
    pdf, None where tables are left to other processes.

    Its png, svg and csv lie beside it. name: of its files, by default the figure's; absent: sweeps that it does
    without, and why (`within_reach`). What is drawn from the same tables by the same code stays. Raises UserError,
    before any work, for cells that the figure can't draw.
    """
    from pipeline.figures import (  # seaborn, which tables don't need, is slow to import
        FIGURES,
        does_without,
        draws_maps,
        refusal,
        save,
    )

    if empty := [sweep for sweep, cells in sweeps.items() if not cells]:
        raise UserError(
            f"figure={figure} has nothing for its sweep {empty[0]}: {nothing_lent(profile)}; choose another profile"
        )
    store, module, folder = context.store, FIGURES[figure], context.store.root / "figures"
    pdf, record = folder / f"{name or figure}.pdf", folder / f".{name or figure}.json"
    named = {sweep: [(cell, facts(cell)) for cell in cells] for sweep, cells in sweeps.items()}
    if complaint := refusal(module, {sweep: [about for _, about in cells] for sweep, cells in named.items()}):
        raise UserError(complaint)
    all_cells = [cell for cells in sweeps.values() for cell in cells]
    absent = dict(absent or {})
    try:
        run_cells(all_cells, context, force)
    except UserError:
        failed = {sweep: store.why_failed(cells) for sweep, cells in sweeps.items()}
        if not does_without(module) or not any(failed.values()) or all(failed.values()):
            raise
        absent |= {sweep: why for sweep, why in failed.items() if why}
        named = {sweep: cells for sweep, cells in named.items() if sweep not in absent}
        all_cells = [cell for cells in named.values() for cell, _ in cells]
    if left_out(all_cells, context) or context.run.groups:  # a job does its share, and who sent it draws
        return None
    sums = {sweep: [checksums(cell, context) for cell, _ in cells] for sweep, cells in named.items()}
    drawn_from = digest({"code": drawing_code(), "profile": profile, "sweeps": sums, "absent": absent})
    text = json.dumps({"drawn_from": drawn_from, "profile": profile, "cells": [cell.key for cell in all_cells]})
    files = (pdf.with_suffix(end) for end in (".pdf", ".png", ".svg", ".csv"))
    there = all(file.is_file() for file in (*files, record))
    if there and not force and record.read_text() == text:
        return pdf
    tables, maps = {}, {} if draws_maps(module) else None
    for sweep, cells in named.items():
        tables[sweep] = pd.concat([labelled(store.read(cell), about) for cell, about in cells], ignore_index=True)
        if maps is not None:
            maps[sweep] = [(about, store.tensors(cell)) for cell, about in cells]
    save(module, name or figure, tables, profile, folder, maps, absent)
    save_atomically(record, lambda path: path.write_text(text))
    return pdf


def is_drawn(figure: str, cells: Sequence[Cell], profile: str, folder: Path) -> bool:
    """Whether the figure that lies there is of this profile and of no other cells."""
    record, keys = folder / f".{figure}.json", {cell.key for cell in cells}
    try:
        said = json.loads(record.read_text())
        return (folder / f"{figure}.png").is_file() and said["profile"] == profile and {*said["cells"]} <= keys
    except (OSError, ValueError, TypeError, KeyError):  # none, or of an older version
        return False


def labelled(table: pd.DataFrame, about: Mapping[str, Any]) -> pd.DataFrame:
    """With a column for each fact, in the place of one of that name: what `assign` does one by one, and slowly."""
    labels = pd.DataFrame(dict(about), index=table.index)
    return pd.concat([table.drop(columns=labels.columns, errors="ignore"), labels], axis=1)


def nothing_lent(profile: str) -> str:
    return f"profile={profile or 'null'} lends it no networks"


def within_reach(
    figure: str, sweeps: Mapping[str, Sequence[Cell]], profile: str, context: Context
) -> tuple[dict[str, Sequence[Cell]], dict[str, str]]:
    """(the sweeps that can be computed, as far as that is known before; why the others can't) of a figure that does
    without some; of others all."""
    from pipeline.figures import FIGURES, does_without

    if not does_without(FIGURES[figure]):
        return dict(sweeps), {}
    why = {sweep: out_of_reach(cells, context) if cells else nothing_lent(profile) for sweep, cells in sweeps.items()}
    return {sweep: sweeps[sweep] for sweep in sweeps if not why[sweep]}, {name: w for name, w in why.items() if w}


def checksums(cell: Cell, context: Context) -> list[Any]:
    """Of a finished cell's table and tensors, with its key."""
    manifest = context.finished[cell.key]
    return [cell.key, manifest["table"], manifest.get("tensors", {})]


@cache
def drawing_code() -> str:
    """What a figure depends on beside its tables: the code that draws, and the libraries."""
    here = Path(__file__).parents[1]
    files = [file for folder in ("figures", "measures", "claims") for file in sorted((here / folder).iterdir())]
    files = [file for file in files if file.is_file()]
    libraries = ("matplotlib", "seaborn", "pandas", "numpy", "scipy", "diptest", "scikit-learn")
    return digest(
        {"files": [file_hash(file) for file in files], "versions": [metadata.version(name) for name in libraries]}
    )


def facts(cell: Cell) -> dict[str, Any]:
    """Which cell it is, named as on the command line: weights, seed, rule, rule.first_layer ... (`explained` is the
    setting target)"""
    found: dict[str, Any] = {}
    described = cell.describe()
    for group in ("experiment", "model", "weights", "rule", "data", "attack"):
        found[group] = getattr(cell, group).name
        plain = {k: v for k, v in described[group].items() if k != "choice" and not isinstance(v, list | dict)}
        found |= {f"{group}.{k}": v for k, v in plain.items()}
    return {**found, "seed": cell.seed, "explained": cell.target}
