"""LRP-gamma from the gradient to z+, GBP and RectGrad beside it: (a) what alignment gains, and whether numerator or
norm brings it; (b) alignment; (c) condition (13); (d) how far a map hangs on the class and on the top layers."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import captions, style
from pipeline.measures.intervals import crossed_mean

STATES = style.STATES | {"unbiased": style.Look("#0072B2", "^", "trained, biases 0", "-.")}
PARTS = {  # of log alignment
    "alignment": style.Look("#000000", "o", r"$\alpha$: their sum"),
    "numerator": style.Look("#004488", "^", r"numerator $\langle R, x \rangle$", "--"),
    "norm": style.Look("#BB5566", "v", r"$1 / |R|$", ":"),
}
SIMILAR = {
    "classes": style.Look("#000000", "o", "map of the runner-up class"),
    "drawn": style.Look("#E69F00", "s", "map before the top layers were drawn anew", "--", False),
}
COLUMNS = ["panel", "state", "series", "x", "name", "y", "low", "high"]
TEXT = r"""
Profile {profile}: {trained[model]}, {trained.images}, without bottom process. Trained: {trained.weights}, with its
biases and without; random: {random.weights}{random.weight_seeds}. $\gamma=0$ is the gradient's direction, infinity
the $z^+$ rule (biases count in the sums that share relevance). (a) Factors of $\alpha=\langle{{R,x}}\rangle/(|R||x|)$
over those at $\gamma=0$ (GBP, RectGrad: over the gradient's), in decades. Without biases every $\gamma$ has the
same numerator, so that condition (13), which speaks of numerators, can't be what aligns LRP. (c) Both sides of (13) in
each layer, (left - right) / (|A| (|F r| + |W M r|)), mean over layers. (d) Trained: cosine of the map with the
runner-up class's; with the top {drawn[weights.depth]} layers drawn anew ({drawn_seeds}): with the map before, of the
same class. Means with 95 % intervals over images and weight seeds.
"""


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: a (series: alignment, numerator, norm; y in decades), b (alignment), c (margin of (13)), d (series:
    classes, drawn; cosine); state; x: the place of a gamma, or of a rule beside them, and its name; y with its
    interval."""
    rows = []
    for state in STATES:
        for x, name, part, reference in places(tables, state):
            for series, y in factors(part, reference).items():
                rows.append(crossed_mean(["a", state, series, x, name], part.assign(y=y), "y"))
            rows.append(crossed_mean(["b", state, "alignment", x, name], part, "alignment"))
    for state in ("trained", "unbiased"):
        for x, name, part, _ in places(tables, f"nfr_{state}"):
            each = part.groupby(["image", "seed"], as_index=False)["margin"].mean()
            rows.append(crossed_mean(["c", state, "margin", x, name], each, "margin"))
    for sweep in SIMILAR:
        for x, name, part, _ in places(tables, sweep):
            rows.append(crossed_mean(["d", "trained", sweep, x, name], part, "cosine"))
    return pd.DataFrame(rows, columns=COLUMNS)


def places(
    tables: Mapping[str, pd.DataFrame], sweep: str
) -> Iterable[tuple[float, str, pd.DataFrame, pd.DataFrame | None]]:
    """(x, name, rows, rows of what they are compared with) of each gamma, and of each rule beside them."""
    along, others = tables[sweep], tables[f"{sweep}_rules"]
    gammas = sorted(along["rule.gamma"].unique())
    for x, gamma in enumerate(gammas):
        name = r"$\infty$" if gamma == np.inf else f"{gamma:g}"
        yield x, name, along[along["rule.gamma"] == gamma], along[along["rule.gamma"] == gammas[0]]
    rules = style.looks(rule for rule in others["rule"] if rule != "grad")
    for x, (rule, look) in enumerate(rules.items(), start=len(gammas)):
        yield x + 0.5, look.label, others[others["rule"] == rule], others[others["rule"] == "grad"]


def factors(part: pd.DataFrame, reference: pd.DataFrame) -> dict[str, pd.Series]:
    """log10 of each factor over that of the reference, on the rows of `part`."""
    columns = ["log_numerator", "log_norm"]
    other = part[["image", "seed"]].merge(reference[["image", "seed", *columns]], how="left", on=["image", "seed"])
    gain = (part[columns] - other[columns].set_index(part.index)) / np.log(10)
    return {
        "alignment": gain["log_numerator"] - gain["log_norm"],
        "numerator": gain["log_numerator"],
        "norm": -gain["log_norm"],
    }


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    return captions.words(TEXT, tables, profile=profile, drawn_seeds=captions.seeds_text(tables["drawn"], ""))


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = style.page(5.3)
    place = {"left": 0.065, "right": 0.985, "wspace": 0.22}
    top = figure.add_gridspec(1, 3, **place, top=0.95, bottom=0.69).subplots(sharey=True)
    for ax, (state, look) in zip(top, STATES.items(), strict=True):
        part = style.where(numbers, panel="a", state=state)
        for series, series_look in PARTS.items():
            draw_series(ax, part[part["series"] == series], series_look)
        words = {"ylabel": "gain, decades" if ax is top[0] else ""}
        style.panel_title(ax, "a" if ax is top[0] else "", look.label, **words)
    style.legend(figure, PARTS.values(), (0.52, 0.605), ncols=3)
    bottom = figure.add_gridspec(1, 3, **place, top=0.52, bottom=0.29).subplots()
    for ax, panel, title in (
        (bottom[0], "b", r"alignment $\alpha(R, x)$"),
        (bottom[1], "c", "margin of condition (13)"),
    ):
        for state, look in STATES.items():
            draw_series(ax, style.where(numbers, panel=panel, state=state), look)
        style.panel_title(ax, panel, title)
    for series, look in SIMILAR.items():
        draw_series(bottom[2], style.where(numbers, panel="d", series=series), look)
    style.panel_title(bottom[2], "d", "cosine with another map", ylim=(-1.05, 1.05))
    names = style.where(numbers, panel="b").drop_duplicates("x").sort_values("x")
    for ax in (*top, *bottom):
        ax.set_xticks(names["x"], names["name"], rotation=90, fontsize=6)
        ax.text(-0.02, -0.06, r"$\gamma$:", transform=ax.transAxes, ha="right", va="top", fontsize=7)
        style.level(ax)
    style.legend(figure, STATES.values(), (0.34, 0.205), ncols=3, fontsize=6.5)
    style.legend(figure, SIMILAR.values(), (0.84, 0.205), ncols=1, fontsize=6)
    style.caption(figure, text)
    return figure


def draw_series(ax: Axes, points: pd.DataFrame, look: style.Look) -> None:
    """A line along gamma, and single marks for the rules beside it."""
    points = points.sort_values("x")
    line = points["x"] % 1 == 0
    style.curve(ax, points.loc[line, "x"], points[line], look, band=0.12, markersize=2.5)
    style.curve(ax, points.loc[~line, "x"], points[~line], replace(look, line=""), bars="y", markersize=3.5)
