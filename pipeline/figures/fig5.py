"""Fig. 5: maps of a trained network whose top layers are drawn anew or whose weights are removed; alignment by depth, the control of equal
density, and the readings of the paper's sentence on removal."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.figures import maps as pictures
from pipeline.figures import style
from pipeline.measures.intervals import crossed_interval, crossed_table

LAWS = ("gaussian", "removal", "thinned")
NAMES = {"gaussian": "drawn anew", "removal": "removed", "thinned": "thinned at random"}
RULES = ("gbp", "rectgrad", "lrp")
KERNELS = {"cross": "row + column", "corner": "corner"}


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: picture (sweep, index, key; depth, alignment, similarity to the unmodified network's map), curve (weights, rule, depth; y with its
    interval over images and weight seeds; missing: share of maps that are 0, of networks that removal left dead), reading (rule, kernel, biases and what is below the removed layers; y)."""
    curved = pd.concat([tables["curves_drawn"], tables["curves"]])
    original = (
        tables["original"]
        .reset_index(names="index")
        .head(1)
        .assign(panel="picture", sweep="original", key="without_bottom", depth=0, weights="original")
    )
    changed = pd.concat(
        [tables[sweep].reset_index(names="index").assign(sweep=sweep) for sweep in ("maps_drawn", "maps")]
    )
    changed = changed.rename(columns={"weights.depth": "depth"}).assign(panel="picture", key="without_bottom")
    changed = changed[changed["image"] == original["image"].iloc[0]]
    columns = [
        "panel",
        "weights",
        "depth",
        "rule",
        "image",
        "class_name",
        "alignment",
        "similarity",
        "sweep",
        "index",
        "key",
    ]
    rows = []
    for (weights, rule, depth), part in curved.groupby(["weights", "rule", "weights.depth"]):
        mean, low, high = crossed_interval(crossed_table(part.assign(n=0), "alignment"))
        missing = part["alignment"].isna().mean()
        rows.append(
            {
                "panel": "curve",
                "weights": weights,
                "rule": rule,
                "depth": depth,
                "y": mean[0],
                "low": low[0],
                "high": high[0],
                "missing": missing,
            }
        )
    readings = pd.concat(
        [tables["trained_below"].assign(below="trained"), tables["random_below"].assign(below="random")]
    )
    by = {"weights.kernel": "kernel", "weights.keep_biases": "biases", "weights.depth": "depth"}
    groups = readings.rename(columns=by).groupby(["rule", "kernel", "biases", "below", "depth"])["alignment"]
    mean = groups.agg(y="mean", missing=lambda values: values.isna().mean()).reset_index().assign(panel="reading")
    return pd.concat(
        [original.reindex(columns=columns), changed.reindex(columns=columns), pd.DataFrame(rows), mean],
        ignore_index=True,
    )


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    curves, maps = tables["curves"], tables["maps"].iloc[0]
    seeds = sorted(curves["seed"].unique())
    dead = curves.groupby("weights")["alignment"].apply(lambda values: values.isna().mean())
    return (
        f"Profile {profile}. Top: GBP on {maps['model']} ({maps['weights.base']}), without bottom process, seed {maps['seed']}; below each map its alignment with the image and, in "
        f"brackets, its cosine with the unmodified network's map. Explained throughout: the unmodified network's decision. Left: {curves['model'].iloc[0]} ({curves['weights.base'].iloc[0]}), "
        f"{curves['image'].nunique()} images of {curves['data'].iloc[0]}, weight seeds {seeds[0]}-{seeds[-1]} (n = {len(seeds)}); 95 % intervals over images and seeds. Thinned at random: "
        f"as many weights per layer as removal keeps; removal keeps {maps['weights.inputs']:.2%} of a linear layer's inputs. Networks left dead give no map: {dead['removal']:.0%} of the "
        f"removed, {dead['thinned']:.0%} of the thinned ones, left out. Right: alignment with the top {tables['trained_below']['weights.depth'].iloc[0]} layers removed, mean over images and "
        f"{tables['trained_below']['seed'].nunique()} seeds, by what a kernel keeps, by the biases, and by the weights below; in brackets the share that is not dead."
    )


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, list]) -> Figure:
    pictured = numbers[numbers["panel"] == "picture"]
    original = pictured[pictured["sweep"] == "original"].iloc[0]
    depths = sorted(pictured.loc[pictured["sweep"] != "original", "depth"].unique())
    lines = []
    for law in LAWS:
        first = law == LAWS[0]
        x = pictures.Tile(
            pictures.image_like(pictures.rows(maps["original"], "inputs", "x")[0]), "image", str(original["class_name"])
        )
        line = [x, pictures.tile_of(original, maps, "unmodified")] if first else [pictures.Tile(None)] * 2
        for depth in depths:
            found = pictured[(pictured["weights"] == law) & (pictured["depth"] == depth)].iloc[0]
            line.append(pictures.tile_of(found, maps, f"top {depth}" if first else "", score(found)))
        lines.append(line)
    height = 6.6
    figure = plt.figure(figsize=(style.DOUBLE, height))
    pictures.draw_tiles(figure, lines, (0.03, 0.475, 0.995, 0.965), [NAMES[law] for law in LAWS])
    grid = figure.add_gridspec(
        1, 2, left=0.065, right=0.99, top=0.405, bottom=0.17, width_ratios=(1.45, 1), wspace=0.72
    )
    curves(figure.add_subplot(grid[0]), numbers[numbers["panel"] == "curve"])
    readings(figure.add_subplot(grid[1]), numbers[numbers["panel"] == "reading"])
    style.caption(figure, text, y=0.01)
    return figure


def score(row: pd.Series) -> str:
    return "dead, no map" if np.isnan(row["alignment"]) else f"{row['alignment']:.2f} ({row['similarity']:.2f})"


def curves(ax: Axes, part: Any) -> None:
    for law, line in zip(LAWS, ("-", "--", ":"), strict=True):
        for rule in RULES:
            points = part[(part["weights"] == law) & (part["rule"] == rule)].sort_values("depth")
            ax.fill_between(
                points["depth"], points["low"], points["high"], color=style.COLOURS[rule], alpha=0.1, linewidth=0
            )
            ax.plot(points["depth"], points["y"], line, color=style.COLOURS[rule], marker=style.LAW_MARKS[law], markersize=2.5,
                    markerfacecolor="white" if law == "thinned" else style.COLOURS[rule], linewidth=1)  # fmt: skip
    handles = [Line2D([], [], color=style.COLOURS[r], label=style.LABELS[r]) for r in RULES]
    marks = zip(LAWS, ("-", "--", ":"), strict=True)
    handles += [
        Line2D(
            [],
            [],
            color="#444444",
            linestyle=s,
            marker=style.LAW_MARKS[w],
            markerfacecolor="white" if w == "thinned" else "#444444",
            label=NAMES[w],
        )
        for w, s in marks
    ]
    ax.legend(handles=handles, fontsize=6, ncols=2, loc="best", handlelength=2.6, columnspacing=1)
    ax.set(
        xlabel="changed layers, from the top", ylabel=r"alignment $\alpha$", ylim=(min(-0.02, part["low"].min()), None)
    )
    style.panel_title(ax, "", "alignment by depth")


def readings(ax: Axes, part: Any) -> None:
    part = part[part["rule"].isin(RULES)]
    names = [
        f"{KERNELS[k]}, biases {'kept' if b else '0'}, {w} below"
        for (k, b, w), _ in part.groupby(["kernel", "biases", "below"])
    ]
    missing = np.array(
        [
            [float(group.loc[group["rule"] == rule, "missing"].iloc[0]) for rule in RULES]
            for _, group in part.groupby(["kernel", "biases", "below"])
        ]
    )
    values = np.array(
        [
            [float(group.loc[group["rule"] == rule, "y"].iloc[0]) for rule in RULES]
            for _, group in part.groupby(["kernel", "biases", "below"])
        ]
    )
    top = max(0.5, np.nanmax(values, initial=0))
    ax.imshow(values, cmap="viridis", vmin=0, vmax=top, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        ax.text(
            x,
            y,
            "dead" if np.isnan(value) else f"{value:.2f}" + (f" ({1 - missing[y, x]:.0%})" if missing[y, x] else ""),
            ha="center",
            va="center",
            fontsize=6.5,
            color="white" if value < 0.6 * top else "black",
        )
    ax.set_xticks(range(len(RULES)), [style.LABELS[rule] for rule in RULES], fontsize=6)
    ax.set_yticks(range(len(names)), names, fontsize=5.6)
    ax.tick_params(length=0)
    ax.set_title("readings of “removal”", loc="left", pad=4)
