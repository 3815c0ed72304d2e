"""Fig. 4: (a) cascade substitution under laws of random weights, (b) each law against the Gaussian, (c) what
float32 makes of unscaled uniform weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import captions, style
from pipeline.measures.intervals import crossed_curve, crossed_mean

LITERAL = "uniform_literal"  # entries on [-1, 1] as they are
NAIVE = f"{LITERAL} naive"  # the cosine of float32 as it is usually written
NAIVE_LOOK = style.Look(style.LAWS[LITERAL].colour, "", "uniform, unscaled, naive cosine", (0, (2, 1.5)))
ORDER = ("gaussian", "ring", "heavy_tailed", "uniform", LITERAL, NAIVE, "anisotropic", "uniform01")
COLUMNS = ["panel", "rule", "law", "n", "name", "y", "low", "high"]
TEXT = r"""
Profile {profile}. (a, b) {laws[model]}, {laws.images}, explained class: {laws[explained]}{laws.weight_seeds}; 95 %
intervals over images and seeds (leave one out), LRP with plain layer 1. Gaussian, ring, heavy-tailed and
uniform [-1, 1] have E[w w'] = c I, anisotropic and uniform [0, 1] do not. Dashed: unscaled entries on [-1, 1] with
the cosine as it is usually written, in float32{apart}. (b) Law - Gaussian, mean over N, paired by image and seed. (c)
{overflow[model]}, {overflow.images}{overflow.weight_seeds}, float32: one sweep, both cosines. Squares overflow where
a map passes 1.8e19, and the naive cosine is 0. Dotted: P x.
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
    """panel: alignment; difference (law - Gaussian, mean over N, paired by image and seed); overflow (safe and naive
    cosine of one sweep); px (alignment of P x under a law). y with its 95 % interval over images and weight seeds."""
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
            rows.append(crossed_mean(["difference", rule, law, np.nan, ""], difference, "difference"))
        overflow = tables["overflow"][tables["overflow"]["rule"] == rule]
        for law, value in ((LITERAL, "alignment"), (NAIVE, "alignment_naive")) if len(overflow) else ():
            rows += crossed_curve(["overflow", rule, law], overflow, value)
    for law, table in laws.groupby("weights"):
        once = table.drop_duplicates(["image", "seed"])
        rows.append(["px", "", law, np.nan, "", once["alignment_px"].mean(), np.nan, np.nan])
    return pd.DataFrame(rows, columns=COLUMNS)


def compared(laws: pd.Series) -> list[str]:
    """The laws that are compared with the Gaussian, from the top of (b)."""
    return [law for law in style.ordered(laws, ORDER) if law != "gaussian"]


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    laws, keys = tables["laws"], ["rule", "seed", "image", "n"]
    he, literal = (t.set_index(keys)["alignment"] for t in (laws[laws["weights"] == "uniform"], tables["literal"]))
    apart = (he - literal).abs().max()
    return captions.words(TEXT, tables, profile=profile, apart="" if np.isnan(apart) else APART.format(apart))


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = style.page(6.0)
    part = numbers[numbers["panel"] == "alignment"]
    rules = style.looks(part["rule"])
    lines = -(-len(rules) // 2)
    place = {"top": 0.955, "bottom": 0.265, "hspace": 0.4}
    left = figure.add_gridspec(max(lines, 2), 2, left=0.075, right=0.615, wspace=0.1, **place)
    right = figure.add_gridspec(2, 1, left=0.755, right=0.985, **place)
    low, high = min(-0.03, part["low"].min() - 0.02), min(1.02, part["high"].max() + 0.03)
    depth = part["n"].max()
    for i, (rule, look) in enumerate(rules.items()):
        ax = figure.add_subplot(left[i // 2, i % 2])
        draw_laws(ax, part[part["rule"] == rule], style.where(numbers, panel="px"))
        words = {
            "xlabel": "N, layers under the rule" if i + 2 >= len(rules) else "",
            "ylabel": r"alignment $\alpha(R_N, x)$" if i % 2 == 0 else "",
        }
        style.panel_title(ax, "a" if i == 0 else "", look.label, ylim=(low, high), xlim=(-0.5, depth + 0.5), **words)
        ax.set_xticks(np.arange(0, depth + 1, 4 if depth > 5 else 1))
        ax.tick_params(labelleft=i % 2 == 0)
    ax = figure.add_subplot(right[0])
    draw_differences(ax, numbers[numbers["panel"] == "difference"])
    style.panel_title(ax, "b", "law - Gaussian", xlabel=r"difference of $\alpha$, mean over N")
    ax = figure.add_subplot(right[1])
    draw_overflow(ax, numbers[numbers["panel"] == "overflow"])
    words = {"xlabel": "N, layers under the rule", "ylabel": "cosine"}
    style.panel_title(ax, "c", "uniform, unscaled, float32", **words)
    handles = [style.handle(look, **line(law)) for law, look in law_looks(part["law"]).items()]
    style.legend(figure, [*handles, style.handle(NAIVE_LOOK, linewidth=1.0)], (0.34, 0.205), ncols=3)
    safe = style.Look(style.INK, "o", "(c) safe cosine")
    cosines = [safe, style.opened(replace(safe, label="(c) naive cosine"))]
    more = {"ncols": 2, "columnspacing": 1.0, "handlelength": 2.0}
    style.legend(figure, [*map(style.solid, rules.values()), *cosines], (0.84, 0.205), **more)
    style.caption(figure, text)
    return figure


def law_looks(laws: pd.Series) -> dict[str, style.Look]:
    return style.looks((law for law in laws if law not in (LITERAL, NAIVE)), style.LAWS)


def line(law: str) -> dict[str, Any]:
    """The Gaussian shows below those that coincide with it."""
    return {"linewidth": 2.2 if law == "gaussian" else 0.9, "markersize": 3.5, "markeredgewidth": 0}


def draw_laws(ax: Axes, points: pd.DataFrame, filters: pd.DataFrame) -> None:
    for law, look in law_looks(points["law"]).items():
        for px in style.where(filters, law=law)["y"]:
            ax.axhline(px, color=look.colour, linewidth=0.7, linestyle=":", alpha=0.8, zorder=0)
        chosen = points[points["law"] == law]
        style.curve(ax, chosen["n"], chosen, look, band=0.12, **line(law))
    naive = points[points["law"] == NAIVE]
    look = NAIVE_LOOK if len(naive) > 1 else replace(NAIVE_LOOK, mark=style.LAWS[LITERAL].mark, filled=False)
    style.curve(ax, naive["n"], naive, look, linewidth=1.0, zorder=3)


def draw_differences(ax: Axes, points: pd.DataFrame) -> None:
    style.level(ax, axis="x")
    laws, rules = compared(points["law"]), style.looks(points["rule"])
    for i, (rule, look) in enumerate(rules.items()):
        chosen = points[points["rule"] == rule].set_index("law").reindex(laws)
        y = np.arange(len(laws)) + min(0.18, 0.8 / len(rules)) * (i - (len(rules) - 1) / 2)
        style.curve(ax, y, chosen, look, bars="x", linestyle="none", markersize=2.6)
    names = style.looks(laws, style.LAWS | {NAIVE: replace(NAIVE_LOOK, label="uniform, unscaled,\nnaive cosine")})
    ax.set_yticks(range(len(laws)), [names[law].label for law in laws], fontsize=6)
    ax.set_ylim(len(laws) - 0.5, -0.5)


def draw_overflow(ax: Axes, points: pd.DataFrame) -> None:
    for rule, rule_look in style.looks(points["rule"]).items():
        for law, look in ((LITERAL, style.solid(rule_look)), (NAIVE, style.opened(rule_look))):
            chosen = style.where(points, rule=rule, law=law)
            style.curve(ax, chosen["n"], chosen, look, markersize=2.6, linewidth=0.9)
    ax.set_ylim(-0.03, 1.0)
    if points["n"].nunique() == 1:
        ax.set_xticks(points["n"].unique())
