"""The perplexing behaviours of Section III-C: (a) maps look like the image, (b) survive other weights, (c) and pass
tests by occlusion."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.figures import captions, style
from pipeline.measures.intervals import crossed_curve, crossed_mean

AGAINST = {"x": "image x", "filter": "P x", "edges": "edge map", "noise": "random map"}
PARTS = {"top": "top down", "bottom": "bottom up", "single": "layer l alone"}
LIKENESS = {"cosine": "cosine", "spearman": "rank correlation", "ssim": "SSIM"}
READINGS = {  # of a map as a score: the order, P x read alike, and what it is called
    "attribution": ("filter", "R"),
    "magnitude": ("filter_magnitude", "|R|"),
    "bottom": ("filter_bottom", "R+b"),
}
ORDERS = {  # of pixels, that no rule made
    "random": style.Look("#888888", "+", "random order", ":"),
    "edges": style.Look("#AA3377", "P", "edge map", "--"),
    "filter": style.Look("#997700", "*", "P x", "-."),
}
DIRECTIONS = ("deletion", "insertion")
MARGINS = {"random": 0.05, "edges": 0.02}  # by which a rule's area must be smaller to count as better
COLUMNS = ["panel", "state", "series", "rule", "x", "name", "y", "low", "high"]
TEXT = r"""
Profile {profile}. (a) {trained[model]}, {trained.images}; trained: {trained.weights}, random:
{random.weights}{random.weight_seeds}. P x = $W_1 W_1^T x$: the first layer's convolution and its transpose, of no
class. (b) {top[model]} ({top[weights.base]}), {top.images}, layers drawn anew{top.weight_seeds}{fewer}; maps of the
class that the unmodified network decides for. Likeness with that network's map (rank correlation and SSIM: of absolute
values); dotted: cosine of its map with its P x. As far as a map keeps to P x while $W_1$ is kept, the test is blind to
the layers above. cos(R, P x): both of the changed network. (c) {occlusion[model]} ({occlusion.weights}),
{occlusion.images}{missing}, explained class: {occlusion[explained]}. Paired by image they tell differences of areas to
{half}; a margin (dotted) is seen to be reached only by a difference that much above it, and to tell as little:
{needed} images. Highest score first, pixels are replaced by the {fill} (deletion) or come back (insertion):
probability of the class over that on x; the area under it; areas of other orders minus the rule's in deletion, positive
where the rule is better. A pixel's score: sum over channels of R without bottom process, of |R|, or of R with its
bottom process (R+b; GBP has none); P x in its place: P x, |P x|, x P x. Units off: share of the active ones that are
not without the first {units:.0%} of the pixels. 95 % intervals over images and weight seeds; (c): over images.
"""


def refuse(sweeps: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """It changes some layers of a trained network."""
    if any(cell.get("weights.depth") is None for part in PARTS for cell in sweeps[part]):
        return "figure=behaviours draws layers of a trained network anew and says itself which; leave weights=... out"
    return None


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: a (state; series: cosine, spearman; name: with what); b_top, b_bottom, b_single (series: one of LIKENESS
    with the unmodified network's map, px: cosine with P x, changed: share of decisions; x: layers drawn anew, or which
    one), b_start (cosine of the unmodified network's map with P x); c (state: one of READINGS, series: direction, rule:
    or one of ORDERS, x: share of the pixels), auc alike, units and gain (name: of ORDERS) of deletion; y with its
    interval."""
    rows = []
    for state in style.STATES:
        for (rule, against), part in tables[state].groupby(["rule", "against"]):
            for value in ("cosine", "spearman"):
                rows.append(crossed_mean(["a", state, value, rule, np.nan, against], part, value))
    for part in PARTS:
        rows += randomised(tables[part], part)
    for reading, by, part in read(tables["occlusion"]):
        for direction in DIRECTIONS:
            one, labels = part[part["direction"] == direction], [reading, direction, by]
            rows += crossed_curve(["c", *labels], long(one, direction), "y", by="x")
            rows.append(crossed_mean(["auc", *labels, np.nan, ""], one, "auc_normalised"))
            if direction == "deletion":
                rows.append(crossed_mean(["units", *labels, np.nan, ""], one, "units_off"))
    return pd.DataFrame([*rows, *gains(tables["occlusion"])], columns=COLUMNS)


def randomised(table: pd.DataFrame, part: str) -> list[list]:
    """(b) of one part of the network."""
    rows, before = [], style.where(table, against="original")
    near = style.where(table, against="filter")
    for (rule, depth), cell in before.groupby(["rule", "weights.depth"]):
        px = style.where(near, rule=rule, **{"weights.depth": depth})
        for value in LIKENESS:
            rows.append(crossed_mean([f"b_{part}", "trained", value, rule, depth, ""], cell, value))
        rows.append(crossed_mean([f"b_{part}", "trained", "px", rule, depth, ""], px, "cosine"))
        if depth == 0 and part == "top":
            rows.append(crossed_mean(["b_start", "trained", "px", rule, depth, ""], px, "cosine"))
    for depth, cell in before.drop_duplicates(["image", "seed", "weights.depth"]).groupby("weights.depth"):
        rows.append(crossed_mean([f"b_{part}", "trained", "changed", "", depth, ""], cell, "decision_changes"))
    return rows


def read(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(reading, rule or one of ORDERS, rows): ORDERS are the same in every rule's table."""
    for reading, (px, _) in READINGS.items():
        part = table[table["order"].isin([reading, "random", "edges", px])].dropna(subset="auc")
        own = part["order"] == reading
        named = part.assign(by=part["rule"].where(own, part["order"].replace(px, "filter")))
        others = named[~own].drop_duplicates(["image", "seed", "direction", "by"])
        for by, one in pd.concat([named[own], others]).groupby("by"):
            yield reading, str(by), one


def long(part: pd.DataFrame, direction: str) -> pd.DataFrame:
    """A row per image and share of the pixels (x): y, the probability over that on x."""
    columns = sorted((name for name in part if name.startswith("p_")), key=lambda name: int(name[2:]))
    whole = part[columns[0 if direction == "deletion" else -1]]
    parts = [part.assign(x=i / (len(columns) - 1), y=part[p] / whole, name="") for i, p in enumerate(columns)]
    return pd.concat([one[["image", "seed", "x", "name", "y"]] for one in parts])


def gains(table: pd.DataFrame) -> list[list]:
    """How much larger the area under another order's deletion is than under the rule's."""
    rows, keys = [], ["image", "seed"]
    deletion = table[table["direction"] == "deletion"]
    for reading in READINGS:
        areas = {by: part.set_index(keys)["auc_normalised"] for at, by, part in read(deletion) if at == reading}
        for rule in (by for by in areas if by not in ORDERS):
            for order in (order for order in ORDERS if order in areas):
                gain = (areas[order] - areas[rule]).dropna().reset_index()
                labels = ["gain", reading, "deletion", rule, np.nan, order]
                rows += [crossed_mean(labels, gain, "auc_normalised")] if len(gain) else []
    return rows


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    table, fewer = tables["occlusion"], captions.seeds_text(tables["single"], "")
    found = pd.DataFrame(gains(table), columns=COLUMNS)
    half = ((found["high"] - found["low"]) / 2).groupby(found["name"]).agg(["min", "max"])
    images = {k: table["image"].nunique() * (half["max"][k] / v) ** 2 for k, v in MARGINS.items() if k in half.index}
    own = table[(table["order"] == "attribution") & (table["direction"] == "deletion") & table["auc"].isna()]
    missing = ", ".join(
        f"{count} of {style.rule_look(rule).label}" for rule, count in own.groupby("rule").size().items()
    )
    return captions.words(
        TEXT,
        tables,
        profile=profile,
        fewer="" if fewer == captions.seeds_text(tables["top"], "") else f"; bottom up and alone {fewer}",
        missing=f" (maps that are not there: {missing})" if missing else "",
        fill={"mean": "zero of normalised space", "blur": "blurred image"}[table["experiment.fill"].iloc[0]],
        units=table["experiment.units_share"].iloc[0],
        half=", ".join(f"±{low:.2f} to {high:.2f} ({ORDERS[k].label})" for k, low, high in half.itertuples()),
        needed=", ".join(f"{MARGINS[k]:g} ({ORDERS[k].label}) takes up to {n:,.0f}" for k, n in images.items()),
    )


# ---- pictures --------------------------------------------------------------------------------------------------------


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = style.page(9.3)
    place = {"left": 0.07, "right": 0.99}
    rules = style.looks(numbers.loc[numbers["panel"] == "a", "rule"])
    orders = style.looks(numbers.loc[numbers["panel"] == "auc", "rule"], rules | ORDERS)
    top = figure.add_gridspec(1, 2, **place, top=0.975, bottom=0.86, wspace=0.08).subplots(sharey=True)
    for ax, value, title in zip(
        top, ("cosine", "spearman"), ("cosine", "rank correlation, absolute values"), strict=True
    ):
        draw_against(ax, style.where(numbers, panel="a", series=value), rules)
        style.panel_title(ax, "a" if ax is top[0] else "", title)
    style.legend(figure, [*map(style.solid, rules.values()), *style.STATES.values()], (0.53, 0.84), ncols=8)
    grid = figure.add_gridspec(3, 5, **place, top=0.785, bottom=0.43, wspace=0.1, hspace=0.42)
    draw_randomised(grid.subplots(sharey=True), numbers, rules)
    place = {"top": 0.375, "bottom": 0.185, "hspace": 0.42}
    grid = figure.add_gridspec(2, 3, left=0.07, right=0.5, **place, wspace=0.1)
    draw_curves(grid.subplots(sharex=True, sharey=True), style.where(numbers, panel="c"), orders)
    grid = figure.add_gridspec(2, 3, left=0.555, right=0.99, **place, wspace=0.4)
    draw_areas(grid.subplots(sharex=True), numbers, orders)
    style.legend(figure, orders.values(), (0.53, 0.153), ncols=7)
    style.caption(figure, text)
    return figure


def draw_against(ax: Axes, part: pd.DataFrame, rules: Mapping[str, style.Look]) -> None:
    """What the map is compared with from left to right, a mark per rule and state."""
    shifts = np.linspace(-0.3, 0.3, 2 * len(rules))
    marks = [(rule, state) for rule in rules for state in style.STATES]
    for shift, (rule, state) in zip(shifts, marks, strict=True):
        points = style.where(part, rule=rule, state=state).set_index("name").reindex([*AGAINST])
        look = replace(rules[rule], line="", filled=style.STATES[state].filled)
        style.curve(ax, np.arange(len(points)) + shift, points, look, bars="y", markersize=3.5)
    ax.set_xticks(range(len(AGAINST)), [*AGAINST.values()])
    style.level(ax)


def draw_randomised(axes: np.ndarray, numbers: pd.DataFrame, rules: Mapping[str, style.Look]) -> None:
    """A line per part of the network, a column per measure."""
    titles = {**LIKENESS, "changed": "changed decisions", "px": "cos(R, P x)"}
    starts = style.where(numbers, panel="b_start")
    low = min(-0.12, numbers.loc[numbers["panel"].str.startswith("b_"), "y"].min() - 0.03)
    for (row, column), ax in np.ndenumerate(axes):
        part, series = [*PARTS][row], [*titles][column]
        points = style.where(numbers, panel=f"b_{part}", series=series).sort_values("x")
        for rule, look in (rules if series != "changed" else {"": style.Look(style.INK, "o")}).items():
            one = points[points["rule"] == rule]
            style.curve(ax, one["x"], one, look, band=0.12, markersize=2.5, linewidth=0.9)
        for rule, y in zip(starts["rule"], starts["y"], strict=True) if series == "cosine" else ():
            ax.axhline(y, color=rules[rule].colour, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=0)
        label = "layer l" if part == "single" else "layers drawn anew"
        words = {"ylabel": PARTS[part] if column == 0 else "", "xlabel": label if column == 2 else ""}
        title = titles[series] if row == 0 else ""
        style.panel_title(ax, "b" if (row, column) == (0, 0) else "", title, ylim=(low, 1.05), **words)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        style.level(ax)


def draw_curves(axes: np.ndarray, part: pd.DataFrame, orders: Mapping[str, style.Look]) -> None:
    """A line per direction, a column per reading."""
    for (row, column), ax in np.ndenumerate(axes):
        direction, (reading, (_, label)) = DIRECTIONS[row], [*READINGS.items()][column]
        for order, look in orders.items():
            points = style.where(part, state=reading, series=direction, rule=order).sort_values("x")
            every = max(1, len(points) // 5)
            style.curve(ax, points["x"], points, look, band=0.08, markersize=3, linewidth=0.9, markevery=every)
        words = {
            "ylabel": direction if column == 0 else "",
            "xlabel": "share of pixels" if (row, column) == (1, 1) else "",
        }
        style.panel_title(ax, "c" if (row, column) == (0, 0) else "", label if row == 0 else "", **words)
        style.level(ax)


def draw_areas(axes: np.ndarray, numbers: pd.DataFrame, orders: Mapping[str, style.Look]) -> None:
    """A place per reading, a mark per order."""
    areas, gain = (numbers[numbers["panel"] == panel] for panel in ("auc", "gain"))
    panels = [
        ("area, deletion", areas[areas["series"] == "deletion"], ""),
        ("random - rule", gain[gain["name"] == "random"], "random"),
        ("edges - rule", gain[gain["name"] == "edges"], "edges"),
        ("area, insertion", areas[areas["series"] == "insertion"], ""),
        ("P x - rule", gain[gain["name"] == "filter"], "filter"),
        ("units off", numbers[numbers["panel"] == "units"], ""),
    ]
    for ax, (title, part, other) in zip(axes.flat, panels, strict=True):
        shown = {order: look for order, look in orders.items() if not other or order not in ORDERS}
        for shift, (order, look) in zip(np.linspace(-0.33, 0.33, len(shown)), shown.items(), strict=True):
            points = part[part["rule"] == order].set_index("state").reindex([*READINGS])
            style.curve(ax, np.arange(len(points)) + shift, points, replace(look, line=""), bars="y", markersize=3)
        if other in MARGINS:
            style.level(ax, MARGINS[other], line=":")
        ax.set_xticks(range(len(READINGS)), [label for _, label in READINGS.values()], fontsize=6)
        style.panel_title(ax, "", title)
        style.level(ax)
