"""KIS (20) beyond Fig. 8: (a) S of each rule, (b) its AUROC, (c) what the AUROC of one rule hangs on, (d) the threshold
of the insertions, (e) what the two peaks are, (f) the decision's probability on R~, (g) what S adds to confidence."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import captions, scores, style
from pipeline.figures.scores import NAN
from pipeline.measures.gain import out_of_fold
from pipeline.measures.scores import LOW

FORMS = {  # sweep, a column that tells its cells apart, and what it is called
    "label": (None, "class: label"),
    "rescale": ("experiment.rescale", "map by {}"),
    "element": (None, "scores by channel"),
    "black": (None, "black for zero"),
}
KINDS = {
    "all": style.Look("#000000", "", "all", ":"),
    "stays": style.Look("#228833", "", "stays"),
    "changes": style.Look("#AA3377", "", "changes", "--"),
}
GAIN = {"without": "without S", "with": "with S"}
TEXT = """
Profile {profile}: {network}. (a) Density of S (20) over all images, starred weights of the new decision. (b) to (d)
AUROC of S for classified correctly, 95 % bootstrap over images; filled: starred weights of the new decision, open: of
the decision k on x. From (c) on: {rule}. (c) The explained class, the way a map becomes an image, and what an insertion
puts in place of what it removes. (d) Shares removed of the lowest scores. (e) S of (a), parted by whether the network
decides on R~ as on x; areas as the shares of images; V: 1 - valley / lower peak, with its interval. (f) The probability
of the decision when R~ is the input. (g) Cross-validated AUROC of logistic models of the margin and of whether the
decision stays (splines, 10 folds), without S and with it. Missing S: {missing}.
"""


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel a: density y of S at x, all images, series: rule; b: AUROC by rule and input; c: of one rule by form; d: by
    share x that an insertion removes; e: S of images whose decision stays or changes, densities times their shares, and
    V of all and of each; f: shares y of images by the probability x of k on R~; g: AUROC without S, with it, and their
    difference. measure, what, low, high, n: as in Fig. 8."""
    rows: list[list] = []
    for rule, table in tables["rules"].groupby("rule", sort=False):
        own = table[table["input"] == "attribution"]
        rows += scores.curve(["a", rule, "attribution", "s_own", "all"], own["s_own"].dropna().to_numpy())
        rows += both("b", rule, table)
    rule = tables["label"]["rule"].iloc[0]
    rows += both("c", "as in Fig. 8", tables["rules"][tables["rules"]["rule"] == rule])
    for sweep, (column, name) in FORMS.items():
        for value, table in tables[sweep].groupby(column) if column else [("", tables[sweep])]:
            rows += both("c", name.format(value), table)
    for share, table in tables["removed"].groupby("experiment.removed"):
        rows += [[*row[:5], float(share), *row[6:]] for row in both("d", rule, table)]
    shown = style.where(tables["rules"], rule=rule, input="attribution")
    return pd.DataFrame(rows + parted(shown) + kept(shown) + gained(shown), columns=scores.COLUMNS)


def parted(table: pd.DataFrame) -> list[list]:
    """Are the two peaks two kinds of decisions, those that stay and those that change?"""
    table = table.dropna(subset="s_own")
    stays, rows = table["decision_star"] == table["decision"], []
    for series, part in (("all", table), ("stays", table[stays]), ("changes", table[~stays])):
        labels, share = ["e", series, "attribution", "s_own"], len(part) / max(1, len(table))
        values = part["s_own"].to_numpy(dtype=float)
        rows += [[*row[:6], share * row[6], *row[7:]] for row in scores.curve([*labels, "density"], values)]
        rows += [row for row in scores.peaks(labels, values) if row[4] == "V"]
    return rows


def kept(table: pd.DataFrame) -> list[list]:
    """P(k | R~) of right and wrong decisions, as shares in 20 bins."""
    table, rows = table.dropna(subset=["probability_star", "correct"]), []
    for group, part in zip(style.OUTCOMES, (table[table["correct"]], table[~table["correct"]]), strict=True):
        counts, edges = np.histogram(part["probability_star"], bins=20, range=(0, 1))
        middles = (edges[1:] + edges[:-1]) / 2
        for x, count in zip(middles, counts, strict=True):
            share = count / max(1, len(part))
            rows.append(["f", group, "attribution", "probability", "share", x, share, NAN, NAN, len(part)])
    return rows


def gained(table: pd.DataFrame) -> list[list]:
    """What S adds to margin and stays-bit; nothing of few images."""
    rows = []
    for measure in scores.MEASURES:
        part = table.dropna(subset=[measure, "correct", "margin"])
        right = part["correct"].to_numpy(dtype=bool)
        if not scores.enough(right, np.ones(len(part), dtype=bool)):
            continue
        stays = (part["decision_star"] == part["decision"]).to_numpy()
        score, margin = (part[name].to_numpy(dtype=float) for name in (measure, "margin"))
        found = out_of_fold(score, right, margin, stays)
        labels = ["g", "all", "attribution", measure]
        for what, given in (
            ("without", {"score": found.without}),
            ("with", {"score": found.with_score}),
            ("gain", {"score": found.with_score, "less": found.without}),
        ):
            rows.append([*labels, what, NAN, *scores.compared(right=right, **given)])
    return rows


def both(panel: str, series: str, table: pd.DataFrame) -> list[list]:
    return [row for measure in scores.MEASURES for row in scores.aurocs(panel, series, table, measure)]


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    rules = tables["rules"]
    return captions.words(
        TEXT,
        tables,
        profile=profile,
        network=scores.network_text(rules),
        rule=style.rule_look(tables["label"]["rule"].iloc[0]).label,
        missing=scores.missing_text(rules),
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = style.page(7.6)
    sides = {"left": 0.14, "right": 0.985, "top": 0.965, "bottom": 0.23}
    grid = figure.add_gridspec(3, 3, **sides, hspace=0.5, wspace=0.62)
    panels = {panel: numbers[numbers["panel"] == panel] for panel in "abcdefg"}
    series = style.looks([*panels["a"]["series"], *panels["b"]["series"]])
    inputs = style.looks(panels["b"]["input"], style.INPUTS)
    draw_densities(figure.add_subplot(grid[0, :2]), panels["a"], series)
    rules = {rule: series[rule].label for rule in style.ordered(panels["b"]["series"])}
    draw_dots(figure.add_subplot(grid[0, 2]), panels["b"], rules, inputs)
    style.panel_title(figure.axes[-1], "b", "rules")
    forms = {form: form for form in panels["c"]["series"].unique()}
    draw_dots(figure.add_subplot(grid[1, 0]), panels["c"], forms, inputs)
    style.panel_title(figure.axes[-1], "c", "forms")
    draw_shares(figure.add_subplot(grid[1, 1:]), panels["d"])
    draw_parts(figure.add_subplot(grid[2, 0]), panels["e"])
    draw_kept(figure.add_subplot(grid[2, 1]), panels["f"])
    draw_gain(figure.add_subplot(grid[2, 2]), panels["g"])
    style.legend(figure, [*series.values(), *inputs.values()], (0.5, 0.175), ncols=5)
    style.caption(figure, text)
    return figure


def draw_densities(ax: Axes, part: pd.DataFrame, series: Mapping[str, style.Look]) -> None:
    for rule, points in part.groupby("series", sort=False):
        style.curve(ax, points["x"], points, series[rule], markevery=8)
    dense = part[part["y"] > 0.01 * part["y"].max()]
    style.level(ax, axis="x")
    ax.set(xlabel="S", ylabel="density", yticks=[], xlim=(max(LOW, dense["x"].min()) if len(dense) else LOW, 1.03))
    style.panel_title(ax, "a", "S of each rule's map, all images")


def draw_dots(ax: Axes, part: pd.DataFrame, names: Mapping[str, str], inputs: Mapping[str, style.Look]) -> None:
    """AUROC by series, a mark per input, filled for s_own and open for s_fixed."""
    places = {name: i for i, name in enumerate(names)}
    step = min(0.24, 0.72 / max(1, len(inputs)))
    for i, (name, look) in enumerate(inputs.items()):
        for measure, shift, drawn in (("s_own", -0.25, look), ("s_fixed", 0.25, style.opened(look, ""))):
            points = style.where(part, input=name, measure=measure)
            at = points["series"].map(places).astype(float) + step * (i - (len(inputs) - 1) / 2 + shift)
            style.curve(ax, at, points, drawn, bars="x", elinewidth=0.6)
    style.level(ax, 0.5, "x")
    ax.set_yticks(list(places.values()), list(names.values()))
    ax.invert_yaxis()
    ax.set(xlabel="AUROC")


def draw_shares(ax: Axes, part: pd.DataFrame) -> None:
    for name, look in style.looks(part["input"], style.INPUTS).items():
        for measure, drawn in (("s_own", style.solid(look)), ("s_fixed", style.opened(look, ":"))):
            points = style.where(part, input=name, measure=measure)
            style.curve(ax, points["x"], points, drawn, band=0.12, markeredgewidth=0.7)
    style.level(ax, 0.5)
    words = {"xlabel": "share of pixels that an insertion removes", "ylabel": "AUROC"}
    style.panel_title(ax, "d", "threshold of the insertions", **words)


def draw_parts(ax: Axes, part: pd.DataFrame) -> None:
    for series, look in KINDS.items():
        points = style.where(part, series=series, what="density")
        style.curve(ax, points["x"], points, look)
        for _, row in style.where(part, series=series, what="V").iterrows():
            place = 0.97 - 0.13 * [*KINDS].index(series)
            words = f"{look.label}: V {scores.interval_text(row)}"
            scores.note(ax, 0.02, place, words, transform=ax.transAxes, color=look.colour, fontsize=5.4)
    dense = part[part["what"] == "density"]
    low = dense.loc[dense["y"] > 0.01 * dense["y"].max(), "x"].min() if len(dense) else LOW
    style.level(ax, axis="x")
    top = 1.5 * dense["y"].max() if len(dense) else 1.0
    style.panel_title(ax, "e", "the two peaks", xlabel="S", yticks=[], xlim=(low, 1.03), ylim=(0, top))


def draw_kept(ax: Axes, part: pd.DataFrame) -> None:
    for group, look in style.OUTCOMES.items():
        points = part[part["series"] == group]
        ax.step(points["x"], points["y"], where="mid", color=look.colour, linestyle=look.line, label=look.label)
    ax.legend(fontsize=6, loc="upper center", handlelength=1.6)
    style.panel_title(ax, "f", r"$P(k\,|\,\tilde{R})$", xlabel="probability", ylabel="share of images")


def draw_gain(ax: Axes, part: pd.DataFrame) -> None:
    for shift, (measure, filled) in zip((-0.12, 0.12), (("s_own", True), ("s_fixed", False)), strict=True):
        points = part[(part["measure"] == measure) & part["what"].isin(GAIN)]
        at = points["what"].map([*GAIN].index).astype(float) + shift
        style.curve(ax, at, points, style.Look("#000000", "o", "", "", filled), bars="y")
        for _, row in style.where(part, measure=measure, what="gain").iterrows():
            words = f"{'filled' if filled else 'open'}: {row['y']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            scores.note(ax, 0.03, 0.97 - 0.13 * (not filled), words, transform=ax.transAxes)
    ax.set_xticks(range(len(GAIN)), [*GAIN.values()])
    low, high = (part["low"][part["what"] != "gain"].min(), part["high"][part["what"] != "gain"].max())
    limits = {"ylim": (low - 0.02, high + 0.4 * (high - low) + 0.02)} if np.isfinite([low, high]).all() else {}
    style.panel_title(ax, "g", "beyond confidence", ylabel="AUROC", xlim=(-0.5, len(GAIN) - 0.5), **limits)
