"""Fig. 4: (a) cascade substitution under laws of random weights, (b) each law against the Gaussian, (c) what float32 makes of unscaled uniform weights."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.figures import style
from pipeline.measures.intervals import crossed_curve, crossed_interval, crossed_table

RULES = ("gbp", "rectgrad", "lrp", "activation")
LAWS = ("gaussian", "ring", "heavy_tailed", "uniform", "anisotropic", "uniform01")
NAIVE = "uniform_literal naive"  # the cosine of float32 as it is usually written
ROWS = {
    law: style.LAWS[law].label for law in ("ring", "heavy_tailed", "uniform", "uniform_literal")
}  # of (b), from the top
ROWS |= {NAIVE: "uniform, unscaled,\nnaive cosine"} | {
    law: style.LAWS[law].label for law in ("anisotropic", "uniform01")
}
DASHED = (0, (2, 1.5))
COLUMNS = ["panel", "rule", "law", "n", "name", "y", "low", "high"]


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: alignment; difference (law - Gaussian, mean over N, paired by image and seed); overflow (safe and naive cosine of one sweep). y with its 95 %
    interval over images and weight seeds (crossed bootstrap)."""
    literal = tables["literal"]
    every = pd.concat([
        tables["laws"].assign(law=tables["laws"]["weights"]), literal.assign(law="uniform_literal"), literal.assign(law=NAIVE, alignment=literal["alignment_naive"]),
    ])  # fmt: skip
    rows: list[list] = []
    for rule in RULES:
        of_rule = every[every["rule"] == rule]
        means = of_rule.groupby(["law", "seed", "image"])["alignment"].mean()
        for law, table in of_rule.groupby("law"):
            rows += crossed_curve(["alignment", rule, law], table, "alignment")
        for law in ROWS:
            difference = (means[law] - means["gaussian"]).rename("difference").reset_index()
            ends = crossed_interval(crossed_table(difference.assign(n=0), "difference"))
            rows.append(["difference", rule, law, np.nan, "", *(float(end[0]) for end in ends)])
        overflow = tables["overflow"][tables["overflow"]["rule"] == rule]
        if len(overflow):
            rows += crossed_curve(["overflow", rule, "uniform_literal"], overflow, "alignment") + crossed_curve(
                ["overflow", rule, NAIVE], overflow, "alignment_naive"
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    laws, literal, overflow = tables["laws"], tables["literal"], tables["overflow"]
    seeds = sorted(laws["seed"].unique())
    keys = ["rule", "seed", "image", "n"]
    he = laws[laws["weights"] == "uniform"].set_index(keys)["alignment"]
    apart = (he - literal.set_index(keys)["alignment"]).abs().max()
    more = sorted(overflow["seed"].unique())
    return (
        f"Profile {profile}. (a, b) {laws['model'].iloc[0]}, {laws['image'].nunique()} images of {laws['data'].iloc[0]}, explained class: {laws['explained'].iloc[0]}, weight seeds "
        f"{seeds[0]}-{seeds[-1]} (n = {len(seeds)}); 95 % intervals over images and seeds (crossed bootstrap), LRP with a plain first layer. Gaussian, ring, heavy-tailed and uniform [-1, 1] have "
        f"E[w w'] = c I, anisotropic and uniform [0, 1] do not. Dashed: unscaled entries on [-1, 1] with the cosine as it is usually written, in float32; their safe cosine (rescaled, accumulated in "
        f"float64) is within {apart:.0e} of the He-scaled law's. (b) Law - Gaussian, mean over N, paired by image and seed. (c) {overflow['model'].iloc[0]}, "
        f"{overflow['image'].nunique()} images of {overflow['data'].iloc[0]}, weight seed{'s' if len(more) > 1 else ''} {', '.join(map(str, more))}, float32: one sweep, both cosines. "
        "Squares overflow where a map passes 1.8e19, and the naive cosine is 0."
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = plt.figure(figsize=(style.DOUBLE, 6.0))
    left = figure.add_gridspec(2, 2, left=0.075, right=0.615, top=0.955, bottom=0.265, hspace=0.4, wspace=0.1)
    right = figure.add_gridspec(2, 1, left=0.755, right=0.985, top=0.955, bottom=0.265, hspace=0.4)
    part = numbers[numbers["panel"] == "alignment"]
    low, high = min(-0.03, part["low"].min() - 0.02), min(1.02, part["high"].max() + 0.03)
    for place, rule in enumerate(RULES):
        ax = figure.add_subplot(left[place // 2, place % 2])
        draw_laws(ax, part[part["rule"] == rule])
        style.panel_title(ax, "a" if place == 0 else "", style.LABELS[rule])
        ax.set(
            ylim=(low, high),
            xlim=(-0.5, part["n"].max() + 0.5),
            ylabel=r"alignment $\alpha(R_N, x)$" if place % 2 == 0 else "",
        )
        ax.set_xlabel("N, layers under the rule" if place > 1 else "")
        ax.set_xticks(np.arange(0, part["n"].max() + 1, 4 if part["n"].max() > 5 else 1))
        ax.tick_params(labelleft=place % 2 == 0)
    ax = figure.add_subplot(right[0])
    draw_differences(ax, numbers[numbers["panel"] == "difference"])
    style.panel_title(ax, "b", "law - Gaussian")
    ax.set_xlabel(r"difference of $\alpha$, mean over N")
    ax = figure.add_subplot(right[1])
    draw_overflow(ax, numbers[numbers["panel"] == "overflow"])
    style.panel_title(ax, "c", "uniform, unscaled, float32")
    ax.set(xlabel="N, layers under the rule", ylabel="cosine")
    figure.legend(
        handles=law_handles(),
        loc="upper center",
        bbox_to_anchor=(0.34, 0.205),
        ncols=3,
        columnspacing=1.2,
        handlelength=2.2,
    )
    figure.legend(
        handles=rule_handles(),
        loc="upper center",
        bbox_to_anchor=(0.84, 0.205),
        ncols=2,
        columnspacing=1.0,
        handlelength=2.0,
    )
    style.caption(figure, text, width=160)
    return figure


def draw_laws(ax: Axes, points: pd.DataFrame) -> None:
    for law in LAWS:
        chosen, colour = points[points["law"] == law], style.LAW_COLOURS[law]
        ax.fill_between(chosen["n"], chosen["low"], chosen["high"], color=colour, alpha=0.12, linewidth=0)
        width = 2.2 if law == "gaussian" else 0.9  # shows below those that coincide with it
        ax.plot(
            chosen["n"],
            chosen["y"],
            color=colour,
            marker=style.LAW_MARKS[law],
            markersize=3.5,
            markeredgewidth=0,
            linewidth=width,
        )
    naive = points[points["law"] == NAIVE]
    ax.plot(
        naive["n"], naive["y"], color=style.LAW_COLOURS["uniform_literal"], linestyle=DASHED, linewidth=1.0, zorder=3
    )


def draw_differences(ax: Axes, points: pd.DataFrame) -> None:
    ax.axvline(0, color="#888888", linewidth=0.5, zorder=0)
    for i, rule in enumerate(RULES):
        chosen = points[points["rule"] == rule].set_index("law").loc[list(ROWS)]
        y = np.arange(len(ROWS)) + 0.18 * (i - (len(RULES) - 1) / 2)
        bars = [(chosen["y"] - chosen["low"]).clip(lower=0), (chosen["high"] - chosen["y"]).clip(lower=0)]
        ax.errorbar(
            chosen["y"], y, xerr=bars, fmt=style.MARKS[rule], color=style.COLOURS[rule], markersize=2.6, elinewidth=0.7
        )
    ax.set_yticks(range(len(ROWS)), list(ROWS.values()), fontsize=6)
    ax.set_ylim(len(ROWS) - 0.5, -0.5)


def draw_overflow(ax: Axes, points: pd.DataFrame) -> None:
    for rule in RULES:
        for law, line, filled in (("uniform_literal", "-", True), (NAIVE, "--", False)):
            chosen, colour = points[(points["rule"] == rule) & (points["law"] == law)], style.COLOURS[rule]
            ax.plot(chosen["n"], chosen["y"], color=colour, linestyle=line, marker=style.MARKS[rule], markersize=2.6, linewidth=0.9,
                    markerfacecolor=colour if filled else "white", markeredgewidth=0.6)  # fmt: skip
    ax.set_ylim(-0.03, 1.0)


def law_handles() -> list[Line2D]:
    handles = [
        Line2D(
            [],
            [],
            color=style.LAW_COLOURS[law],
            marker=style.LAW_MARKS[law],
            markersize=4,
            markeredgewidth=0,
            linewidth=2.2 if law == "gaussian" else 0.9,
            label=style.LAW_LABELS[law],
        )
        for law in LAWS
    ]
    return [
        *handles,
        Line2D(
            [],
            [],
            color=style.LAW_COLOURS["uniform_literal"],
            linestyle=DASHED,
            linewidth=1.0,
            label="uniform, unscaled, naive cosine",
        ),
    ]


def rule_handles() -> list[Line2D]:
    rules = [Line2D([], [], color=style.COLOURS[r], marker=style.MARKS[r], label=style.LABELS[r]) for r in RULES]
    kinds = [("(c) safe cosine", "-", "#444444"), ("(c) naive cosine", "--", "white")]
    return rules + [
        Line2D([], [], color="#444444", linestyle=line, marker="o", markerfacecolor=fill, label=label)
        for label, line, fill in kinds
    ]
