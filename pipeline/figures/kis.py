"""KIS (20) beyond Fig. 8: (a) S of each rule, (b) its AUROC, (c) what the AUROC of GBP hangs on, (d) the threshold of the insertions."""

from collections.abc import Mapping

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import scores, style
from pipeline.measures.scores import LOW

FORMS = {  # sweep, a column that tells its cells apart, and what it is called
    "label": (None, "class: label"),
    "rescale": ("experiment.rescale", "map by {}"),
    "element": (None, "scores by channel"),
    "black": (None, "black for zero"),
}


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel a: density y of S at x, all images, series: rule; b: AUROC by rule and input; c: of GBP by form; d: by share x that an insertion removes.
    measure, what, low, high, n: as in Fig. 8."""
    rows: list[list] = []
    for rule, table in tables["rules"].groupby("rule", sort=False):
        own = table[table["input"] == "attribution"]
        rows += scores.curve(["a", rule, "attribution", "s_own", "all"], own["s_own"].dropna().to_numpy())
        rows += [row for measure in scores.MEASURES for row in scores.aurocs("b", rule, table, measure)]
    rule = tables["label"]["rule"].iloc[0]
    forms = {"as in Fig. 8": tables["rules"][tables["rules"]["rule"] == rule]}
    for sweep, (column, name) in FORMS.items():
        forms |= {
            name.format(value): table
            for value, table in (tables[sweep].groupby(column) if column else [("", tables[sweep])])
        }
    rows += [
        row
        for name, table in forms.items()
        for measure in scores.MEASURES
        for row in scores.aurocs("c", name, table, measure)
    ]
    for share, table in tables["removed"].groupby("experiment.removed"):
        rows += [
            [*row[:5], float(share), *row[6:]]
            for measure in scores.MEASURES
            for row in scores.aurocs("d", rule, table, measure)
        ]
    return pd.DataFrame(rows, columns=scores.COLUMNS)


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    return (
        f"Profile {profile}: {scores.network_text(tables['rules'])}. (a) Density of S (20) over all images, starred weights of the new decision. (b) to (d) AUROC of S "
        f"for classified correctly, 95 % bootstrap over images; filled: starred weights of the new decision, open: of the decision k on x. (c), (d): {style.rule_look(tables['label']['rule'].iloc[0]).label}. (c) The explained class, the "
        f"way a map becomes an image, and what an insertion puts in place of what it removes. (d) Shares removed of the lowest scores. Missing S: {scores.missing_text(tables['rules'])}."
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = plt.figure(figsize=(style.DOUBLE, 5.6))
    grid = figure.add_gridspec(
        2, 3, left=0.14, right=0.985, top=0.95, bottom=0.235, hspace=0.42, wspace=0.62, height_ratios=(1, 1)
    )
    densities = figure.add_subplot(grid[0, :2])
    for rule, points in numbers[(numbers["panel"] == "a") & (numbers["what"] == "all")].groupby("series", sort=False):
        style.curve(densities, points["x"], points, style.rule_look(rule), markevery=8)
    dense = numbers[
        (numbers["what"] == "all") & (numbers["y"] > 0.01 * numbers["y"].where(numbers["what"] == "all").max())
    ]
    densities.axvline(0, color="#888888", linewidth=0.5, zorder=0)
    densities.set(xlabel="S", ylabel="density", yticks=[], xlim=(max(LOW, dense["x"].min()), 1.03))
    style.panel_title(densities, "a", "S of each rule's map, all images")
    rules = list(numbers.loc[numbers["panel"] == "b", "series"].unique())
    draw_dots(
        figure.add_subplot(grid[0, 2]),
        numbers[numbers["panel"] == "b"],
        {rule: style.rule_look(rule).label for rule in rules},
        "b",
        "rules",
    )
    forms = list(numbers.loc[numbers["panel"] == "c", "series"].unique())
    draw_dots(
        figure.add_subplot(grid[1, 0]), numbers[numbers["panel"] == "c"], {form: form for form in forms}, "c", "forms"
    )
    shares = figure.add_subplot(grid[1, 1:])
    for name in ("insertion", "insertion_magnitude"):
        colour, mark = style.INPUTS[name].colour, style.INPUTS[name].mark
        for measure, line in (("s_own", "-"), ("s_fixed", ":")):
            points = numbers[(numbers["panel"] == "d") & (numbers["input"] == name) & (numbers["measure"] == measure)]
            shares.fill_between(points["x"], points["low"], points["high"], color=colour, alpha=0.12, linewidth=0)
            shares.plot(
                points["x"],
                points["y"],
                line,
                color=colour,
                marker=mark,
                markersize=3,
                markerfacecolor=colour if line == "-" else "white",
                markeredgewidth=0.7,
            )
    shares.axhline(0.5, color="#888888", linewidth=0.5, zorder=0)
    shares.set(xlabel="share of pixels that an insertion removes", ylabel="AUROC")
    style.panel_title(shares, "d", "threshold of the insertions")
    series = [style.handle(style.looks(rules)[rule]) for rule in rules]
    inputs = [style.handle(look) for look in style.INPUTS.values()]
    figure.legend(
        handles=[*series, *inputs],
        loc="upper center",
        bbox_to_anchor=(0.5, 0.165),
        ncols=5,
        columnspacing=1.2,
        handlelength=2.2,
    )
    style.caption(figure, text)
    return figure


def draw_dots(ax: Axes, part: pd.DataFrame, names: dict[str, str], letter: str, title: str) -> None:
    """AUROC by series, a mark per input, filled for s_own and open for s_fixed."""
    places = {name: i for i, name in enumerate(names)}
    for i, (name, look) in enumerate(style.INPUTS.items()):
        colour, mark = look.colour, look.mark
        for measure, shift in (("s_own", -0.06), ("s_fixed", 0.06)):
            points = part[(part["input"] == name) & (part["measure"] == measure)]
            at = points["series"].map(places).astype(float) + 0.24 * (i - 1) + shift
            ax.errorbar(points["y"], at, xerr=[points["y"] - points["low"], points["high"] - points["y"]], fmt=mark, color=colour, markersize=3, elinewidth=0.6,
                        markerfacecolor=colour if measure == "s_own" else "white", markeredgewidth=0.6)  # fmt: skip
    ax.axvline(0.5, color="#888888", linewidth=0.5, zorder=0)
    ax.set_yticks(list(places.values()), list(names.values()))
    ax.invert_yaxis()
    ax.set(xlabel="AUROC")
    style.panel_title(ax, letter, title)
