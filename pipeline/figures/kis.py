"""KIS (20) beyond Fig. 8: (a) S of each rule, (b) its AUROC, (c) what the AUROC of one rule hangs on, (d) the threshold
of the insertions."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import captions, scores, style
from pipeline.measures.scores import LOW

FORMS = {  # sweep, a column that tells its cells apart, and what it is called
    "label": (None, "class: label"),
    "rescale": ("experiment.rescale", "map by {}"),
    "element": (None, "scores by channel"),
    "black": (None, "black for zero"),
}
TEXT = """
Profile {profile}: {network}. (a) Density of S (20) over all images, starred weights of the new decision. (b) to (d)
AUROC of S for classified correctly, 95 % bootstrap over images; filled: starred weights of the new decision, open: of
the decision k on x. (c), (d): {rule}. (c) The explained class, the way a map becomes an image, and what an insertion
puts in place of what it removes. (d) Shares removed of the lowest scores. Missing S: {missing}.
"""


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel a: density y of S at x, all images, series: rule; b: AUROC by rule and input; c: of one rule by form; d: by
    share x that an insertion removes. measure, what, low, high, n: as in Fig. 8."""
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
    return pd.DataFrame(rows, columns=scores.COLUMNS)


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
    figure = style.page(5.6)
    sides = {"left": 0.14, "right": 0.985, "top": 0.95, "bottom": 0.235}
    grid = figure.add_gridspec(2, 3, **sides, hspace=0.42, wspace=0.62)
    panels = {panel: numbers[numbers["panel"] == panel] for panel in "abcd"}
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
    style.legend(figure, [*series.values(), *inputs.values()], (0.5, 0.165), ncols=5)
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
