"""Colour and background: how much of each a map returns."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from pipeline.claims.alignment import STATES, last_of_each
from pipeline.claims.contrasts import by_rule, gaps, mean_rank_correlation, spread_out, third
from pipeline.claims.evidence import Part, at_least, at_most, mean, nothing, statistic
from pipeline.claims.registry import Tables, claim
from pipeline.measures.intervals import over_crossed
from pipeline.measures.tables import Table, where

LEAST = 0.1  # of an image that must be object, and background


@claim("colour-loss", *STATES)
def colour_loss(tables: Tables) -> list[Part]:
    random, trained = (last_of_each(tables[state]) for state in STATES)
    return gaps(random, trained, "alignment_chroma", at_least(0.05))


@claim("bg-loss", "objects_random", "objects_trained")
def background_loss(tables: Tables) -> list[Part]:
    random, trained = (with_both(tables[f"objects_{state}"]) for state in STATES)
    return of_data(gaps(random, trained, "background", at_least(0.1)), trained)


def with_both(table: Table) -> Table:
    """Images of which objects fill a tenth to nine tenths: of a rim or a spot no share says much."""
    return table[table["objects"].between(LEAST, 1 - LEAST)]


def of_data(parts: list[Part], table: Table) -> list[Part]:
    """Says of which data they are: the claims on the background have their own."""
    return [replace(part, n=", ".join(filter(None, [part.n, *table["data"].unique()]))) for part in parts]


@claim("colour-bottom", "trained_starts", "trained_maps")
def colour_is_lost_at_the_bottom(tables: Tables) -> list[Part]:
    """kappa = max(alignment of the chromas, 0)^2, the share of x's chroma that is returned."""
    starts, maps = (tables[name].assign(kappa=kappa(tables[name])) for name in ("trained_starts", "trained_maps"))
    return [
        mean(rule, both.assign(more=1 - 2 * both["kappa_start"] + both["kappa"]), "more", at_least(0.02))
        for rule, both in beside_start(maps, starts, third(depth_of(starts)), "kappa")
    ]


def kappa(table: Table) -> pd.Series:
    return table["alignment_chroma"].clip(lower=0) ** 2


@claim("bg-top", "objects_starts", "objects_trained")
def background_is_lost_at_the_top(tables: Tables) -> list[Part]:
    starts, maps = (with_both(tables[f"objects_{name}"]) for name in ("starts", "trained"))
    found = [
        mean(rule, both.assign(more=2 * both["background_start"] - both["background"] - 1), "more", at_least(0.02))
        for rule, both in beside_start(maps, starts, -(-depth_of(starts) // 2), "background")
    ]
    return of_data(found, maps)


def depth_of(starts: Table) -> int:
    """L: maps start at every layer but the last."""
    return int(starts["layer"].max()) + 1


def beside_start(maps: Table, starts: Table, layer: int, value: str) -> Iterator[tuple[str, Table]]:
    """Rule by rule a column of its maps, and beside it, as <value>_start, that of the map that A_l of a layer sends
    down."""
    start = where(starts, layer=layer)[["image", value]]
    for rule, table in by_rule(maps):
        yield rule, table[["image", "seed", value]].merge(start, on="image", suffixes=("", "_start"))


@claim("bg-inactive", "objects_starts")
def high_layers_are_inactive_there(tables: Tables) -> list[Part]:
    """Of convolutions, layers with more than one cell, and of images where all of these tell objects from background:
    in the middle of an image an object fills a part of each of 2 x 2 cells, and none of them does."""

    def ratio(cells: np.ndarray) -> np.ndarray:
        top, bottom = over_crossed(cells)
        return np.array([top / bottom])

    table, name, target = with_both(tables["objects_starts"]), "top / bottom third", at_most(0.5)
    wide, layers = spread_out(table[table["cells"] > 1], "layer", "background_activation")
    n = third(len(layers))
    telling = wide.dropna(subset=[*layers[:n], *layers[-n:]])
    if telling.empty:
        return [nothing(name, target, "maps too coarse at the top to tell the background")]
    both = telling.assign(top=telling[layers[-n:]].mean(axis=1), bottom=telling[layers[:n]].mean(axis=1))
    return of_data([statistic(name, both, ["top", "bottom"], ratio, target)], table)


@claim("fade-colour", "trained_starts")
def colour_fades(tables: Tables) -> list[Part]:
    return fading(tables["trained_starts"], "alignment_chroma")


@claim("fade-bg", "objects_starts")
def background_fades(tables: Tables) -> list[Part]:
    table = with_both(tables["objects_starts"])
    return of_data(fading(table, "background"), table)


def fading(table: Table, value: str) -> list[Part]:
    """Over layers, image by image, of all and of those that are classified wrongly."""
    wrong = table[(table["label"] >= 0) & (table["label"] != table["decision"])]
    found = []
    for name, some in (("all images", table), ("misclassified", wrong)):
        if some.empty:
            found.append(nothing(name, at_most(-0.8), "no images"))
        else:
            wide, columns = spread_out(some, "layer", value)
            found.append(statistic(name, wide, columns, mean_rank_correlation, at_most(-0.8)))
    return found
