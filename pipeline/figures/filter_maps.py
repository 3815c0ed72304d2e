"""experiment=filter as a picture: each image with the map of a rule, P x, the best filter, and what that leaves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.figures import captions, style
from pipeline.figures import maps as pictures

SWEEP = "filter_maps"
TITLES = {"x": "image", "r": "map R", "px": "P x", "ridge": "best filter", "residual": "R - best filter"}
BELOW = {"r": "alignment", "px": "cos_px", "ridge": "cos_ridge", "residual": "residual_alignment"}
COLUMNS = ["sweep", "image", "rule", "index", *BELOW.values()]
TEXT = r"""
{filter_maps.state}; explained: {filter_maps[explained]}. P x = $W_1 W_1^T x$: the first layer's convolution and its
transpose. Best filter: {filter_maps[experiment.size]} x {filter_maps[experiment.size]} pixels, all channels, fitted
to the rule's maps of the other images. Below R and below what is left of it: cosine with the image; below the others:
cosine with R. Each picture from its own 0.5 % to its 99.5 % quantile.
"""


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per rule and image shown: sweep, index (of its maps among those of the sweep), and what stands below
    them."""
    return shown(tables[SWEEP], SWEEP)


def shown(table: pd.DataFrame, sweep: str) -> pd.DataFrame:
    """The rows whose maps are kept: of each cell the first images."""
    order = table.groupby("rule", sort=False).cumcount()
    kept = table[order < table["experiment.shown"]].reset_index(drop=True)
    return kept.reset_index(names="index").assign(sweep=sweep)[COLUMNS]


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    return captions.words(TEXT, tables)


def tiles(row: Any, maps: Mapping[str, Sequence[Any]], titles: bool) -> list[pictures.Tile]:
    """One rule and image: TITLES in order; what was not fitted is left out."""
    found = []
    for key, title in TITLES.items():
        r = pictures.rows(maps[row["sweep"]], "shown", key)[int(row["index"])]
        below = f"{row[BELOW[key]]:.2f}" if key in BELOW else ""
        missing = key in BELOW and np.isnan(row[BELOW[key]])
        found.append(pictures.Tile(None if missing else pictures.image_like(r), title if titles else "", below))
    return found


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, list]) -> Figure:
    lines = [tiles(row, maps, titles=i == 0) for i, (_, row) in enumerate(numbers.iterrows())]
    there = [i for i in range(len(TITLES)) if any(line[i].picture is not None for line in lines)]
    lines = [[line[i] for i in there] for line in lines]  # of one image alone there is no best filter
    height = len(lines) * 1.22 + 0.6
    figure = style.page(height)
    names = [style.rule_look(rule).label for rule in numbers["rule"]]
    pictures.draw_tiles(figure, lines, (0.06, 0.5 / height, 0.06 + 0.168 * len(there), 1 - 0.16 / height), names)
    style.caption(figure, text, y=0.05 / height)
    return figure
