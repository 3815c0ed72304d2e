"""The theory in numbers: Theorem 1 (a, b), Theorem 2 (c to e), condition (13) (f), and the competing theory of rank
one (g)."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.figures import captions, style

LRP = style.RULES["lrp"]
SERIES = style.RULES | {  # also a rule with the choice that sets it apart
    "lrp split": replace(LRP, mark="P", label="LRP, layer 1 split"),
    "lrp plus": replace(LRP, mark="X", label="LRP, layer 1 $W^+$", filled=False),
    "lrp kept": replace(LRP, label=r"LRP, $\gamma$ kept"),
    "lrp dropped": replace(LRP, mark="v", label=r"LRP, $\gamma$ dropped", filled=False),
}
LAWS = style.LAWS | {"ring": style.opened(style.LAWS["ring"])}  # it hides the Gaussian
INPUTS = {"patch": "x: image patch", "random": "x: normal", "corner": r"x: $e_i + .55\,e_j$"}
BACKWARD = {"normal": "-", "exponential": "--", "constant": ":"}
COLUMNS = ["panel", "state", "series", "line", "x", "name", "y", "low", "high"]
TEXT = """
Profile {profile}. (a) 1 - alignment in one hidden layer of K Gaussian neurons, d = {least} (filled line) and {most}
(dashed), {theorem1.count} patches of {theorem1[data]}, {draws} draws; thin dots: predicted for GBP, from E|w.x| and
the covariance of the law (isotropic: tan^2 = pi^2 (d - 1) / K over its effective width); LRP with W_1 equals GBP; GBP
lies under RectGrad where it is not seen. (b) {rule}, d = {most}, by law of the weights; fitted exponent of K in
tan^2, patches: {slopes}. (c, d) Share of {cases} cases a point in which (18) holds; solid: r_b normal, dashed:
exponential. (e) Weights exact, r_b the mean of exponential draws: solid, all A equal, where (18) says equality
(RectGrad passes none of them); dashed: not equal. (a, b, e) bars: 5 to 95 %. (f) Share of images for which (13) holds
strictly, where the rule filters; (g) cosine of r_l from two classes: decision and runner-up (solid), decision and a
random one (dashed): {nfr_random[model]}, {nfr_random.count} images; random: {nfr_random.weights}{nfr_random.seeds};
trained: {nfr_trained.weights}, with its biases.
"""


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: a, b_<input>, c, d, e, f_<state>, g_<state>; series: rule or law; line: d, the law of r_b, or the
    other class; y, low, high: mean and, over images and draws, the 5th and 95th percentile (a, b, e, g), or a share
    (c, d, f)."""
    one = with_series(pd.concat([tables["theorem1"], tables["theorem1_lrp"]]))
    one = one.assign(gap=1 - one["alignment"], ratio=one["neurons"] / one["dim"])
    chosen = style.where(one, weights="gaussian", input="patch")
    rows = spread(chosen, "a", ["series", "dim", "ratio"], "gap")
    for (d, k), y in chosen.groupby(["dim", "ratio"])["predicted"].mean().items():
        rows.append(["a", "", "predicted", str(d), k, "", y, np.nan, np.nan])
    wide = style.where(one, series=by_law(one), dim=one["dim"].max())
    for kind in INPUTS:
        chosen = wide[wide["input"] == kind]
        rows += spread(chosen.assign(series=chosen["weights"]), f"b_{kind}", ["series", "dim", "ratio"], "gap")
        predicted = chosen.dropna(subset="predicted").groupby(["weights", "ratio"])["predicted"].mean()
        rows += [[f"b_{kind}", "", law, "predicted", k, "", y, np.nan, np.nan] for (law, k), y in predicted.items()]
    two = with_series(pd.concat([tables["theorem2"], tables["theorem2_lrp"]]))
    two = two[two["units"] == "active"].assign(ratio=1 - two["alpha_b"] / two["alpha_a"])
    averaged, two = two[(two[["mixing", "spread"]] == 0).all(axis=1)], two[two["draws"] == 1]
    for panel, knob, other in (("c", "mixing", "spread"), ("d", "spread", "mixing")):
        alone = two[(two[other] == 0) & ~two["equal"] & (two["law"] != "constant")]
        for at, share in alone.groupby(["series", "law", knob])["holds"].mean().items():
            rows.append([panel, "", *at, "", share, np.nan, np.nan])
    means = averaged[averaged["law"] == "exponential"]
    kind = means["equal"].map({True: "equal", False: "not"})
    rows += spread(means[means["ratio"] > 0].assign(kind=kind), "e", ["series", "kind", "draws"], "ratio")
    for state in style.STATES:
        table = with_series(tables[f"nfr_{state}"])
        names = table.drop_duplicates("layer").set_index("layer")["name"]
        judged = table[table["relation"] != ""].groupby(["series", "layer"])["holds"].mean()
        for (series, layer), share in judged.items():
            rows.append([f"f_{state}", state, series, "", layer, names[layer], share, np.nan, np.nan])
        parallel = with_series(tables[f"rank1_{state}"])
        for panel, _, *rest in spread(parallel, f"g_{state}", ["series", "against", "layer"], "cosine"):
            rows.append([panel, state, *rest])
    return pd.DataFrame(rows, columns=COLUMNS)


def with_series(table: pd.DataFrame) -> pd.DataFrame:
    """A column `series`: the rule, with the choice that sets it apart."""
    if "gamma" in table:
        extra = table["gamma"].where(table.groupby("rule")["gamma"].transform("nunique") > 1)
    elif "rule.first_layer" in table:
        extra = table["rule.first_layer"].where(table["rule.first_layer"] != "plain")
    else:
        extra = pd.Series(np.nan, index=table.index)
    return table.assign(series=table["rule"] + (" " + extra.astype(object)).fillna("")).reset_index(drop=True)


def by_law(one: pd.DataFrame) -> str:
    """The rule of (b)."""
    return "gbp" if (one["rule"] == "gbp").any() else one["rule"].iloc[0]


def spread(table: pd.DataFrame, panel: str, by: list[str], value: str) -> list[list]:
    rows = []
    for (series, line, x), group in table.dropna(subset=value).groupby(by)[value]:
        rows.append([panel, "", series, str(line), x, "", group.mean(), *group.quantile([0.05, 0.95])])
    return rows


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    one, two = tables["theorem1"], tables["theorem2"]
    dims, rule = sorted(one["dim"].unique()), by_law(one)
    wide = style.where(one, rule=rule, input="patch", dim=dims[-1])
    slopes = wide.groupby("weights")["slope"].mean()
    laws = style.looks(slopes.index, LAWS)
    exact = style.where(two, mixing=0, spread=0, equal=False, units="active", law=two["law"].iloc[0], draws=1)
    return captions.words(
        TEXT,
        tables,
        profile=profile,
        least=dims[0],
        most=dims[-1],
        draws=one["draw"].nunique(),
        rule=style.rule_look(rule).label,
        slopes=", ".join(f"{laws[law].label} {round(value, 2) + 0.0:.2f}" for law, value in slopes.items()),
        cases=len(exact) // two["rule"].nunique(),
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = style.page(8.9)
    place = {"left": 0.075, "right": 0.985, "top": 0.975, "bottom": 0.15}
    rows = figure.add_gridspec(3, 1, **place, hspace=0.5, height_ratios=(1, 0.9, 2.1))
    draw_theorem1(figure, rows[0].subgridspec(1, 2, width_ratios=(1, 1.75), wspace=0.2), numbers)
    draw_theorem2(figure, rows[1].subgridspec(1, 3, wspace=0.3), numbers)
    draw_networks(figure, rows[2].subgridspec(2, 2, wspace=0.12, hspace=0.75), numbers)
    style.caption(figure, text)
    return figure


def draw_theorem1(figure: Figure, grid, numbers: pd.DataFrame) -> None:
    ax = figure.add_subplot(grid[0])
    part = numbers[numbers["panel"] == "a"]
    lines = dict(zip(sorted(part["line"].unique(), key=int), ("-", "--"), strict=False))
    for (name, dim), points in part.groupby(["series", "line"]):
        if name == "predicted":
            ax.plot(points["x"], points["y"], ":", color="#888888", linewidth=0.8, zorder=0)
        else:
            curve(ax, points, lines.get(dim, "-."), bars="y")
    ax.set(xscale="log", yscale="log", xlabel="K / d", ylabel=r"$1 - \alpha(R, x)$", ylim=(2e-3, 2))
    style.panel_title(ax, "a", "Theorem 1, by rule")
    series = part.loc[part["series"] != "predicted", "series"]
    place = {"loc": "lower left", "handlelength": 1.6, "labelspacing": 0.2, "borderpad": 0}
    ax.legend(handles=handles(series), **place, fontsize=5.6)
    small = grid[1].subgridspec(1, len(INPUTS), wspace=0.1)
    laws = style.looks(numbers.loc[numbers["panel"].str.startswith("b_"), "series"], LAWS)
    first = None
    for i, (kind, title) in enumerate(INPUTS.items()):
        ax = figure.add_subplot(small[i], sharey=first)
        first = first or ax
        for (law, line), points in numbers[numbers["panel"] == f"b_{kind}"].groupby(["series", "line"]):
            if line == "predicted":
                ax.plot(points["x"], points["y"], ":", color=laws[law].colour, linewidth=0.7, zorder=0)
            else:
                style.curve(ax, points["x"], points, laws[law], linewidth=0.9, markeredgewidth=1)
        ax.set(xscale="log", yscale="log", xlabel="K / d", ylim=(2e-3, 2))
        ax.tick_params(labelleft=i == 0)
        style.panel_title(ax, "b" if i == 0 else "", title)
    below(
        figure,
        [style.handle(look, linewidth=0.9, markeredgewidth=1) for look in laws.values()],
        0.69,
        0.768,
        fontsize=6.2,
        columnspacing=0.9,
    )


def draw_theorem2(figure: Figure, grid, numbers: pd.DataFrame) -> None:
    for i, (panel, label) in enumerate((("c", "share of a random matrix in W"), ("d", r"SD of $\log \|w\|$"))):
        ax = figure.add_subplot(grid[i])
        for (_, law), points in numbers[numbers["panel"] == panel].groupby(["series", "line"]):
            curve(ax, points, BACKWARD[law])
        words = {"xlabel": label, "ylabel": "share where (18) holds" if i == 0 else ""}
        style.panel_title(ax, panel, ("Theorem 2, not orthogonal", "of unequal norms")[i], ylim=(-0.03, 1.03), **words)
    ax = figure.add_subplot(grid[2])
    part = numbers[numbers["panel"] == "e"]
    for (_, kind), points in part.groupby(["series", "line"]):
        curve(ax, points, "-" if kind == "equal" else "--", bars="y")
    ax.set(xscale="log", yscale="log", xlabel=r"draws averaged in $r_b$", ylabel=r"$1 - \alpha_b / \alpha_a$")
    style.panel_title(ax, "e", "equality if all A are equal?")
    below(figure, handles(part["series"]), 0.5, 0.53)


def draw_networks(figure: Figure, grid, numbers: pd.DataFrame) -> None:
    judged = numbers[numbers["panel"].str.startswith("f_")]
    shifted = style.ordered(judged["series"], SERIES)
    for row, (letter, label, title) in enumerate(
        (("f", "share of images", "condition (13)"), ("g", "cosine", "two classes, one direction?"))
    ):
        first = None
        for column, state in enumerate(style.STATES):
            ax = figure.add_subplot(grid[row, column], sharey=first)
            first = first or ax
            part = numbers[numbers["panel"] == f"{letter}_{state}"]
            for (name, line), points in part.groupby(["series", "line"]):  # in (f) they lie on each other at 1
                shift = 0.16 * (shifted.index(name) - (len(shifted) - 1) / 2) if letter == "f" else 0
                curve(ax, points.assign(x=points["x"] + shift), "--" if line == "random" else "-")
            names = judged[judged["state"] == state].drop_duplicates("x").sort_values("x")
            ax.set_xlim(-0.5, judged["x"].max() + 0.5)
            style.level(ax)
            if letter == "f":
                ax.set_xticks(names["x"], names["name"], rotation=90, fontsize=6)
                ax.set(ylim=(-0.05, 1.05))
            else:
                ax.set_xticks(sorted(part["x"].unique())[::2])
                ax.set(xlabel=r"l, where $r_l$ is compared (0: the map)")
            ax.set(ylabel=label if column == 0 else "")
            ax.tick_params(labelleft=column == 0)
            style.panel_title(ax, letter if column == 0 else "", f"{title}, {state}")
    below(figure, handles(numbers.loc[numbers["panel"].str.match("[fg]_"), "series"]), 0.5, 0.112)


def curve(ax: Axes, points: pd.DataFrame, line: str, bars: str = "") -> None:
    """The one series that the points are of."""
    (look,) = style.looks(points["series"], SERIES).values()
    points = points.sort_values("x")
    thin = {"linewidth": 0.9} | ({"elinewidth": 0.5} if bars else {})
    style.curve(ax, points["x"], points, replace(look, line=line), bars=bars, **thin)


def handles(series: pd.Series) -> list[Line2D]:
    """A legend's entries, one where two series look alike."""
    looks = {(look.colour, look.mark, look.filled): look for look in style.looks(series, SERIES).values()}
    return [style.handle(style.solid(look), linewidth=0.9) for look in looks.values()]


def below(figure: Figure, entries: list[Line2D], x: float, y: float, fontsize=6.5, columnspacing=1.2) -> None:
    """A legend centred below (x, y)."""
    more = {"columnspacing": columnspacing, "handlelength": 1.6, "fontsize": fontsize}
    style.legend(figure, entries, (x, y), ncols=max(4, len(entries)), **more)
