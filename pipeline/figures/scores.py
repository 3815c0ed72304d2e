"""S of (20) as numbers to draw: densities of right and wrong decisions, peaks, AUROC for "classified correctly"."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pipeline.figures import captions, style
from pipeline.measures.intervals import t_interval
from pipeline.measures.scores import (
    LOW,
    bins_of,
    density,
    dip,
    highest,
    percentile_interval,
    resampled_aurocs,
    resampled_valleys,
    silverman,
    valley,
    weighted_aurocs,
)

MEASURES = ("s_own", "s_fixed")
LEAST = 30  # images that a density, an interval or an AUROC needs in each group; fewer are marks
DRAWS = 1000  # of the bootstrap
THIN = 8  # every eighth point of the density's grid is kept
NAN = float("nan")
COLUMNS = ["panel", "series", "input", "measure", "what", "x", "y", "low", "high", "n"]


def groups(table: pd.DataFrame, measure: str) -> dict[str, np.ndarray]:
    """S of the images that are there, of right and of wrong decisions."""
    there = table[table[measure].notna() & table["correct"].notna()]
    right = there["correct"].astype(bool)
    return {"correct": there.loc[right, measure].to_numpy(), "incorrect": there.loc[~right, measure].to_numpy()}


def distribution(panel: str, series: str, table: pd.DataFrame, measure: str) -> list[list]:
    """One input's densities, each of area 1 and Silverman's width, or the values themselves where they are few; how
    many peaks there are. Nothing of an empty table."""
    if table.empty:
        return []
    labels = [panel, series, table["input"].iloc[0], measure]
    rows: list[list] = []
    for group, values in groups(table, measure).items():
        single = [[*labels, f"{group} image", x, NAN, NAN, NAN, len(values)] for x in values]
        rows += curve([*labels, group], values) or single
    return rows + peaks(labels, table[measure].dropna().to_numpy())


def curve(labels: Sequence[str], values: np.ndarray) -> list[list]:
    """The density of values, of area 1 and Silverman's width; nothing where they are few or all equal."""
    if len(values) < LEAST or (width := silverman(values)) == 0:
        return []
    grid, f = (points[1::THIN] for points in density(values, width))
    return [[*labels, x, y, NAN, NAN, len(values)] for x, y in zip(grid, f, strict=True)]


def peaks(labels: Sequence[str], values: np.ndarray) -> list[list]:
    """Places of the two peaks and the valley between (or of the highest peak, where V says that there are not two), V
    with a bootstrap interval, and the p of the dip test; all images together."""
    if len(values) < LEAST:
        return []
    found, n = valley(values), len(values)
    interval = percentile_interval(resampled_valleys(values))
    places = {"left peak": found.left, "right peak": found.right, "valley": found.valley}
    if found.v == 0:
        places = {"peak": highest(values)}
    rows = [[*labels, what, x, NAN, NAN, NAN, n] for what, x in places.items()]
    return [*rows, [*labels, "V", NAN, found.v, *interval, n], [*labels, "dip p", NAN, dip(values)[1], NAN, NAN, n]]


def aurocs(
    panel: str, series: str, table: pd.DataFrame, measure: str, intervals: bool = True, more: bool = False
) -> list[list]:
    """What S tells of "classified correctly", by input, with 95 % bootstrap intervals over images. more: also over
    pairs of images alike in margin, and how far the first input's AUROC is above each other's, paired: over the images
    where both are there."""
    inputs = list(table["input"].unique())
    about = table[table["correct"].notna()].drop_duplicates("image").set_index("image")
    right, margin = about["correct"].astype(bool).to_numpy(), about["margin"].to_numpy()
    wide = table.pivot(index="image", columns="input", values=measure).loc[about.index, inputs]
    scores = wide.to_numpy(dtype=float).T
    there = ~np.isnan(scores)
    if not all(enough(right, t) for t in there):
        return []

    def row(name: str, what: str, score: np.ndarray, **given: np.ndarray) -> list:
        return [panel, series, name, measure, what, NAN, *compared(score, right, intervals, **given)]

    rows = [row(name, "auroc", score) for name, score in zip(inputs, scores, strict=True)]
    if more:
        for name, score, t in zip(inputs, scores, there, strict=True):
            stratum = np.zeros(len(score), dtype=int)
            stratum[t] = bins_of(margin[t])
            rows.append(row(name, "auroc within margin", score, stratum=stratum))
        others = zip(inputs[1:], scores[1:], strict=True)
        rows += [row(name, "first - this", scores[0], less=score) for name, score in others]
    return rows


def enough(right: np.ndarray, there: np.ndarray) -> bool:
    """Whether an AUROC of the images that are there can be told."""
    return min((right & there).sum(), (~right & there).sum()) >= LEAST


def compared(
    score: np.ndarray,
    right: np.ndarray,
    intervals: bool = True,
    stratum: np.ndarray | None = None,
    less: np.ndarray | None = None,
) -> list:
    """[AUROC of the score, the ends of its bootstrap interval, number of images]; with `less`, how far it is above that
    one's AUROC, paired: over the images where both are there."""
    both = score[None] if less is None else np.where(np.isnan(score) | np.isnan(less), NAN, [score, less])
    value = [weighted_aurocs(one, right, np.ones((1, len(right))), stratum)[0] for one in both]
    drawn = resampled_aurocs(both, right, stratum, DRAWS) if intervals else np.full((1, len(both)), NAN)
    if less is not None:
        value, drawn = [value[0] - value[1]], drawn[:, :1] - drawn[:, 1:]
    return [float(value[0]), *percentile_interval(drawn[:, 0]), int((~np.isnan(both[0])).sum())]


def above(first: pd.DataFrame, other: pd.DataFrame, measure: str, intervals: bool = True) -> list[list]:
    """How far the AUROC of one table's S is above another's, paired by image, as compared(): one row, or none where
    they share too few images. Each table has one row per image."""
    shared = first.dropna(subset="correct").merge(other, on="image", suffixes=("", " of other"))
    right = shared["correct"].to_numpy(dtype=bool)
    score, less = (shared[name].to_numpy(dtype=float) for name in (measure, f"{measure} of other"))
    return [compared(score, right, intervals, less=less)] if enough(right, ~np.isnan(score + less)) else []


def over_networks(panel: str, rows: Sequence[Sequence]) -> list[list]:
    """The mean over networks of what `rows` say of each, with its 95 % t interval; n: how many networks."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    groups = table.groupby(["input", "measure", "what", "x"], sort=False, dropna=False)
    return [[panel, "mean", *key[:3], key[3], *t_interval(part["y"]), len(part)] for key, part in groups]


# ---- what captions say -----------------------------------------------------------------------------------------------


def networks(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A table per network: of one width and seed, and trained in one way or read from one file; by what tells them
    apart."""
    named = ("model", "model.width", "weights.training", "weights.path", "seed")
    known = [column for column in named if column in table]
    return {str(key): part for key, part in table.groupby(known, dropna=False)}


def network_text(table: pd.DataFrame, brief: bool = False) -> str:
    """Which network on which images, how many, how many of them right; brief: what tells it from others."""
    row, images = table.iloc[0], table.drop_duplicates("image")
    known = images["correct"].notna()
    right = f"{images.loc[known, 'correct'].mean() * 100:.2f} % right" if known.any() else "labels unknown"
    named = ("weights.training", "weights.path", "weights.enum")
    weights = next((str(row[k]) for k in named if isinstance(row.get(k), str)), "")
    width = row.get("model.width", NAN)
    wide = f"width {width:.0f}" if np.isfinite(width) else ""
    if brief:
        seeds = re.findall(r"train\.seed=\d+", weights)
        return f"{' '.join([wide, *(seeds[-1:] or [weights])]).strip()} ({right})"
    state = f"{row['weights']} ({weights})" if weights else f"{row['weights']}{captions.seeds_text(table, ', ')}"
    shown = f"{len(images):,} images of {row['data']}"
    return f"{row['model']} {wide}{', ' if wide else ''}{state}, on {shown}, {right}"


def beyond_text(table: pd.DataFrame, measures: Sequence[str] = MEASURES) -> str:
    """What lies to the left of the densities' grid."""
    values = table[list(measures)].to_numpy(dtype=float)
    return f"{np.mean(values[~np.isnan(values)] < LOW) * 100:.2g} % of S lie below {LOW:.0f}"


def missing_text(table: pd.DataFrame) -> str:
    """How many S are missing and why."""
    counts = table.loc[table["missing"] != "", "missing"].value_counts()
    return f"{', '.join(f'{n} ({why})' for why, n in counts.items()) or 0} of {len(table):,}"


# ---- drawing ---------------------------------------------------------------------------------------------------------


def draw_distribution(ax: Axes, part: pd.DataFrame) -> None:
    """Densities of right and wrong, or marks for single images; triangles at the two peaks; AUROC, V and the dip test
    in words."""
    for i, (group, look) in enumerate(style.OUTCOMES.items()):
        points = part[part["what"] == group]
        if len(points):
            style.curve(ax, points["x"], points, look)
            ax.fill_between(points["x"], 0, points["y"], color=look.colour, alpha=0.12, linewidth=0)
        x = part.loc[part["what"] == f"{group} image", "x"]
        low, marks = np.full(len(x), 0.15 + 0.2 * i), ax.get_xaxis_transform()
        ax.plot(x, low, "|", color=look.colour, markersize=7, transform=marks)
    found = part.set_index("what")
    for peak in ("left peak", "right peak", "peak"):
        if peak in found.index and np.isfinite(place := found.at[peak, "x"]):
            ax.plot([place], [0.0], marker=6, markersize=5, color="#000000", clip_on=False, zorder=5)
            text = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 5.8, "zorder": 5}
            ax.annotate(short(place), (place, 0), (0, 4), **text)
    said = [f"AUROC {interval_text(found.loc['auroc'])}"] if "auroc" in found.index else []
    if "V" in found.index:
        p = found.at["dip p", "y"]
        exact = f"{p:.3f}".replace("0.", ".", 1)
        said += [f"V {interval_text(found.loc['V'])}", f"dip p {'< .001' if p < 0.001 else exact}"]
    counted = []
    for group in style.OUTCOMES:
        n = part.loc[part["what"].isin([group, f"{group} image"]), "n"].max()
        counted.append(f"{0 if np.isnan(n) else n:.0f} {group}")
    note(ax, 0, 1.015, "   ".join(said or counted), transform=ax.transAxes, va="bottom")
    style.level(ax, axis="x")
    ax.set(xlabel="", ylabel="", yticks=[])


def note(ax: Axes, x: float, y: float, text: str, **more: Any) -> None:
    ax.text(x, y, text, **{"va": "center", "fontsize": 5.8, "color": "#333333", **more})


def short(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.2f}"


def interval_text(row: pd.Series) -> str:
    return short(row["y"]) + (f" [{short(row['low'])}, {short(row['high'])}]" if np.isfinite(row["low"]) else "")


def sides(numbers: pd.DataFrame) -> tuple[float, float]:
    """Where the densities end to the left, on [-3, 1]: where all of them are below a hundredth of their peak."""
    dense = numbers[numbers["what"].isin(style.OUTCOMES)]
    curves = dense.groupby(["panel", "series", "input", "measure", "what"])["y"]
    tall = dense[dense["y"] > 0.01 * curves.transform("max")]
    single = numbers.loc[numbers["what"].isin([f"{group} image" for group in style.OUTCOMES]), "x"]
    low = min(tall["x"].min() if len(tall) else 0.0, single.min() if len(single) else 0.0, -0.5)
    return max(LOW, low - 0.05), 1.03
