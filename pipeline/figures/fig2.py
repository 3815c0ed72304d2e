"""Fig. 2: (a) alignment against the number N of layers under the rule, in total and by frequency band; (b) cosines and (c) norms of the weights."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.figures import style
from pipeline.measures.intervals import crossed_curve
from pipeline.measures.maps import BANDS

RULES = ("gbp", "rectgrad", "lrp", "activation")
NULLS = ("mosaic", "mean_colour", "edges", "noise", "other")
END_MARKS = {"split": "P", "plus": "X"}  # lrp at N = L, by what it does in the first layer
BAND_TITLES = (
    r"$\lambda$ < side/56",
    r"$\lambda$: side/56 to side/14",
    r"$\lambda$: side/14 to side/4",
    r"$\lambda$ > side/4",
)
COLUMNS = ["panel", "state", "series", "x", "name", "y", "low", "high"]


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: a, a_band0..3, b, b_abs, c; state: random, trained, baseline (maps made without a network); series: rule, null map or first layer; y with its
    interval: 95 % over images and weight seeds in (a), one standard deviation over pairs or neurons in (b) and (c)."""
    values = {"a": "alignment", **{f"a_band{i}": f"alignment_band{i}" for i in range(BANDS)}}
    rows = []
    for panel, value in values.items():
        for state in style.STATES:
            for rule, table in tables[state].groupby("rule"):
                rows += curve([panel, state, str(rule)], table, value)
            for first, table in tables[f"{state}_ends"].groupby("rule.first_layer"):
                rows += curve([panel, state, f"lrp {first}"], table[table["n"] == table["n"].max()], value)
        for null in NULLS:
            mean = tables["nulls"].loc[tables["nulls"]["null"] == null, value].mean()
            rows.append([panel, "baseline", null, np.nan, "", mean, np.nan, np.nan])
    for state in style.STATES:
        for layer, table in tables[f"{state}_weights"].groupby("layer"):
            for panel, mean, deviation in (
                ("b", "cosine_mean", "cosine_std"),
                ("b_abs", "cosine_abs_mean", None),
                ("c", "norm_mean", "norm_std"),
            ):
                y = table[mean].mean()
                spread = np.sqrt((table[deviation] ** 2).mean()) if deviation else np.nan  # over seeds
                rows.append([panel, state, state, layer, table["name"].iloc[0], y, y - spread, y + spread])
    found = pd.DataFrame(rows, columns=COLUMNS)
    return found[found["y"].notna()].reset_index(drop=True)  # bands that are empty at this size go


def curve(labels: list[str], table: pd.DataFrame, value: str) -> list[list]:
    """Nothing for a band that is empty at this size."""
    return [] if table[value].isna().all() else crossed_curve(labels, table, value)


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    random, trained = tables["random"], tables["trained"]
    seeds = sorted(random["seed"].unique())
    file = trained[trained.columns.intersection(["weights.path", "weights.enum"])].iloc[0].dropna()
    return (
        f"Profile {profile}: {random['model'].iloc[0]}, {random['image'].nunique()} images of {random['data'].iloc[0]}, explained class: {random['explained'].iloc[0]}. "
        f"Random: {random['weights'].iloc[0]}, weight seeds {seeds[0]}-{seeds[-1]} (n = {len(seeds)}). Trained: {trained['weights'].iloc[0]} {' '.join(file.astype(str))}. "
        "(a) Bands: 95 % intervals over images and weight seeds (crossed bootstrap); trained: over images, for this network. LRP is solid to N = L - 1; at N = L its marks are "
        "first layer plain (triangle), split (plus), W+ (cross). Dotted lines: maps made without a network. Small panels: the same within bands of wavelength $\\lambda$. "
        "(b) Mean over pairs of neurons, bars: one SD, small dots: mean of absolute values. (c) Mean over neurons, bars: one SD."
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    bands = [i for i in range(BANDS) if (numbers["panel"] == f"a_band{i}").any()]
    figure = plt.figure(figsize=(style.DOUBLE, 6.1))
    top = figure.add_gridspec(1, 2, left=0.07, right=0.985, top=0.955, bottom=0.49, width_ratios=(1, 1.02), wspace=0.36)
    small = top[1].subgridspec(2, 2, hspace=0.42, wspace=0.14)
    bottom = figure.add_gridspec(1, 2, left=0.07, right=0.985, top=0.345, bottom=0.155, wspace=0.17)
    main = figure.add_subplot(top[0])
    draw_cascade(main, numbers[numbers["panel"] == "a"], labels=True)
    style.panel_title(main, "a", "input alignment")
    main.set(xlabel="N, layers under the rule (from the top)", ylabel=r"alignment $\alpha(R_N, x)$")
    first = None
    for place, band in enumerate(bands):
        ax = figure.add_subplot(small[place // 2, place % 2], sharey=first)
        first = first or ax
        draw_cascade(ax, numbers[numbers["panel"] == f"a_band{band}"], labels=False)
        style.panel_title(ax, "", f"{BAND_TITLES[band]}")
        ax.set(xlabel="N" if place >= len(bands) - 2 else "", ylabel=r"$\alpha$" if place % 2 == 0 else "")
        ax.tick_params(labelleft=place % 2 == 0)
    figure.legend(
        handles=legend_handles(),
        loc="upper center",
        bbox_to_anchor=(0.5, 0.44),
        ncols=8,
        columnspacing=1.2,
        handlelength=2.2,
    )
    for panel, ax, title, label in (
        ("b", figure.add_subplot(bottom[0]), "cosine of neurons' weights", "cosine"),
        ("c", figure.add_subplot(bottom[1]), "norm of neurons' weights", r"$\|w\|_2$"),
    ):
        draw_layers(ax, numbers, panel)
        style.panel_title(ax, panel, title)
        ax.set(ylabel=label)
    style.caption(figure, text)
    return figure


def draw_cascade(ax: Axes, part: pd.DataFrame, labels: bool) -> None:
    depth = part["x"].max()
    for state, (line, filled) in style.STATES.items():
        for rule in RULES:
            points = part[(part["state"] == state) & (part["series"] == rule)]
            colour, mark = style.COLOURS[rule], style.MARKS[rule]
            solid = points[points["x"] < depth] if rule == "lrp" else points
            size = 3 if labels else 2
            ax.fill_between(solid["x"], solid["low"], solid["high"], color=colour, alpha=0.15, linewidth=0)
            sns.lineplot(data=solid, x="x", y="y", ax=ax, color=colour, linestyle=line, marker=mark, markersize=size, markeredgecolor=colour,
                         markeredgewidth=0.6, markerfacecolor=colour if filled else "white", linewidth=1.1 if labels else 0.9, errorbar=None, legend=False)  # fmt: skip
            if rule == "lrp":
                ends = {mark: points[points["x"] == depth]} | {
                    END_MARKS[first]: part[(part["state"] == state) & (part["series"] == f"lrp {first}")]
                    for first in END_MARKS
                }
                for end_mark, end in ends.items():
                    errors = bars(end)
                    ax.errorbar(
                        end["x"],
                        end["y"],
                        errors,
                        fmt=end_mark,
                        color=colour,
                        markersize=size + 1,
                        elinewidth=0.6,
                        markerfacecolor=colour if filled else "white",
                        markeredgewidth=0.6,
                    )
    nulls = part[part["state"] == "baseline"].set_index("series")["y"]
    for value in nulls:
        ax.axhline(value, color="#888888", linewidth=0.5, linestyle=":", zorder=0)
    low = min(-0.05, part["low"].min(), nulls.min() - 0.02)
    ax.set(xlim=(-0.5, depth + 0.5), ylim=(low, 1.02), xlabel="", ylabel="")
    ax.set_xticks(np.arange(0, depth + 1, 2 if depth > 10 else 1) if labels else np.arange(0, depth + 1, 4))
    if labels:
        style.labels_at_right(ax, {style.NULL_LABELS[k]: v for k, v in nulls.items()}, "#666666")


def bars(points: pd.DataFrame) -> list[pd.Series]:
    return [
        (points["y"] - points["low"]).clip(lower=0),
        (points["high"] - points["y"]).clip(lower=0),
    ]  # rounding may cross 0


def draw_layers(ax: Axes, numbers: pd.DataFrame, panel: str) -> None:
    for shift, (state, (line, filled)) in zip((-0.12, 0.12), style.STATES.items(), strict=True):
        points = numbers[(numbers["panel"] == panel) & (numbers["state"] == state)]
        colour = style.STATE_COLOURS[state]
        errors = bars(points)
        ax.errorbar(points["x"] + shift, points["y"], errors, fmt="o" if filled else "s", linestyle=line, color=colour, linewidth=0.8, elinewidth=0.7,
                    capsize=1.5, markersize=3, markerfacecolor=colour if filled else "white", markeredgewidth=0.7)  # fmt: skip
        absolute = numbers[(numbers["panel"] == f"{panel}_abs") & (numbers["state"] == state)]
        ax.plot(absolute["x"] + shift, absolute["y"], ".", color=colour, markersize=2)
    ax.axhline(0, color="#888888", linewidth=0.5, zorder=0)
    names = numbers[numbers["panel"] == panel].drop_duplicates("x").sort_values("x")
    ax.set_xticks(names["x"], names["name"], rotation=90, fontsize=6)


def legend_handles() -> list[Line2D]:
    rules = [Line2D([], [], color=style.COLOURS[r], marker=style.MARKS[r], label=style.LABELS[r]) for r in RULES]
    states = []
    for state, (line, filled) in style.STATES.items():
        colour = style.STATE_COLOURS[state]
        states.append(
            Line2D(
                [],
                [],
                color=colour,
                linestyle=line,
                marker="o" if filled else "s",
                markerfacecolor=colour if filled else "white",
                label=state,
            )
        )
    return rules + states
