"""One look for all figures: an IEEE page's widths, a Look per rule, law and state; curves, legends and pages."""

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.measures.tables import where as where

SINGLE, DOUBLE = 3.5, 7.16  # column widths in inches
INK = "#444444"  # of legends that speak of a line or a mark alone


@dataclass(frozen=True)
class Look:
    """How one series is drawn, and what a legend calls it; a mark that is not filled is white inside."""

    colour: str
    mark: str | tuple[int, int, int] = ""
    label: str = ""
    line: str | tuple[int, tuple[float, ...]] = "-"
    filled: bool = True


# Okabe and Ito's colours, told apart by colour-blind readers; marks tell them apart in grey. Relatives of a rule have
# its colour, and a line and a mark of their own.
RULES = {
    "grad": Look("#000000", "x", "Gradient"),
    "gbp": Look("#0072B2", "o", "GBP"),
    "deconvnet": Look("#0072B2", "H", "DeconvNet", "--"),
    "rectgrad": Look("#D55E00", "s", "RectGrad"),
    "lrp": Look("#009E73", "^", r"LRP ($z^+$)"),
    "lrp_epsilon": Look("#009E73", "1", r"LRP-$\varepsilon$", ":"),
    "lrp_alphabeta": Look("#009E73", "2", r"LRP-$\alpha\beta$", "--"),
    "lrp_gamma": Look("#009E73", "4", r"LRP-$\gamma$", (0, (4, 1, 1, 1))),
    "wplus": Look("#009E73", "+", r"$W^+ M r$", (0, (1, 1))),
    "excitation_bp": Look("#009E73", "3", "Excitation BP", "-."),
    "dtd": Look("#56B4E9", "v", "DTD"),
    "activation": Look("#CC79A7", "D", "Activation"),
}
OTHERS = (  # greys with stars of 4, 6, 3 and 8 rays
    ("#666666", (4, 1, 0), "-."),
    ("#999999", (6, 2, 0), ":"),
    ("#333333", (3, 1, 0), "--"),
    ("#808080", (8, 2, 0), "-."),
)

STATES = {"random": Look(INK, "o", "random"), "trained": Look("#E69F00", "s", "trained", "--", False)}
NULL_LABELS = {
    "mosaic": "mosaic",
    "mean_colour": "mean colour",
    "edges": "edge map",
    "noise": "random map",
    "other": "other image",
    "blur": "blur",
}

# Laws of the weights: Tol's muted colours and marks that no rule has, for curves of laws stand beside curves of rules.
LAWS = {
    "gaussian": Look("#332288", "*", "Gaussian"),  # from here to uniform_literal: E[w w'] = c I
    "ring": Look("#44AA99", "P", "ring"),
    "heavy_tailed": Look("#117733", "p", "heavy-tailed"),
    "uniform": Look("#CC6677", ">", "uniform"),
    "uniform_literal": Look("#882255", "8", "uniform, unscaled"),
    "anisotropic": Look("#999933", "d", "anisotropic"),
    "uniform01": Look("#AA4499", "<", "uniform [0, 1]"),
    "removal": Look("#661100", "X", "removal"),
    "thinned": Look("#6699CC", "h", "random removal"),
}

# Where propagation starts in Fig. 6: Tol's high-contrast colours, which keep apart in grey.
PARTS = {
    "all": Look("#000000", "o", "all units"),
    "max": Look("#BB5566", "^", "max (largest)"),
    "min": Look("#004488", "v", "min (smallest)"),
    "random": Look("#888888", "x", "random", ":"),
    "constant_max": Look("#BB5566", "^", "1 on max", (0, (1, 1.5)), False),
    "constant_min": Look("#004488", "v", "1 on min", (0, (1, 1.5)), False),
    "noise": Look("#009988", "+", "noise", "-."),
    "other": Look("#EE7733", "1", "other image", "-."),
}

# Decisions in Fig. 8.
OUTCOMES = {"correct": Look("#228833", "", "correct"), "incorrect": Look("#AA3377", "", "incorrect", "--")}
INPUT_LABELS = {  # what the network is given in x's place
    "attribution": "attribution",
    "insertion": "insertion",
    "insertion_magnitude": "insertion by magnitude",
    "edge": "edge map",
    "noise": "random map",
    "blur": "blurred x",
    "filter": "first layer's filter of x",
    "other": "another image's map",
    "runner_up": "runner-up class's map",
    "random_network": "random network's map",
}
INPUTS = {
    name: Look(colour, mark, INPUT_LABELS[name], "")
    for name, colour, mark in (
        ("attribution", "#000000", "o"),
        ("insertion", "#66CCEE", "v"),
        ("insertion_magnitude", "#EE6677", "^"),
    )
}


def use_style() -> None:
    matplotlib.use("Agg")
    sizes = {"axes.labelsize": 8, "axes.titlesize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7}
    ticks = {f"{axis}tick.major.{what}": value for axis in "xy" for what, value in (("width", 0.6), ("size", 2.5))}
    rest = {
        "font.size": 8, "axes.linewidth": 0.6, "lines.linewidth": 1.1, "lines.markersize": 3, "legend.frameon": False,
        "pdf.fonttype": 42, "ps.fonttype": 42, "figure.dpi": 100, "savefig.dpi": 200, "mathtext.fontset": "dejavusans",
        "svg.hashsalt": "pipeline",
    }  # fmt: skip
    sns.set_theme(context="paper", style="ticks", font="DejaVu Sans", rc={**sizes, **ticks, **rest})


# ---- looks -----------------------------------------------------------------------------------------------------------


def ordered(names: Iterable[Any], known: Iterable[str] = RULES) -> list[str]:
    """The different names: first the known ones in their order, then the others in the order given."""
    given = list(dict.fromkeys(map(str, names)))
    first = [name for name in known if name in given]
    return first + [name for name in given if name not in first]


def looks(names: Iterable[Any], known: Mapping[str, Look] = RULES) -> dict[str, Look]:
    """The names in their order (ordered) with their looks; those not known go by their names, in different greys."""
    found = ordered(names, known)
    strange = [name for name in found if name not in known]
    greys = {name: Look(colour, mark, name, line) for name, (colour, mark, line) in zip(strange, cycle(OTHERS))}
    return {name: known.get(name) or greys[name] for name in found}


def by_colour(series: Mapping[str, Look]) -> dict[str, Look]:
    """The same series told apart by colour alone: relatives of a rule in lighter tones of its colour."""
    found: dict[str, Look] = {}
    for name, look in series.items():
        shade = 0.55 ** [series[other].colour for other in found].count(look.colour)
        found[name] = replace(look, colour=to_hex([1 - shade * (1 - c) for c in to_rgb(look.colour)], keep_alpha=False))
    return found


def rule_look(rule: str) -> Look:
    """The look of a rule that stands alone; of several, some of them strange: looks(rules)."""
    return looks([rule])[rule]


def opened(look: Look, line: str = "--") -> Look:
    """The same series in another state: white inside, another line."""
    return replace(look, line=line, filled=False)


def drawn(look: Look) -> dict[str, Any]:
    """A look in matplotlib's words."""
    return {
        "color": look.colour,
        "marker": look.mark,
        "linestyle": look.line or "none",
        "markerfacecolor": look.colour if look.filled else "white",
        "markeredgewidth": 0.6,
    }


def curve(ax: Axes, at: Any, points: pd.DataFrame, look: Look, band: float = 0, bars: str = "", **more: Any) -> None:
    """One series: points' y over `at` (a column, or places). band: opacity of the band from low to high; bars: the axis
    ("x", "y") along which values and error bars lie. A single point has a bar for a band. more: for matplotlib."""
    given = drawn(look) | more
    if band and len(points) == 1:
        bars = "y"
    elif band:
        ax.fill_between(at, points["low"], points["high"], color=look.colour, alpha=band, linewidth=0)
    if bars == "x":
        ax.errorbar(points["y"], at, xerr=error_bars(points), **{"elinewidth": 0.7, **given})
    elif bars:
        ax.errorbar(at, points["y"], error_bars(points), **{"elinewidth": 0.7, **given})
    else:
        ax.plot(at, points["y"], **given)


def error_bars(points: pd.DataFrame) -> np.ndarray:
    """(2, n): from y down to low and up to high; 0 where rounding puts y outside, for matplotlib refuses less."""
    return np.clip([points["y"] - points["low"], points["high"] - points["y"]], 0, None)


def handle(look: Look, **more: Any) -> Line2D:
    """The entry of a legend."""
    return Line2D([], [], label=look.label, **{**drawn(look), **more})


# ---- pages -----------------------------------------------------------------------------------------------------------


def page(height: float) -> Figure:
    """An empty figure as wide as both columns; height in inches."""
    return plt.figure(figsize=(DOUBLE, height))


def panel_title(ax: Axes, letter: str, text: str, pad: float = 4, **more: Any) -> None:
    """The title of a panel without a frame; more: its labels and limits, for ax.set."""
    ax.set_title(f"({letter}) {text}" if letter else text, loc="left", pad=pad)
    ax.set(**more)
    sns.despine(ax=ax)


def legend(on: Figure | Axes, entries: Iterable[Look | Line2D], at: tuple[float, float], **more: Any) -> None:
    """A legend centred below the point `at` of a figure or of axes."""
    handles = [handle(entry) if isinstance(entry, Look) else entry for entry in entries]
    place = {"loc": "upper center", "bbox_to_anchor": at, "columnspacing": 1.2, "handlelength": 2.2}
    on.legend(handles=handles, **place | more)


def solid(look: Look) -> Look:
    """The entry of a rule, whose lines say something else."""
    return replace(look, line="-")


def layer_ticks(ax: Axes, layers: pd.DataFrame, at: str) -> None:
    """The names of layers (column name) upright at their places (column `at`)."""
    names = layers.drop_duplicates(at).sort_values(at)
    ax.set_xticks(names[at], names["name"], rotation=90, fontsize=6)


def labels_at_right(ax: Axes, values: dict[str, float], colour: str, gap: float = 0.043) -> None:
    """Texts at the right end of horizontal lines, moved apart where they overlap; gap: least share of the axis."""
    low, high = ax.get_ylim()
    at = -1.0
    share = {"xycoords": "axes fraction", "textcoords": "axes fraction"}
    for text, value in sorted(values.items(), key=lambda item: item[1]):
        place = (value - low) / (high - low)
        at = max(place, at + gap)
        ax.annotate(text, (1.0, place), (1.02, at), **share, va="center", fontsize=6, color=colour)


def level(ax: Axes, value: float = 0, axis: str = "y", line: str = "-") -> None:
    """A thin line across the axes where `axis` has this value."""
    draw = ax.axhline if axis == "y" else ax.axvline
    draw(value, color="#888888", linewidth=0.5, linestyle=line, zorder=0)


def caption(figure: Figure, text: str, y: float = 0.008) -> None:
    """A small text below everything, in lines as long as the page is wide; a formula stays on one."""
    whole = re.sub(r"\$[^$]*\$", lambda formula: formula[0].replace(" ", "\xa0"), text)
    drawn = figure.text(0.01, y, "", fontsize=5.8, color="#333333", va="bottom", ha="left")
    for width in range(168, 120, -2):
        drawn.set_text(textwrap.fill(whole, width).replace("\xa0", " "))
        if drawn.get_window_extent().x1 < 0.995 * figure.bbox.width:
            return


def save(figure: Figure, path: Path, text: str) -> None:
    """The same file from the same table: no date in it; its caption is among its metadata."""
    about = {".pdf": {"CreationDate": None, "Subject": text}, ".svg": {"Date": None, "Description": text}}
    figure.savefig(path, metadata=about.get(path.suffix, {"Description": text}))


def close(figure: Figure) -> None:
    plt.close(figure)
