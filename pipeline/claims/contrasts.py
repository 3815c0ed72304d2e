"""Tables made ready for evidence: one row per image and weight seed, and differences between them, paired."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import rankdata

from pipeline.claims.evidence import Part, Range, mean
from pipeline.measures.tables import Table, where

RULES = ("gbp", "rectgrad", "lrp")


def last(table: Table) -> Table:
    """The maps of the rule in all layers, N = L."""
    return table[table["n"] == table["n"].max()]


def over_levels(table: Table, value: str = "alignment") -> Table:
    """The mean over N (or l), a row per image, seed and, where there are several, rule."""
    return complete_means(table, ["image", "seed", *table.columns.intersection(["rule"])], [value])


def complete_means(table: Table, keys: list[str], values: list[str]) -> Table:
    """Means of columns, a row per group of `keys`; NaN where one is missing, for the other levels do not stand for it
    (and a difference would be between means over different ones)."""
    groups = table.groupby(keys, as_index=False)[values]
    found, there, size = groups.mean(), groups.count(), table.groupby(keys).size().to_numpy()
    return found.assign(**{value: found[value].where(there[value] == size) for value in values})


def minus(first: Table, second: Table, value: str, *by: str) -> Table:
    """first - second of a column, paired by image and seed (and `by`); the rows of one network, which no seed drew,
    meet every seed of the other."""
    one_network = [table["seed"].nunique() == 1 for table in (first, second)]
    keys = ["image", *by] + ([] if any(one_network) else ["seed"])
    both = first[["image", "seed", *by, value]].merge(
        second[["image", "seed", *by, value]], on=keys, suffixes=("", " of other")
    )
    if one_network[0] and not one_network[1]:
        both["seed"] = both["seed of other"]
    return both.assign(**{value: both[value] - both[f"{value} of other"]})


def by_rule(table: Table, rules: Sequence[str] = RULES) -> Iterator[tuple[str, Table]]:
    for rule in rules:
        yield rule, table[table["rule"] == rule]


def each_rule(table: Table, value: str, target: Range) -> list[Part]:
    """The mean of a column, rule by rule."""
    return [mean(rule, part, value, target) for rule, part in by_rule(table)]


def gaps(first: Table, second: Table, value: str, target: Range, label: str = "") -> list[Part]:
    """first - second of a column, rule by rule; label: behind the rule's name."""
    return [
        mean(f"{rule}{label}", minus(part, where(second, rule=rule), value), value, target)
        for rule, part in by_rule(first)
    ]


def spread_out(table: Table, by: str, value: str) -> tuple[Table, list[str]]:
    """A row per image and seed with a column for each level of `by`, and the columns' names in order."""
    wide = table.pivot(index=["image", "seed"], columns=by, values=value)
    wide.columns = [f"at {level}" for level in wide.columns]
    return wide.reset_index(), [*wide.columns]


def mean_rank_correlation(cells: np.ndarray) -> np.ndarray:
    """Spearman's correlation of the last axis with its order, (images, seeds, N) -> mean over cells, (1,)."""
    ranks = rankdata(cells, axis=2, nan_policy="propagate")
    order = np.arange(1.0, cells.shape[2] + 1)
    centred, steps = ranks - ranks.mean(2, keepdims=True), order - order.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        each = (centred * steps).sum(2) / np.sqrt((centred**2).sum(2) * (steps**2).sum())
    return np.array([np.nanmean(np.where(np.ptp(ranks, axis=2) == 0, 0.0, each))])


def third(depth: int) -> int:
    """Layers of the top or bottom third."""
    return -(-depth // 3)
