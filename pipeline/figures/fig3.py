"""Fig. 3: left, the three laws of random weights in two dimensions; right, maps under them; below, how much of the image's colour they return."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import maps as pictures
from pipeline.figures import style
from pipeline.measures.intervals import crossed_interval, crossed_table

LAWS = ("gaussian", "ring", "uniform")
RULES = ("gbp", "rectgrad", "lrp")
SHOWN = 2  # images


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: points (of `laws`, w0 and w1 in x and y), map (a picture: sweep, index, key; alignment, y = alignment of its colours),
    colour (y with its interval: alignment of the colours at N = L over images and weight seeds), all (the same of the whole map)."""
    points = tables["laws"].rename(columns={"w0": "x", "w1": "y"})[["weights", "x", "y"]].assign(panel="points")
    table = tables["maps"].reset_index(names="index")
    shown = table[table["image"].isin(table["image"].unique()[:SHOWN])]
    pictured = shown[["image", "class_name", "label_name", "weights", "rule", "index", "alignment"]].assign(
        panel="map", sweep="maps", key="without_bottom", y=shown["alignment_chroma"]
    )
    rows = []
    for panel, value in (("colour", "alignment_chroma"), ("all", "alignment")):
        for (weights, rule), part in tables["colour"].groupby(["weights", "rule"]):
            if rule in RULES:
                mean, low, high = crossed_interval(crossed_table(part[part["n"] == part["n"].max()], value))
                rows.append(
                    {"panel": panel, "weights": weights, "rule": rule, "y": mean[0], "low": low[0], "high": high[0]}
                )
    return pd.concat([points, pictured, pd.DataFrame(rows)], ignore_index=True)


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    colour, maps = tables["colour"], tables["maps"].iloc[0]
    seeds = sorted(colour["seed"].unique())
    return (
        f"Profile {profile}. Left: {tables['laws'].groupby('weights').size().iloc[0]} neurons of two inputs, He scale, seed {tables['laws']['seed'].iloc[0]}. Maps: {maps['model']}, "
        f"seed {maps['seed']}, images of {maps['data']}, without bottom process, all channels from the 0.5 % to the 99.5 % quantile; below each its alignment and, in brackets, that of "
        f"its colours (what is left after the mean over channels). Dots: {colour['model'].iloc[0]}, {colour['image'].nunique()} images of {colour['data'].iloc[0]}, weight seeds "
        f"{seeds[0]}-{seeds[-1]} (n = {len(seeds)}), N = L; 95 % intervals over images and seeds (crossed bootstrap)."
    )


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, list]) -> Figure:
    pictured = numbers[numbers["panel"] == "map"]
    images = list(pictured["image"].unique())
    inputs = pictures.rows(maps["maps"], "inputs", "x")
    height = 5.5
    figure = plt.figure(figsize=(style.DOUBLE, height))
    left = figure.add_gridspec(3, 1, left=0.05, right=0.165, top=0.935, bottom=0.415, hspace=0.42)
    points = numbers[numbers["panel"] == "points"]
    reach = 1.02 * np.nanquantile(points[["x", "y"]].abs().to_numpy(), 0.998)
    for i, law in enumerate(LAWS):
        ax = figure.add_subplot(left[i])
        part = points[points["weights"] == law]
        ax.plot(part["x"], part["y"], ".", color=style.LAW_COLOURS[law], markersize=1.2)
        ax.set(
            xlim=(-reach, reach),
            ylim=(-reach, reach),
            aspect="equal",
            xticks=[0],
            yticks=[0],
            xticklabels=[],
            yticklabels=[],
        )
        ax.set_title(style.LAW_LABELS[law], fontsize=7, pad=2)
    lines = []
    for law in LAWS:
        line = []
        for i, image in enumerate(images):
            line.append(pictures.Tile(pictures.image_like(inputs[i])) if law == LAWS[0] else pictures.Tile(None))
            for rule in RULES:
                row = pictured[
                    (pictured["image"] == image) & (pictured["weights"] == law) & (pictured["rule"] == rule)
                ].iloc[0]
                line.append(
                    pictures.tile_of(
                        row,
                        maps,
                        style.LABELS[rule] if law == LAWS[0] else "",
                        f"{row['alignment']:.2f} ({row['y']:.2f})",
                    )
                )
        lines.append(line)
    pictures.draw_tiles(figure, lines, (0.185, 0.405, 0.995, 0.945), size=5.8)
    bottom = figure.add_gridspec(1, 2, left=0.07, right=0.985, top=0.325, bottom=0.155, wspace=0.16)
    for i, (panel, title) in enumerate((("all", "alignment of the map"), ("colour", "alignment of its colours"))):
        dots(figure.add_subplot(bottom[i]), numbers[numbers["panel"] == panel], title)
    style.caption(figure, text, y=0.01)
    return figure


def dots(ax: Axes, part: pd.DataFrame, title: str) -> None:
    for shift, law in zip((-0.2, 0, 0.2), LAWS, strict=True):
        points = part[part["weights"] == law].set_index("rule").loc[list(RULES)]
        ax.errorbar(np.arange(len(RULES)) + shift, points["y"], [points["y"] - points["low"], points["high"] - points["y"]], fmt=style.LAW_MARKS[law],
                    color=style.LAW_COLOURS[law], markersize=4, elinewidth=0.8, capsize=1.5, label=style.LAW_LABELS[law])  # fmt: skip
    ax.set_xticks(range(len(RULES)), [style.LABELS[rule] for rule in RULES])
    ax.set(xlim=(-0.5, len(RULES) - 0.5), ylim=(0, 1), ylabel=r"$\alpha$")
    ax.legend(fontsize=6, loc="lower right", ncols=3, handletextpad=0.2, columnspacing=0.8)
    style.panel_title(ax, "", title)
