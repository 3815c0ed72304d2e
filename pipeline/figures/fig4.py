"""Fig. 4: (a) cascade substitution under laws of random weights, (b) each law against the Gaussian, (c) what
float32 makes of unscaled uniform weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.measures.intervals import crossed_curve, crossed_interval, crossed_table

LITERAL = "uniform_literal"  # entries on [-1, 1] as they are
NAIVE = f"{LITERAL} naive"  # the cosine of float32 as it is usually written
NAIVE_LOOK = style.Look(style.LAWS[LITERAL].colour, "", (0, (2, 1.5)), "uniform, unscaled, naive cosine")
ORDER = ("gaussian", "ring", "heavy_tailed", "uniform", LITERAL, NAIVE, "anisotropic", "uniform01")
COLUMNS = ["panel", "rule", "law", "n", "name", "y", "low", "high"]
TEXT = """
Profile {profile}. (a, b) {model}, {images}, explained class: {explained}{seeds}; 95 % intervals over images and seeds
(crossed bootstrap), LRP with a plain first layer. Gaussian, ring, heavy-tailed and uniform [-1, 1] have E[w w'] = c
I, anisotropic and uniform [0, 1] do not. Dashed: unscaled entries on [-1, 1] with the cosine as it is usually
written, in float32{apart}. (b) Law - Gaussian, mean over N, paired by image and seed. (c) {overflow}, float32: one
sweep, both cosines. Squares overflow where a map passes 1.8e19, and the naive cosine is 0.
"""
APART = "; their safe cosine (rescaled, accumulated in float64) is within {:.0e} of the He-scaled law's"


def refuse(sweeps: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """It shows differences from the Gaussian, and what the naive float32 cosine makes of unscaled uniform weights."""
    unscaled = [cell for sweep in ("literal", "overflow") for cell in sweeps[sweep]]
    laws = {cell["weights"] for cell in sweeps["laws"]}
    if "gaussian" not in laws or any(cell["weights"] != "uniform" for cell in unscaled):
        return "Fig. 4 compares laws with the Gaussian and says itself which weights it takes; leave weights=... out"
    if not all(cell.get("experiment.naive", True) for cell in unscaled):
        return "Fig. 4 shows the naive cosine beside the safe one; leave experiment.naive=false out"
    return None


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: alignment; difference (law - Gaussian, mean over N, paired by image and seed); overflow (safe and
    naive cosine of one sweep). y with its 95 % interval over images and weight seeds (crossed bootstrap)."""
    laws, literal = tables["laws"], tables["literal"]
    naive = literal.assign(law=NAIVE, alignment=literal["alignment_naive"])
    every = pd.concat([laws.assign(law=laws["weights"]), literal.assign(law=LITERAL), naive])
    rows: list[list] = []
    for rule in style.ordered(laws["rule"]):
        of_rule = every[every["rule"] == rule]
        means = of_rule.groupby(["law", "seed", "image"])["alignment"].mean()
        for law, table in of_rule.groupby("law"):
            rows += crossed_curve(["alignment", rule, law], table, "alignment")
        for law in compared(of_rule["law"]):
            difference = (means[law] - means["gaussian"]).rename("difference").reset_index()
            ends = crossed_interval(crossed_table(difference.assign(n=0), "difference"))
            rows.append(["difference", rule, law, np.nan, "", *(float(end[0]) for end in ends)])
        overflow = tables["overflow"][tables["overflow"]["rule"] == rule]
        for law, value in ((LITERAL, "alignment"), (NAIVE, "alignment_naive")) if len(overflow) else ():
            rows += crossed_curve(["overflow", rule, law], overflow, value)
    return pd.DataFrame(rows, columns=COLUMNS)


def compared(laws: pd.Series) -> list[str]:
    """The laws that are compared with the Gaussian, from the top of (b)."""
    return [law for law in style.ordered(laws, ORDER) if law != "gaussian"]


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    laws, overflow = tables["laws"], tables["overflow"]
    keys = ["rule", "seed", "image", "n"]
    he, literal = (t.set_index(keys)["alignment"] for t in (laws[laws["weights"] == "uniform"], tables["literal"]))
    apart = (he - literal).abs().max()
    return style.words(
        TEXT,
        profile=profile,
        model=laws["model"].iloc[0],
        images=style.images_text(laws),
        explained=laws["explained"].iloc[0],
        seeds=style.seeds_text(laws, ", weight "),
        apart="" if np.isnan(apart) else APART.format(apart),
        overflow=f"{overflow['model'].iloc[0]}, {style.images_text(overflow)}{style.seeds_text(overflow, ', weight ')}",
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = plt.figure(figsize=(style.DOUBLE, 6.0))
    part, rules = numbers[numbers["panel"] == "alignment"], style.looks(numbers["rule"])
    lines = -(-len(rules) // 2)
    place = {"top": 0.955, "bottom": 0.265, "hspace": 0.4}
    left = figure.add_gridspec(max(lines, 2), 2, left=0.075, right=0.615, wspace=0.1, **place)
    right = figure.add_gridspec(2, 1, left=0.755, right=0.985, **place)
    low, high = min(-0.03, part["low"].min() - 0.02), min(1.02, part["high"].max() + 0.03)
    depth = part["n"].max()
    for i, (rule, look) in enumerate(rules.items()):
        ax = figure.add_subplot(left[i // 2, i % 2])
        draw_laws(ax, part[part["rule"] == rule])
        style.panel_title(ax, "a" if i == 0 else "", look.label)
        ax.set(
            ylim=(low, high), xlim=(-0.5, depth + 0.5), xlabel="N, layers under the rule" if i + 2 >= len(rules) else ""
        )
        ax.set(ylabel=r"alignment $\alpha(R_N, x)$" if i % 2 == 0 else "")
        ax.set_xticks(np.arange(0, depth + 1, 4 if depth > 5 else 1))
        ax.tick_params(labelleft=i % 2 == 0)
    ax = figure.add_subplot(right[0])
    draw_differences(ax, numbers[numbers["panel"] == "difference"])
    style.panel_title(ax, "b", "law - Gaussian")
    ax.set_xlabel(r"difference of $\alpha$, mean over N")
    ax = figure.add_subplot(right[1])
    draw_overflow(ax, numbers[numbers["panel"] == "overflow"])
    style.panel_title(ax, "c", "uniform, unscaled, float32")
    ax.set(xlabel="N, layers under the rule", ylabel="cosine")
    handles = [style.handle(look, **line(law)) for law, look in law_looks(part["law"]).items()]
    at = {"loc": "upper center", "ncols": 3, "columnspacing": 1.2, "handlelength": 2.2}
    figure.legend(handles=[*handles, style.handle(NAIVE_LOOK, linewidth=1.0)], bbox_to_anchor=(0.34, 0.205), **at)
    cosines = [
        style.Look(style.INK, "o", label="(c) safe cosine"),
        style.opened(style.Look(style.INK, "o", label="(c) naive cosine")),
    ]
    handles = [style.handle(replace(look, line="-")) for look in rules.values()] + [*map(style.handle, cosines)]
    figure.legend(
        handles=handles, bbox_to_anchor=(0.84, 0.205), **at | {"ncols": 2, "columnspacing": 1.0, "handlelength": 2.0}
    )
    style.caption(figure, text)
    return figure


def law_looks(laws: pd.Series) -> dict[str, style.Look]:
    return style.looks((law for law in laws if law not in (LITERAL, NAIVE)), style.LAWS)


def line(law: str) -> dict[str, Any]:
    """The Gaussian shows below those that coincide with it."""
    return {"linewidth": 2.2 if law == "gaussian" else 0.9, "markersize": 3.5, "markeredgewidth": 0}


def draw_laws(ax: Axes, points: pd.DataFrame) -> None:
    for law, look in law_looks(points["law"]).items():
        chosen = points[points["law"] == law]
        style.curve(ax, chosen["n"], chosen, look, band=0.12, **line(law))
    naive = points[points["law"] == NAIVE]
    look = NAIVE_LOOK if len(naive) > 1 else replace(NAIVE_LOOK, mark=style.LAWS[LITERAL].mark, filled=False)
    style.curve(ax, naive["n"], naive, look, linewidth=1.0, zorder=3)


def draw_differences(ax: Axes, points: pd.DataFrame) -> None:
    ax.axvline(0, color="#888888", linewidth=0.5, zorder=0)
    laws, rules = compared(points["law"]), style.looks(points["rule"])
    for i, (rule, look) in enumerate(rules.items()):
        chosen = points[points["rule"] == rule].set_index("law").reindex(laws)
        y = np.arange(len(laws)) + min(0.18, 0.8 / len(rules)) * (i - (len(rules) - 1) / 2)
        style.curve(ax, y, chosen, look, bars="x", linestyle="none", markersize=2.6)
    names = {law: look.label for law, look in style.looks(laws, style.LAWS).items()} | {
        NAIVE: "uniform, unscaled,\nnaive cosine"
    }
    ax.set_yticks(range(len(laws)), [names[law] for law in laws], fontsize=6)
    ax.set_ylim(len(laws) - 0.5, -0.5)


def draw_overflow(ax: Axes, points: pd.DataFrame) -> None:
    for rule, rule_look in style.looks(points["rule"]).items():
        for law, look in ((LITERAL, replace(rule_look, line="-")), (NAIVE, style.opened(rule_look))):
            chosen = points[(points["rule"] == rule) & (points["law"] == law)]
            style.curve(ax, chosen["n"], chosen, look, markersize=2.6, linewidth=0.9)
    ax.set_ylim(-0.03, 1.0)
    if points["n"].nunique() == 1:
        ax.set_xticks(points["n"].unique())
