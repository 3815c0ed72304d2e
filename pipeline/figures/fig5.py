"""Fig. 5: maps of a trained network whose top layers are drawn anew or whose weights are removed; alignment by
depth, the control of equal density, and the readings of the paper's sentence on removal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.figures import captions, style
from pipeline.figures import maps as pictures
from pipeline.measures.intervals import crossed_mean

LAWS = {
    "gaussian": replace(style.LAWS["gaussian"], label="drawn anew"),
    "removal": replace(style.LAWS["removal"], label="removed but first row and column"),
    "removal_middle": style.Look("#DDAA33", "X", "removed but middle row and column", "-", False),
    "thinned": replace(style.LAWS["thinned"], label="thinned at random"),
}
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
MEASURES = {"curve": "alignment", "dead_0": "dead_0", "registered": "alignment_registered"}
TEXT = r"""
Profile {profile}. Top: {rule} on {maps[model]} ({maps[weights.base]}), without bottom process{maps.seeds}; below each
map its alignment with the image and, in brackets, its cosine with the unmodified network's map. Explained throughout:
the unmodified network's decision. Below: {curves[model]} ({curves[weights.base]}),
{curves.images}{curves.weight_seeds}; 95 % intervals over images and seeds. Thinned at random: as many weights per
layer as removal keeps; removal keeps {maps[weights.inputs]:.2%} of a linear layer's inputs. Networks left dead give no
map: {dead}. Solid: without them; dotted: their alignment counted as 0; grey: P x = $W_1 W_1^T x$ of the changed
network. Registered: with x moved to where it fits best, by up to the total stride, which finds a map that is only
displaced. Readings: alignment with the top {depth} layers removed, mean over images and {below} seeds, by what a kernel
keeps, by the biases, and by the weights below; in brackets the share that is not dead.
"""


def refuse(sweeps: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """It shows one map per image and layers that laws change, by depth."""
    changed = [
        cell for sweep in ("maps_drawn", "maps", "curves_drawn", "curves", "curves_middle") for cell in sweeps[sweep]
    ]
    if not all(cell["weights"] in LAWS and cell["weights.depth"] is not None for cell in changed):
        return "Fig. 5 changes a trained network's layers and says itself by which weights; leave weights=... out"
    return captions.several_maps([cell for cells in sweeps.values() for cell in cells])


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: picture (sweep, index, key; depth, alignment, similarity to the unmodified network's map), curve (weights,
    rule, depth; y with its interval over images and weight seeds; missing: share of maps that are 0, of networks that
    removal left dead), dead_0 (the same, the alignment of a dead network's map counted as 0), registered (the
    registered alignment), px (weights, depth; y: alignment of P x), reading (rule, kernel, biases and what is below the
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
    middle = tables["curves_middle"].assign(weights="removal_middle")
    curved = pd.concat([tables["curves_drawn"], tables["curves"], middle])
    curved["dead_0"] = curved["alignment"].fillna(0)
    for labels, part in curved.groupby(["weights", "rule", "weights.depth"]):
        dead = part["alignment"].isna().mean()
        for panel, value in MEASURES.items():
            rows.append([*crossed_mean([panel, *labels], part, value), dead])
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
    maps, readings = tables["maps"], tables["trained_below"]
    curves = pd.concat([tables["curves"], tables["curves_middle"].assign(weights="removal_middle")])
    dead = curves.groupby("weights")["alignment"].apply(lambda values: values.isna().mean())
    words = {
        "removal": "of those with the first row and column",
        "removal_middle": "with the middle ones",
        "thinned": "of the thinned",
    }
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
    figure = style.page(8.6)
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
    labels = [look.label.removesuffix(" but first row and column") for look in laws.values()]
    pictures.draw_tiles(figure, lines, (0.03, 0.615, 0.995, 0.97), labels)
    rules = style.looks(numbers.loc[numbers["panel"] == "curve", "rule"])
    grid = figure.add_gridspec(1, len(rules), left=0.08, right=0.99, top=0.56, bottom=0.42, wspace=0.1)
    axes = grid.subplots(sharey=True, squeeze=False)[0]
    for ax, (rule, look) in zip(axes, rules.items(), strict=True):
        curves(ax, numbers[(numbers["rule"] == rule) | (numbers["panel"] == "px")], ("curve", "dead_0"))
        words = {"ylabel": r"alignment $\alpha$" if ax is axes[0] else ""}
        words["xlabel"] = "changed layers, from the top" if ax is axes[len(axes) // 2] else ""
        style.panel_title(ax, "", look.label, **words)
    style.legend(
        figure, style.looks(numbers.loc[numbers["panel"] == "curve", "weights"], LAWS).values(), (0.5, 0.385), ncols=4
    )
    grid = figure.add_gridspec(1, 2, left=0.08, right=0.99, top=0.32, bottom=0.15, width_ratios=(0.8, 1), wspace=1.0)
    rule, look = next(iter(rules.items()))
    ax = figure.add_subplot(grid[0])
    curves(ax, numbers[numbers["rule"] == rule], ("registered",))
    words = {"xlabel": "changed layers, from the top", "ylabel": r"registered $\alpha$"}
    style.panel_title(ax, "", f"moved to its best place, {look.label}", **words)
    readings(figure.add_subplot(grid[1]), numbers[numbers["panel"] == "reading"])
    style.caption(figure, text, y=0.01)
    return figure


def score(row: pd.Series) -> str:
    return "dead, no map" if np.isnan(row["alignment"]) else f"{row['alignment']:.2f} ({row['similarity']:.2f})"


def curves(ax: Axes, part: pd.DataFrame, panels: Sequence[str]) -> None:
    """One rule's curves; the second panel's are dotted, where they differ."""
    for law, look in style.looks(part.loc[part["panel"] == panels[0], "weights"], LAWS).items():
        for panel, line in zip(panels, ("-", ":")):
            points = style.where(part, weights=law, panel=panel).sort_values("depth")
            if panel == panels[0] or (points["missing"] > 0).any():
                width = {"linewidth": 1, "markeredgewidth": 0.8, "markersize": 2.5}
                style.curve(ax, points["depth"], points, replace(look, line=line), band=0.1, **width)
        px = style.where(part, weights=law, panel="px").sort_values("depth")
        ax.plot(px["depth"], px["y"], color="#888888", linewidth=0.6, zorder=0)
    style.level(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


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
