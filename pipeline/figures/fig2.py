"""Fig. 2: (a) alignment against the number N of layers under the rule, in total and by frequency band; (b) cosines and
(c) norms of the weights."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import captions, style
from pipeline.measures.intervals import crossed_curve
from pipeline.measures.maps import BANDS

ENDS = {"split": ("P", "split (plus)"), "plus": ("X", "W+ (cross)"), "zbox": ("*", "z^B (star)")}  # layer 1 at N = L
NULLS = ("mosaic", "mean_colour", "edges", "noise", "other")
BAND_TITLES = (
    r"$\lambda$ < side/56",
    r"$\lambda$: side/56 to side/14",
    r"$\lambda$: side/14 to side/4",
    r"$\lambda$ > side/4",
)
GAUGES = {"": "weights", "_balanced": "balanced"}  # endings of panels, of sweeps
COLUMNS = ["panel", "state", "series", "x", "name", "y", "low", "high"]
TEXT = r"""
Profile {profile}: {random[model]}, {random.images}, explained class: {random[explained]}. Random:
{random.weights}{random.weight_seeds}. Trained: {trained.weights}{trained.weight_seeds}. (a) Bands:
95 % intervals over images and weight seeds (leave one out); trained: over images, for this network. {ends} Dotted
lines: maps made without a network, and P x = $W_1 W_1^T x$, which one linear filter makes. Small panels: the same
within bands of wavelength $\lambda$. (b) Mean over pairs of neurons, bars: one SD, small dots: mean of absolute
values. (c) Mean over neurons, bars: one SD. (b, c) Thin lines without marks: the same network in the balanced gauge,
where each neuron's incoming and outgoing norms are equal; function and maps are the same.
"""
ENDS_TEXT = "LRP is solid to N = L - 1; at N = L its marks are first layer plain (triangle), {}."


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: a, a_band0..3, b, b_abs, c; state: random, trained, baseline (maps made without a network); series: rule,
    null map, or rule and first layer; y with its interval: 95 % over images and weight seeds in (a), one standard
    deviation over pairs or neurons in (b) and (c), which end in _balanced in that gauge."""
    values = {"a": "alignment", **{f"a_band{i}": f"alignment_band{i}" for i in range(BANDS)}}
    rows = []
    for panel, value in values.items():
        for state in style.STATES:
            for rule, table in tables[state].groupby("rule"):
                rows += curve([panel, state, str(rule)], table, value)
            for series, table in ends(tables[f"{state}_ends"]).items():
                rows += curve([panel, state, series], table, value)
        for null in NULLS:
            mean = tables["nulls"].loc[tables["nulls"]["null"] == null, value].mean()
            rows.append([panel, "baseline", null, np.nan, "", mean, np.nan, np.nan])
    for state in style.STATES:  # P x knows the weights, and neither a rule nor N
        once = tables[state].drop_duplicates(["image", "seed"])
        rows.append(["a", "baseline", f"P x, {state}", np.nan, "", once["alignment_px"].mean(), np.nan, np.nan])
    measures = (("b", "cosine_mean", "cosine_std"), ("b_abs", "cosine_abs_mean", None), ("c", "norm_mean", "norm_std"))
    for state, (ending, sweep) in product(style.STATES, GAUGES.items()):
        for layer, table in tables[f"{state}_{sweep}"].groupby("layer"):
            for panel, mean, deviation in measures:
                y = table[mean].mean()
                spread = np.sqrt((table[deviation] ** 2).mean()) if deviation else np.nan  # over seeds
                rows.append([panel + ending, state, state, layer, table["name"].iloc[0], y, y - spread, y + spread])
    found = pd.DataFrame(rows, columns=COLUMNS)
    return found[found["y"].notna()].reset_index(drop=True)  # bands that are empty at this size go


def curve(labels: list[str], table: pd.DataFrame, value: str) -> list[list]:
    """Nothing for a band that is empty at this size."""
    return [] if table[value].isna().all() else crossed_curve(labels, table, value)


def ends(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows at N = L by rule and first layer; none of a rule that has no choice there."""
    if "rule.first_layer" not in table:
        return {}
    groups = table[table["n"] == table["n"].max()].groupby(["rule", "rule.first_layer"])
    return {f"{rule} {first}": part for (rule, first), part in groups if first in ENDS}


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    firsts = {series.rpartition(" ")[2] for state in style.STATES for series in ends(tables[f"{state}_ends"])}
    marks = ", ".join(words for first, (_, words) in ENDS.items() if first in firsts)
    return captions.words(TEXT, tables, profile=profile, ends=ENDS_TEXT.format(marks) if marks else "")


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    bands = [i for i in range(BANDS) if (numbers["panel"] == f"a_band{i}").any()]
    figure = style.page(6.3)
    top = figure.add_gridspec(1, 2, left=0.07, right=0.985, top=0.955, bottom=0.49, width_ratios=(1, 1.02), wspace=0.36)
    small = top[1].subgridspec(2, 2, hspace=0.42, wspace=0.14)
    bottom = figure.add_gridspec(1, 2, left=0.07, right=0.985, top=0.35, bottom=0.18, wspace=0.17)
    main = figure.add_subplot(top[0])
    draw_cascade(main, numbers[numbers["panel"] == "a"], labels=True)
    words = {"xlabel": "N, layers under the rule (from the top)", "ylabel": r"alignment $\alpha(R_N, x)$"}
    style.panel_title(main, "a", "input alignment", **words)
    first = None
    for place, band in enumerate(bands):
        ax = figure.add_subplot(small[place // 2, place % 2], sharey=first)
        first = first or ax
        draw_cascade(ax, numbers[numbers["panel"] == f"a_band{band}"], labels=False)
        words = {"xlabel": "N" if place >= len(bands) - 2 else "", "ylabel": r"$\alpha$" if place % 2 == 0 else ""}
        style.panel_title(ax, "", BAND_TITLES[band], **words)
        ax.tick_params(labelleft=place % 2 == 0)
    series = map(style.solid, rules(numbers[numbers["panel"] == "a"]).values())
    style.legend(figure, [*series, *style.STATES.values()], (0.5, 0.44), ncols=8)
    for i, (panel, title, label) in enumerate(
        (("b", "cosine of neurons' weights", "cosine"), ("c", "norm of neurons' weights", r"$\|w\|_2$"))
    ):
        ax = figure.add_subplot(bottom[i])
        draw_layers(ax, numbers, panel)
        style.panel_title(ax, panel, title, ylabel=label)
    style.caption(figure, text)
    return figure


def rules(part: pd.DataFrame) -> dict[str, style.Look]:
    series = part.loc[part["state"] != "baseline", "series"]
    return style.looks(name for name in series if name.rpartition(" ")[2] not in ENDS)


def draw_cascade(ax: Axes, part: pd.DataFrame, labels: bool) -> None:
    depth, size = part["x"].max(), 3 if labels else 2
    for state, state_look in style.STATES.items():
        here = part[part["state"] == state]
        for rule, rule_look in rules(part).items():
            look = replace(rule_look, line=state_look.line, filled=state_look.filled)
            points = here[here["series"] == rule]
            last = {first: here[here["series"] == f"{rule} {first}"] for first in ENDS}
            if any(map(len, last.values())):  # layer 1 has several readings: each a mark of its own
                marks = [(look.mark, points[points["x"] == depth])] + [(ENDS[k][0], end) for k, end in last.items()]
                for mark, end in marks:
                    dots = replace(look, mark=mark, line="")
                    style.curve(ax, end["x"], end, dots, bars="y", markersize=size + 1, elinewidth=0.6)
                points = points[points["x"] < depth]
            width = 1.1 if labels else 0.9
            style.curve(ax, points["x"], points, look, band=0.15, markersize=size, linewidth=width)
    nulls = part[part["state"] == "baseline"].set_index("series")["y"]
    for value in nulls:
        style.level(ax, value, line=":")
    low = min(-0.05, part["low"].min(), nulls.min() - 0.02)
    ax.set(xlim=(-0.5, depth + 0.5), ylim=(low, 1.02))
    ax.set_xticks(np.arange(0, depth + 1, 4 if not labels else 2 if depth > 10 else 1))
    if labels:
        style.labels_at_right(ax, {style.NULL_LABELS.get(k, k): v for k, v in nulls.items()}, "#666666")


def draw_layers(ax: Axes, numbers: pd.DataFrame, panel: str) -> None:
    for shift, (state, look) in zip((-0.12, 0.12), style.STATES.items(), strict=True):
        points, absolute = (style.where(numbers, state=state, panel=name) for name in (panel, f"{panel}_abs"))
        style.curve(ax, points["x"] + shift, points, look, bars="y", linewidth=0.8, capsize=1.5, markeredgewidth=0.7)
        ax.plot(absolute["x"] + shift, absolute["y"], ".", color=look.colour, markersize=2)
        other = style.where(numbers, state=state, panel=f"{panel}_balanced")
        style.curve(ax, other["x"] + shift, other, replace(look, mark=""), linewidth=0.6, alpha=0.7)
    middle = numbers.loc[numbers["panel"] == panel, "y"]
    if panel == "c" and middle.max() > 10 * middle.min() > 0:  # one rescaled layer would flatten the rest
        ax.set_yscale("log")
    else:
        style.level(ax)
    style.layer_ticks(ax, numbers[numbers["panel"] == panel], "x")
