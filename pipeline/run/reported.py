"""What the report shows of finished cells: where they come from, and their maps."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.figures import captions, style
from pipeline.measures.tables import Table
from pipeline.report.content import GALLERY, OUTPUT, Content, Map, Origin
from pipeline.report.pictures import drawn, map_uri
from pipeline.run.cell import Cell
from pipeline.run.context import Context
from pipeline.run.drawn import facts, is_drawn
from pipeline.run.groups import current
from pipeline.run.runner import with_file

LAYERS = 8  # from which maps start, of a network that has more
OTHER = "the figure that lies there is of another profile, other settings or an older version"
STATES = {True: "trained", False: "random"}


@dataclass(frozen=True)
class Report:
    """figures: those that are drawn, if they have to be, and shown; null: all; none: none is drawn, and those that are
    there are shown. gallery: sweeps of experiment=attribute, as those of a figure."""

    figures: list[str] | None
    gallery: dict[str, dict[str, Any]]


def content_of(
    found: Mapping[str, Mapping[str, Sequence[Cell]]],
    missing: Mapping[str, str],
    profile: str,
    settings: Sequence[str],
    context: Context,
) -> Content:
    """What is there of the figures and of the gallery, by name, with their cells by sweep; settings: what the user set
    of them."""
    folder = context.store.root / "figures"
    cells = {name: [cell for some in sweeps.values() for cell in some] for name, sweeps in found.items()}
    there = [name for name in cells if is_drawn(name, cells[name], profile, folder)]
    others = {name: OTHER for name in cells if name not in there and (folder / f"{name}.png").is_file()}
    images, maps = gallery_of(found.get(GALLERY, {}), context)
    claims = claims_of(folder / "claims.csv") if "claims" in there else None
    return Content(
        profile=profile,
        settings=settings,
        figures=[drawn(name, folder, origin_of(cells[name], context)) for name in there],
        missing={**missing, **others},
        claims=None if claims is None else claims[claims["reading"] == ""],
        readings=None if claims is None else claims[claims["reading"] != ""],
        images=images,
        maps=maps,
        origin=origin_of([cell for some in cells.values() for cell in some], context),
    )


def claims_of(csv: Path) -> Table:
    """As figure=claims wrote it."""
    texts = dict.fromkeys(("reading", "group", "place", "words", "number", "tags", "verdict", "why", "part", "n"), "")
    return pd.read_csv(csv, dtype=dict.fromkeys(texts, str)).fillna(texts)


def origin_of(cells: Sequence[Cell], context: Context) -> Origin:
    """Of those of the cells that are finished, each once."""
    done = {cell.key: cell for cell in cells if current(with_file(cell, context), context)}
    manifests = [context.finished[key] for key in done]
    versions: dict[str, list[str]] = {}
    for name, version in sorted({item for one in manifests for item in one["versions"].items()}):
        versions.setdefault(name, []).append(version)
    return Origin(
        tables=dict(sorted(Counter(cell.experiment.name for cell in done.values()).items())),
        commits=sorted({commit_text(one) for one in manifests}),
        versions=versions,
        devices=sorted({f"{one['device']}, {one['precision']['dtype']}" for one in manifests}),
    )


def commit_text(manifest: Mapping[str, Any]) -> str:
    commit = (manifest.get("commit") or "no checkout")[:12]
    return f"{commit} with changes" if manifest.get("dirty") else commit


def gallery_of(sweeps: Mapping[str, Sequence[Cell]], context: Context) -> tuple[dict[str, str], list[Map]]:
    """(images by name, maps) of those that are finished, as data URIs; of two maps of the same image, weights, rule and
    layer the first."""
    images: dict[str, str] = {}
    maps: dict[tuple[str, ...], Map] = {}
    for cell in (cell for cells in sweeps.values() for cell in cells if current(with_file(cell, context), context)):
        table: Table = context.store.read(cell).assign(**facts(cell))
        tensors = context.store.tensors(cell)
        if table.empty:
            continue
        for name, x in zip(table["image"].unique(), tensors["inputs"]["x"], strict=True):
            images.setdefault(str(name), map_uri(x))
        for row, i in shown(table):
            layer = str(row["name"]) if row["rule"] == "activation" else OUTPUT
            place = (str(row["image"]), STATES[row["weights"] in captions.FIXED], rule_text(row["rule"]), layer)
            if place not in maps:
                r = tensors["maps"]["without_bottom"][i]
                maps[place] = Map(*place, captions.state_text(table), float(row["alignment"]), map_uri(r))
    return images, list(maps.values())


def shown(table: Table) -> Iterator[tuple[Table, int]]:
    """The rows with their places; of maps from many layers some, evenly apart."""
    layers = np.sort(table["layer"].unique())
    some = layers[np.unique(np.linspace(0, len(layers) - 1, LAYERS).round().astype(int))]
    for i, (_, row) in enumerate(table.iterrows()):
        if row["layer"] in some:
            yield row, i


def rule_text(rule: str) -> str:
    """A legend's name without its marks of TeX."""
    return style.rule_look(rule).label.replace("$", "").replace("^+", "+")
