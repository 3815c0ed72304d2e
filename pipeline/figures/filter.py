"""What one fixed filter explains: (a) maps beside P x and the best filter; (b) cosines; (c) which layers the map hangs
on; (d) how far down it is still seen what was sent."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import captions, filter_maps, style
from pipeline.figures import maps as pictures
from pipeline.measures.intervals import crossed_interval, crossed_table

FILTERS = {  # columns of the table, from the least that is known of the network to the most
    "cos_px_other": "P, other image",
    "cos_px_random": "P, random weights",
    "alignment": "x itself",
    "cos_px": "P x",
    "cos_linear2": "two layers",
    "cos_act1": "act@1",
    "cos_ridge": "best filter",
}
SAME = 0.95  # two maps whose cosine is no less are one
AGAINST = {"constant": "o", "noise": "s", "other": "^", "runner_up": "x"}
AGAINST_LABELS = {"constant": "1", "noise": "noise", "other": "another image", "runner_up": "runner-up class"}
COLUMNS = ["panel", "state", "series", "rule", "x", "y", "low", "high"]
TEXT = r"""
Profile {profile}: {trained[model]}, {trained.images}; trained: {trained.weights}, random:
{random.weights}{random.weight_seeds}. P x = $W_1 W_1^T x$: the first layer's convolution and its transpose, without
mask, class, bias or fit. Best filter: {size} x {size} pixels, all channels, ridge regression on the rule's maps of the
other images. (a) Below R and the residual: cosine with the image; below the others: with R. (b, c) Means with 95 %
intervals over images and weight seeds. (c) Layers drawn anew ({above.seeds_only}): cosine with the trained network's
map (solid), and with the trained network's P x (dotted). (d) Cosine of the maps that start from $A_l$ and from
something else in its place, rule below; mean over images. Memory depth (vertical): from there on up every such cosine
and that of $r_l$ is {same} or more. The best filter explains {share} of |R|^2 of the trained network's maps, held
out; what it leaves has with that of the runner-up's map, less its own best filter, the cosine {runner_up}.
"""


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: picture (see filter_maps); b (state, series: one of FILTERS; y with its interval), and by their columns'
    names the table's other numbers, alike; c (series: above, single, and each with _px; x: the layer above which, or
    that alone, is drawn anew); d (state: start, series: against, x: layer), depth (x: memory depth)."""
    rows = []
    for state in style.STATES:
        for rule, part in tables[state].groupby("rule"):
            for column in FILTERS:
                rows.append(["b", state, column, rule, np.nan, *mean(part, column)])
            for column in ("ridge_share", "residual_alignment", "residual_runner_up", "residual_random_class"):
                rows.append([column, state, column, rule, np.nan, *mean(part, column)])
    depth = int(tables["memory"]["layer"].max()) + 1
    for sweep in ("above", "single"):
        for (rule, changed), part in tables[sweep].groupby(["rule", "weights.depth"]):
            layer = changed if sweep == "single" else depth - changed
            for series, column in ((sweep, "similarity"), (f"{sweep}_px", "cos_px_original")):
                rows.append(["c", "trained", series, rule, layer, *mean(part, column)])
    for (rule, start, against, layer), part in tables["memory"].groupby(["rule", "start", "against", "layer"]):
        rows.append(["d", start, against, rule, layer, part["cosine"].mean(), np.nan, np.nan])
    for rule, part in tables["memory"].groupby("rule"):
        rows.append(["depth", "", "", rule, memory_depth(part), np.nan, np.nan, np.nan])
    pictured = filter_maps.shown(tables["trained"], "trained").assign(panel="picture")
    return pd.concat([pd.DataFrame(rows, columns=COLUMNS), pictured], ignore_index=True)


def mean(part: pd.DataFrame, column: str) -> list[float]:
    """With its interval over images and weight seeds."""
    return [float(end[0]) for end in crossed_interval(crossed_table(part, column, by=()))]


def memory_depth(part: pd.DataFrame) -> float:
    """The lowest layer from which on up no start can be told from another by its map; NaN if there is none."""
    each = part.groupby(["layer", "start", "against"])["cosine"].mean().groupby("layer")
    least = each.agg(lambda cosines: cosines.min(skipna=False)).sort_index()
    told = least[~(least >= SAME)].index
    above = least.index[least.index > (told.max() if len(told) else -1)]
    return float(above.min()) if len(above) else np.nan


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    text = TEXT.replace("{above.seeds_only}", captions.seeds_text(tables["above"], ""))
    means = tables["trained"].groupby("rule")[["ridge_share", "residual_runner_up"]].mean()
    share, runner_up = (
        ", ".join(
            f"{form.format(means[column][rule])} ({look.label})" for rule, look in style.looks(means.index).items()
        )
        for column, form in (("ridge_share", "{:.0%}"), ("residual_runner_up", "{:.3f}"))
    )
    return captions.words(
        text,
        tables,
        profile=profile,
        size=int(tables["trained"]["experiment.size"].iloc[0]),
        same=SAME,
        share=share,
        runner_up=runner_up,
    )


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, list]) -> Figure:
    figure = style.page(8.0)
    draw_pictures(figure, numbers[numbers["panel"] == "picture"], maps)
    place = {"left": 0.07, "right": 0.99}
    top = figure.add_gridspec(1, 2, **place, top=0.665, bottom=0.475, wspace=0.13)
    for ax, state in zip(top.subplots(sharey=True), style.STATES, strict=True):
        draw_filters(ax, style.where(numbers, panel="b", state=state))
        words = {"ylabel": "cosine with R" if state == "random" else "", "ylim": (-0.08, 1.02)}
        style.panel_title(ax, "b", f"what resembles the map: {state} weights", **words)
    rules = style.looks(numbers.loc[numbers["panel"] == "b", "rule"])
    bottom = figure.add_gridspec(1, 3, **place, top=0.36, bottom=0.165, wspace=0.24)
    first, second, third = bottom.subplots()
    for ax, series, title in (
        (first, "above", "all above layer l drawn anew"),
        (second, "single", "layer l alone drawn anew"),
    ):
        draw_layers(ax, numbers[numbers["panel"] == "c"], series, rules)
        style.panel_title(
            ax, "c", title, xlabel="layer l", ylabel="cosine" if series == "above" else "", ylim=(-0.05, 1.05)
        )
    draw_memory(third, numbers, rules)
    style.panel_title(third, "d", r"in place of $A_l$ sent down", xlabel="layer l", ylim=(-0.05, 1.05))
    handles = [*map(style.solid, rules.values())]
    marks = [style.Look(style.INK, mark, AGAINST_LABELS[name], "") for name, mark in AGAINST.items()]
    style.legend(figure, [*handles, *marks], (0.5, 0.125), ncols=8)
    style.caption(figure, text)
    return figure


def draw_pictures(figure: Figure, part: pd.DataFrame, maps: Mapping[str, list]) -> None:
    """A line per rule, the images side by side."""
    rules = style.looks(part["rule"])
    lines = []
    for i, rule in enumerate(rules):
        rows = [row for _, row in part[part["rule"] == rule].iterrows()]
        lines.append([tile for row in rows for tile in filter_maps.tiles(row, maps, titles=i == 0)])
    labels = [look.label for look in rules.values()]
    pictures.draw_tiles(figure, lines, (0.03, 0.735, 0.995, 0.975), labels, size=5.5)
    figure.text(0.005, 0.985, "(a)", fontsize=8)


def draw_filters(ax: Axes, part: pd.DataFrame) -> None:
    rules = style.looks(part["rule"])
    for shift, (rule, look) in zip(np.linspace(-0.2, 0.2, len(rules)), rules.items(), strict=True):
        points = part[part["rule"] == rule].set_index("series").loc[[*FILTERS]]
        at = np.arange(len(points)) + shift
        style.curve(ax, at, points, replace(look, line=""), bars="y", markersize=3.5, capsize=1.5)
        for x, y in zip(at, points["y"], strict=True):
            ax.vlines(x, 0, y, color=look.colour, linewidth=0.8, alpha=0.35)
    ax.set_xticks(range(len(FILTERS)), [*FILTERS.values()], rotation=28, ha="right", fontsize=6.5)
    style.level(ax)


def draw_layers(ax: Axes, part: pd.DataFrame, series: str, rules: Mapping[str, style.Look]) -> None:
    for rule, look in rules.items():
        for name, line, filled in ((series, "-", True), (f"{series}_px", ":", False)):
            points = style.where(part, rule=rule, series=name).sort_values("x")
            style.curve(ax, points["x"], points, replace(look, line=line, filled=filled), band=0.12, markersize=2.5)
    style.level(ax)


def draw_memory(ax: Axes, numbers: pd.DataFrame, rules: Mapping[str, style.Look]) -> None:
    part = style.where(numbers, panel="d", state="activation")
    for rule, look in rules.items():
        for against, mark in AGAINST.items():
            points = style.where(part, rule=rule, series=against).sort_values("x")
            style.curve(ax, points["x"], points, replace(look, mark=mark), markersize=2.5, linewidth=0.7)
        (depth,) = style.where(numbers, panel="depth", rule=rule)["x"]
        ax.axvline(depth, color=look.colour, linewidth=0.8, linestyle=(0, (1, 1)))
    style.level(ax, SAME, line=":")
