"""Fig. 5: maps of a trained network whose top layers are drawn anew or whose weights are removed; alignment by
depth, the control of equal density, and the readings of the paper's sentence on removal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import captions, style
from pipeline.figures import maps as pictures
from pipeline.measures.intervals import crossed_mean

LAWS = {
    law: replace(style.LAWS[law], colour=style.INK, line=line, label=label, filled=law != "thinned")
    for law, line, label in (
        ("gaussian", "-", "drawn anew"), ("removal", "--", "removed"), ("thinned", ":", "thinned at random"),
    )
}  # fmt: skip
KERNELS = {
    "first": "first row + column", "middle": "middle ones", "last": "last ones", "shared_random": "random places",
    "corner": "corner",
}  # fmt: skip
PICTURE = [
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
CURVE = ["panel", "weights", "rule", "depth", "y", "low", "high", "missing"]
TEXT = r"""
Profile {profile}. Top: {rule} on {maps[model]} ({maps[weights.base]}), without bottom process{maps.seeds}; below each
map its alignment with the image and, in brackets, its cosine with the unmodified network's map. Explained throughout:
the unmodified network's decision. Left: {curves[model]} ({curves[weights.base]}),
{curves.images}{curves.weight_seeds}; 95 % intervals over images and seeds. Thinned at random: as many weights per
layer as removal keeps; removal keeps {maps[weights.inputs]:.2%} of a linear layer's inputs. Networks left dead give
no map: {dead}, left out. Right: alignment with the top {depth} layers removed, mean over images and {below} seeds, by
what a kernel keeps, by the biases, and by the weights below; in brackets the share that is not dead. Grey: P x = $W_1
W_1^T x$ of the changed network.
"""


def refuse(sweeps: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """It shows one map per image and layers that laws change, by depth."""
    changed = [cell for sweep in ("maps_drawn", "maps", "curves_drawn", "curves") for cell in sweeps[sweep]]
    if not all(cell["weights"] in LAWS and cell["weights.depth"] is not None for cell in changed):
        return "Fig. 5 changes a trained network's layers and says itself by which weights; leave weights=... out"
    return captions.several_maps([cell for cells in sweeps.values() for cell in cells])


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: picture (sweep, index, key; depth, alignment, similarity to the unmodified network's map), curve (weights,
    rule, depth; y with its interval over images and weight seeds; missing: share of maps that are 0, of networks that
    removal left dead), px (weights, depth; y: alignment of P x), reading (rule, kernel, biases and what is below the
    removed layers; y)."""
    first, *others = (
        tables[sweep].reset_index(names="index").assign(sweep=sweep) for sweep in ("original", "maps_drawn", "maps")
    )
    original, drawn = first.head(1).assign(depth=0, weights="original"), pd.concat(others)
    changed = drawn[drawn["image"] == original["image"].iloc[0]].rename(columns={"weights.depth": "depth"})
    pictured = [
        part.assign(panel="picture", key="without_bottom").reindex(columns=PICTURE) for part in (original, changed)
    ]
    rows = []
    curved = pd.concat([tables["curves_drawn"], tables["curves"]])
    for labels, part in curved.groupby(["weights", "rule", "weights.depth"]):
        rows.append([*crossed_mean(["curve", *labels], part, "alignment"), part["alignment"].isna().mean()])
    for (law, depth), part in curved.groupby(["weights", "weights.depth"]):
        once = part.drop_duplicates(["image", "seed"])
        rows.append(["px", law, "", depth, once["alignment_px"].mean(), np.nan, np.nan, np.nan])
    states = {"trained": "trained", "kernels": "trained", "random": "random"}
    below = [tables[f"{sweep}_below"].assign(below=state) for sweep, state in states.items()]
    by = {"weights.kernel": "kernel", "weights.keep_biases": "biases", "weights.depth": "depth"}
    readings = pd.concat(below).rename(columns=by).groupby(["rule", "kernel", "biases", "below", "depth"])["alignment"]
    mean = readings.agg(y="mean", missing=lambda values: values.isna().mean()).reset_index().assign(panel="reading")
    return pd.concat([*pictured, pd.DataFrame(rows, columns=CURVE), mean], ignore_index=True)


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    curves, maps, readings = tables["curves"], tables["maps"], tables["trained_below"]
    dead = curves.groupby("weights")["alignment"].apply(lambda values: values.isna().mean())
    words = {"removal": "of the removed", "thinned": "of the thinned ones"}
    return captions.words(
        TEXT,
        tables,
        profile=profile,
        rule=style.rule_look(maps["rule"].iloc[0]).label,
        dead=", ".join(f"{dead[law]:.0%} {text}" for law, text in words.items() if law in dead),
        depth=", ".join(map(str, sorted(readings["weights.depth"].unique()))),
        below=readings["seed"].nunique(),
    )


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, list]) -> Figure:
    figure = style.page(6.6)
    pictured = numbers[numbers["panel"] == "picture"]
    original, changed = (pictured[(pictured["sweep"] == "original") == first] for first in (True, False))
    x = pictures.image_like(pictures.rows(maps["original"], "inputs", "x")[0])
    name = str(original["class_name"].iloc[0])
    start = [pictures.Tile(x, "image", name), pictures.tile_of(original.iloc[0], maps, "unmodified")]
    laws = style.looks(changed["weights"], LAWS)
    lines = []
    for law in laws:
        line = [pictures.Tile(None)] * 2 if lines else start
        for depth in sorted(changed["depth"].unique()):
            found = style.where(changed, weights=law, depth=depth).iloc[0]
            line = [*line, pictures.tile_of(found, maps, "" if lines else f"top {depth}", score(found))]
        lines.append(line)
    labels = [look.label for look in laws.values()]
    pictures.draw_tiles(figure, lines, (0.03, 0.475, 0.995, 0.965), labels)
    place = {"left": 0.065, "right": 0.99, "top": 0.405, "bottom": 0.17}
    grid = figure.add_gridspec(1, 2, **place, width_ratios=(1.45, 1), wspace=0.72)
    curves(figure.add_subplot(grid[0]), *(numbers[numbers["panel"] == panel] for panel in ("curve", "px")))
    readings(figure.add_subplot(grid[1]), numbers[numbers["panel"] == "reading"])
    style.caption(figure, text, y=0.01)
    return figure


def score(row: pd.Series) -> str:
    return "dead, no map" if np.isnan(row["alignment"]) else f"{row['alignment']:.2f} ({row['similarity']:.2f})"


def curves(ax: Axes, part: pd.DataFrame, px: pd.DataFrame) -> None:
    laws, rules = style.looks(part["weights"], LAWS), style.by_colour(style.looks(part["rule"]))
    for law, law_look in laws.items():
        for rule, rule_look in rules.items():
            points = style.where(part, weights=law, rule=rule).sort_values("depth")
            look = replace(law_look, colour=rule_look.colour)
            style.curve(ax, points["depth"], points, look, band=0.1, markersize=2.5, linewidth=1, markeredgewidth=1)
    for law, look in laws.items():
        points = px[px["weights"] == law].sort_values("depth")
        ax.plot(points["depth"], points["y"], color="#888888", linestyle=look.line, linewidth=0.8, zorder=0)
    handles = [style.handle(replace(look, mark="", line="-")) for look in rules.values()]
    handles += [style.handle(style.Look("#888888", "", "P x"))]
    handles += [style.handle(look, markeredgewidth=1) for look in laws.values()]
    ax.legend(handles=handles, fontsize=6, ncols=2, loc="best", handlelength=2.6, columnspacing=1)
    ax.set_ylim(min(-0.02, part["low"].min()), None)
    style.panel_title(ax, "", "alignment by depth", xlabel="changed layers, from the top", ylabel=r"alignment $\alpha$")


def readings(ax: Axes, part: pd.DataFrame) -> None:
    """A line per reading, a column per rule; empty where a rule was not measured."""
    rules = style.looks(part["rule"])
    values, missing = (
        part.pivot(index=["kernel", "biases", "below", "depth"], columns="rule", values=name)[list(rules)]
        for name in ("y", "missing")
    )
    top = max(0.5, np.nanmax(values, initial=0))
    ax.imshow(values, cmap="viridis", vmin=0, vmax=top, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if np.isnan(lost := missing.iloc[y, x]):
            continue
        words = "dead" if np.isnan(value) else f"{value:.2f}" + (f" ({1 - lost:.0%})" if lost else "")
        colour = "white" if value < 0.6 * top else "black"
        ax.text(x, y, words, ha="center", va="center", fontsize=6.5, color=colour)
    several = part["depth"].nunique() > 1
    names = [
        f"{KERNELS[k]}, biases {'kept' if b else '0'}, {below} below" + (f", top {depth:.0f}" if several else "")
        for k, b, below, depth in values.index
    ]
    ax.set_xticks(range(len(rules)), [look.label for look in rules.values()], fontsize=6 if len(rules) < 5 else 5)
    ax.set_yticks(range(len(names)), names, fontsize=5.6)
    ax.tick_params(length=0)
    ax.set_title("readings of “removal”", loc="left", pad=4)
