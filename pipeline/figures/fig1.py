"""Fig. 1: the geometry of Theorem 1, eight neurons in the plane."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import captions, style

INACTIVE, POSITIVE, NEGATIVE, INPUT = "#CFE3F2", "#0072B2", "#D55E00", "#000000"
SUMS = {  # name in the table -> label, colour, line style
    "R_+": (r"$R_+$ = NFR", POSITIVE, "-"),
    "R_-": (r"$R_-$", NEGATIVE, "-"),
    "R": (r"$R$", style.INK, "--"),
}
LIMIT = 1.45  # of the axes of (a) to (c)
TEXT = """
One network of {neurons} neurons, computed; no images, the same in every profile (here {profile}). (a) Weights. (b)
The input x; neurons in the blue half-plane have a negative pre-activation. (c) The {active} neurons that stay. (d)
Times what comes back, r: R+ and R- are the sums over r > 0 and r < 0, the gradient is R = R+ + R-, a negative filter
(GBP) returns R+. Numbers: alignment with x. Seed chosen for legibility; over other networks of this law the mean
alignment with x is {nfr:.2f} for NFR and {gradient:.2f} for R, and NFR aligns better in {better:.0f} % of them.
"""


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every vector drawn: kind, name, u, v, r, mask, alignment; for sums also the average over other networks."""
    columns = ["kind", "name", "u", "v", "activation", "mask", "r", "alignment", "alignment_mean", "better"]
    return tables["plane"][columns]


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    table = tables["plane"]
    weights = table["kind"] == "weight"
    sums = table[table["kind"] == "sum"].set_index("name")
    return captions.words(
        TEXT,
        tables,
        profile=profile,
        neurons=weights.sum(),
        active=(weights & table["mask"].eq(True)).sum(),
        nfr=sums.loc["NFR", "alignment_mean"],
        gradient=round(sums.loc["R", "alignment_mean"], 2) + 0.0,  # no minus before a zero
        better=100 * sums.loc["NFR", "better"],
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    place = {"left": 0.01, "right": 0.99, "top": 0.9, "bottom": 0.22, "wspace": 0.06}
    figure, axes = plt.subplots(1, 4, figsize=(style.DOUBLE, 2.45), gridspec_kw=place)
    x = numbers[numbers["kind"] == "input"].iloc[0]
    weights, sums = (numbers[numbers["kind"] == kind] for kind in ("weight", "sum"))
    parts = numbers[(numbers["kind"] == "contribution") & numbers["mask"].eq(True)]
    for ax, letter, title in zip(axes, "abcd", ("weights", "activation", "masked", "backward"), strict=True):
        ax.set(xticks=[], yticks=[], xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal")
        style.panel_title(ax, letter, title)
        ax.spines[:].set_visible(False)
        for line in (ax.axhline, ax.axvline):
            line(0, color="#DDDDDD", linewidth=0.5, zorder=0)
    for ax in axes[1:3]:
        half_plane(ax, x, LIMIT)
    for _, w in weights.iterrows():
        label = f"${w['name']}$"
        arrow(axes[0], w, style.INK, label=label)
        arrow(axes[1], w, style.INK if w["mask"] else "#8AA0B2", label=label)
        if w["mask"]:
            arrow(axes[2], w, style.INK, label=label)
    draw_sums(axes[3], x, parts, sums)
    for ax in axes[1:3]:
        arrow(ax, x, INPUT, width=1.6, label=r"$\mathbf{x}$")
    style.caption(figure, text)
    return figure


def draw_sums(ax: Axes, x: pd.Series, parts: pd.DataFrame, sums: pd.DataFrame) -> None:
    drawn = pd.concat([parts, sums])[["u", "v"]].to_numpy()
    reach = max(1.7, 1.25 * np.abs(drawn).max())
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
    half_plane(ax, x, reach)
    for _, part in parts.iterrows():
        arrow(ax, part, POSITIVE if part["r"] > 0 else NEGATIVE, width=0.6, alpha=0.7)
    for name, (label, colour, line) in SUMS.items():
        row = sums[sums["name"] == name].iloc[0]
        note = f"{row['alignment']:+.2f}"
        arrow(ax, row, colour, width=1.7, line=line, label=label, note=note, reach=reach)
    arrow(ax, x, INPUT, width=1.6, label=r"$\mathbf{x}$", reach=reach)


def half_plane(ax: Axes, x: pd.Series, reach: float) -> None:
    """Where <w, x> < 0."""
    u = np.array([x["u"], x["v"]]) / np.hypot(x["u"], x["v"])
    across = np.array([-u[1], u[0]])
    corners = 3 * reach * np.array([across, across - u, -across - u, -across])
    ax.fill(corners[:, 0], corners[:, 1], color=INACTIVE, linewidth=0, zorder=-2)
    edge = 3 * reach * np.array([across, -across])
    ax.plot(edge[:, 0], edge[:, 1], color="#5B8DB3", linewidth=0.6, linestyle=":", zorder=-1)


def arrow(
    ax: Axes,
    at: pd.Series,
    colour: str,
    width: float = 1.0,
    line: str = "-",
    alpha: float = 1.0,
    label: str = "",
    note: str = "",
    reach: float = LIMIT,
) -> None:
    """From the origin to (u, v), the label beyond its tip."""
    tip = np.array([at["u"], at["v"]], dtype=float)
    head = {"arrowstyle": "-|>,head_width=0.16,head_length=0.32", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
    shaft = {"color": colour, "linewidth": width, "linestyle": line, "alpha": alpha}
    ax.annotate("", tip, (0, 0), arrowprops=head | shaft)
    if label:
        unit = tip / np.hypot(*tip)
        u, v = tip + reach * unit * (0.15 + 0.12 * abs(unit[0]) if note else 0.12)  # a number is wide
        words = f"{label}\n{note}" if note else label
        ax.text(u, v, words, color=colour, fontsize=7, ha="center", va="center", linespacing=0.95)
