"""Fig. 3: left, laws of random weights in two dimensions; right, maps under them; below, how much of the image's colour
they return."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import captions, style
from pipeline.figures import maps as pictures
from pipeline.measures.intervals import crossed_mean

SHOWN = 2  # images
TEXT = """
Profile {profile}. Left: {neurons} neurons of two inputs, He scale, seed {laws[seed]}. Maps:
{maps[model]}{maps.seeds}, images of {maps[data]}, without bottom process, all channels from the 0.5 % to the 99.5 %
quantile; below each its alignment and, in brackets, that of its colours (what is left after the mean over channels).
Dots: {colour[model]}, {colour.images}{colour.weight_seeds}, N = L; 95 % intervals over images and seeds (leave
one out).
"""


def refuse(sweeps: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    return captions.several_maps(sweeps["maps"])


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: points (of `laws`, w0 and w1 in x and y), map (a picture: sweep, index, key; alignment, y = alignment
    of its colours), colour (y with its interval: alignment of the colours at N = L over images and weight seeds),
    all (the same of the whole map)."""
    points = tables["laws"].rename(columns={"w0": "x", "w1": "y"})[["weights", "x", "y"]].assign(panel="points")
    table = tables["maps"].reset_index(names="index")
    shown = table[table["image"].isin(table["image"].unique()[:SHOWN])]
    pictured = shown[["image", "class_name", "label_name", "weights", "rule", "index", "alignment"]].assign(
        panel="map", sweep="maps", key="without_bottom", y=shown["alignment_chroma"]
    )
    measured = tables["colour"][tables["colour"]["rule"].isin(table["rule"])]
    last = measured[measured["n"] == measured["n"].max()]
    rows = [
        crossed_mean([panel, *labels], part, value)
        for panel, value in (("colour", "alignment_chroma"), ("all", "alignment"))
        for labels, part in last.groupby(["weights", "rule"])
    ]
    dots = pd.DataFrame(rows, columns=["panel", "weights", "rule", "y", "low", "high"])
    return pd.concat([points, pictured, dots], ignore_index=True)


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    neurons = tables["laws"].groupby("weights").size().iloc[0]
    return captions.words(TEXT, tables, profile=profile, neurons=neurons)


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, list]) -> Figure:
    figure = style.page(5.5)
    pictured, points = (numbers[numbers["panel"] == panel] for panel in ("map", "points"))
    laws = style.looks(points["weights"], style.LAWS)
    left = figure.add_gridspec(len(laws), 1, left=0.05, right=0.165, top=0.935, bottom=0.415, hspace=0.42)
    reach = 1.02 * np.nanquantile(points[["x", "y"]].abs().to_numpy(), 0.998)
    for i, (law, look) in enumerate(laws.items()):
        ax = figure.add_subplot(left[i])
        part = points[points["weights"] == law]
        ax.plot(part["x"], part["y"], ".", color=look.colour, markersize=1.2)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        ax.set(xticks=[0], yticks=[0], xticklabels=[], yticklabels=[])
        ax.set_title(look.label, fontsize=7, pad=2)
    lines = [tiles(pictured, law, maps, first=i == 0) for i, law in enumerate(laws)]
    pictures.draw_tiles(figure, lines, (0.185, 0.405, 0.995, 0.945), size=5.8)
    bottom = figure.add_gridspec(1, 2, left=0.07, right=0.985, top=0.325, bottom=0.155, wspace=0.16)
    for i, (panel, title) in enumerate((("all", "alignment of the map"), ("colour", "alignment of its colours"))):
        dots(figure.add_subplot(bottom[i]), numbers[numbers["panel"] == panel], laws, title)
    style.caption(figure, text, y=0.01)
    return figure


def tiles(pictured: pd.DataFrame, law: str, maps: Mapping[str, list], first: bool) -> list[pictures.Tile]:
    """One line of pictures: each image (in the first line) with the maps of its rules."""
    inputs = pictures.rows(maps["maps"], "inputs", "x")
    line = []
    for i, image in enumerate(pictured["image"].unique()):
        line.append(pictures.Tile(pictures.image_like(inputs[i]) if first else None))
        for rule, look in style.looks(pictured["rule"]).items():
            for _, row in style.where(pictured, image=image, weights=law, rule=rule).head(1).iterrows():
                above, below = look.label if first else "", f"{row['alignment']:.2f} ({row['y']:.2f})"
                line.append(pictures.tile_of(row, maps, above, below))
    return line


def dots(ax: Axes, part: pd.DataFrame, laws: Mapping[str, style.Look], title: str) -> None:
    rules = style.looks(part["rule"])
    for shift, (law, look) in zip(np.linspace(-0.2, 0.2, len(laws)), laws.items(), strict=True):
        points = part[part["weights"] == law].set_index("rule").reindex(list(rules))
        more = {"linestyle": "none", "markersize": 4, "elinewidth": 0.8, "capsize": 1.5, "markeredgewidth": 1}
        style.curve(ax, np.arange(len(rules)) + shift, points, look, bars="y", label=look.label, **more)
    ax.set_xticks(range(len(rules)), [look.label for look in rules.values()])
    ax.legend(fontsize=6, loc="lower right", ncols=3, handletextpad=0.2, columnspacing=0.8)
    style.panel_title(ax, "", title, xlim=(-0.5, len(rules) - 0.5), ylim=(0, 1), ylabel=r"$\alpha$")
