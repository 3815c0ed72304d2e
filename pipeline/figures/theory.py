"""The theory in numbers: Theorem 1 (a, b), Theorem 2 (c to e), condition (13) (f), and the competing theory of rank one (g)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.figures import style

SERIES = {  # rule as swept -> its key in the style, a mark, filled
    "grad": ("grad", "x", True),
    "gbp": ("gbp", "o", True),
    "rectgrad": ("rectgrad", "s", True),
    "lrp": ("lrp", "^", True),
    "lrp split": ("lrp", "P", True),
    "lrp plus": ("lrp", "X", False),
    "lrp kept": ("lrp", "^", True),
    "lrp dropped": ("lrp", "v", False),
}
LABELS = {
    **{rule: look.label for rule, look in style.RULES.items()}, "lrp split": r"LRP, layer 1 split", "lrp plus": r"LRP, layer 1 $W^+$", "lrp kept": r"LRP, $\gamma$ kept", "lrp dropped": r"LRP, $\gamma$ dropped",
}  # fmt: skip
LAWS = ("gaussian", "ring", "uniform", "uniform01", "anisotropic")
SHIFTED = ("gbp", "rectgrad", "lrp kept", "lrp dropped")
INPUTS = {"patch": "x: image patch", "random": "x: normal", "corner": r"x: $e_i + .55\,e_j$"}
BACKWARD = {"normal": "-", "exponential": "--", "constant": ":"}
COLUMNS = ["panel", "state", "series", "line", "x", "name", "y", "low", "high"]
Row = list


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: a, b_<input>, c, d, e, f_<state>, g_<state>; series: rule or law; line: d, the law of r_b, or the other class; y, low, high: mean and, over images
    and draws, the 5th and 95th percentile (a, b, e, g), or a share (c, d, f)."""
    rows: list[Row] = []
    one = with_series(pd.concat([tables["theorem1"], tables["theorem1_lrp"]]))
    one = one.assign(gap=1 - one["alignment"], ratio=one["neurons"] / one["dim"])
    chosen = one[(one["law"] == "gaussian") & (one["input"] == "patch")]
    rows += spread(chosen, "a", ["series", "dim", "ratio"], "gap")
    rows += [
        ["a", "", "predicted", str(d), k, "", y, np.nan, np.nan]
        for (d, k), y in chosen.groupby(["dim", "ratio"])["predicted"].first().items()
    ]
    for kind in INPUTS:
        chosen = one[(one["series"] == "gbp") & (one["input"] == kind) & (one["dim"] == one["dim"].max())]
        rows += spread(chosen.assign(series=chosen["law"]), f"b_{kind}", ["series", "dim", "ratio"], "gap")
    two = with_series(pd.concat([tables["theorem2"], tables["theorem2_lrp"]]))
    two = two[two["units"] == "active"].assign(difference=two["alpha_a"] - two["alpha_b"])
    for panel, knob, other in (("c", "mixing", "spread"), ("d", "spread", "mixing")):
        alone = two[(two[other] == 0) & ~two["equal"] & (two["law"] != "constant")]
        for (series, law, value), share in alone.groupby(["series", "law", knob])["holds"].mean().items():
            rows.append([panel, "", series, law, value, "", share, np.nan, np.nan])
    laws = {law: float(i) for i, law in enumerate(BACKWARD)}
    rows += spread(two[two["equal"]].assign(place=two["law"].map(laws)), "e", ["series", "law", "place"], "difference")
    for state in style.STATES:
        table = with_series(tables[f"nfr_{state}"])
        judged = table[table["relation"] != ""]
        names = table.drop_duplicates("layer").set_index("layer")["name"]
        for (series, layer), share in judged.groupby(["series", "layer"])["holds"].mean().items():
            rows.append([f"f_{state}", state, series, "", layer, names[layer], share, np.nan, np.nan])
        parallel = with_series(tables[f"rank1_{state}"])
        for panel_row in spread(parallel, f"g_{state}", ["series", "against", "layer"], "cosine"):
            rows.append([panel_row[0], state, *panel_row[2:]])
    return pd.DataFrame(rows, columns=COLUMNS)


def with_series(table: pd.DataFrame) -> pd.DataFrame:
    """A column `series`: the rule, with the choice that sets it apart."""
    extra = pd.Series("", index=table.index)
    lrp = table["rule"] == "lrp"
    if "gamma" in table:
        extra = extra.where(~lrp, " " + table["gamma"])
    elif "rule.first_layer" in table:
        first = table["rule.first_layer"].where(table["rule.first_layer"] != "plain")
        extra = extra.where(~lrp | first.isna(), " " + first.astype(str))
    return table.assign(series=table["rule"] + extra).reset_index(drop=True)


def spread(table: pd.DataFrame, panel: str, by: list[str], value: str) -> list[Row]:
    groups = table.groupby(by)[value]
    return [
        [panel, "", series, str(line), x, "", group.mean(), *group.quantile([0.05, 0.95])]
        for (series, line, x), group in groups
        if group.notna().any()
    ]  # fmt: skip


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    one, two, random, trained = (tables[name] for name in ("theorem1", "theorem2", "nfr_random", "nfr_trained"))
    gbp = (
        one[(one["rule"] == "gbp") & (one["input"] == "patch") & (one["dim"] == one["dim"].max())]
        .groupby("law")["slope"]
        .mean()
    )
    dims = sorted(one["dim"].unique())
    file = trained[trained.columns.intersection(["weights.path", "weights.enum"])].iloc[0].dropna()
    exact = two[
        (two["mixing"] == 0)
        & (two["spread"] == 0)
        & ~two["equal"]
        & (two["units"] == "active")
        & (two["law"] == two["law"].iloc[0])
    ]
    seeds = "-".join(str(s) for s in sorted({random["seed"].min(), random["seed"].max()}))
    return (
        f"Profile {profile}. (a) 1 - alignment in one hidden layer of K Gaussian neurons, d = {dims[0]} (filled line) and {dims[-1]} (dashed), {one['image'].nunique()} patches of {one['data'].iloc[0]}, "
        f"{one['draw'].nunique()} draws; thin dots: predicted for GBP, tan^2 = pi^2 (d - 1) / K; LRP with W_1 equals GBP; GBP lies under RectGrad where it is not seen. (b) GBP, d = {dims[-1]}, by law of the weights; fitted exponent of K in tan^2, patches: "
        f"{', '.join(f'{style.LAW_LABELS[law]} {value + 0.0:.2f}' for law, value in gbp.items())}. (c, d) Share of {len(exact) // two['rule'].nunique()} cases a point in which (18) holds; solid: r_b normal, dashed: exponential. "
        "(e) All A equal, weights exact: (18) says equality. (a, b, e) bars: 5 to 95 %. "
        f"(f) Share of images for which (13) holds strictly, where the rule filters; (g) cosine of r_l from two classes: decision and runner-up (solid), decision and a random one (dashed): "
        f"{random['model'].iloc[0]}, {random['image'].nunique()} images; random: {random['weights'].iloc[0]}, seeds {seeds}; trained: {' '.join(file.astype(str))}, with its biases."
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = plt.figure(figsize=(style.DOUBLE, 8.9))
    rows = figure.add_gridspec(
        3, 1, left=0.075, right=0.985, top=0.975, bottom=0.15, hspace=0.5, height_ratios=(1, 0.9, 2.1)
    )
    top = rows[0].subgridspec(1, 2, width_ratios=(1, 1.75), wspace=0.2)
    draw_theorem1(figure, top, numbers)
    middle = rows[1].subgridspec(1, 3, wspace=0.3)
    draw_theorem2(figure, middle, numbers)
    low = rows[2].subgridspec(2, 2, wspace=0.12, hspace=0.75)
    draw_networks(figure, low, numbers)
    style.caption(figure, text)
    return figure


def draw_theorem1(figure: Figure, grid, numbers: pd.DataFrame) -> None:
    ax = figure.add_subplot(grid[0])
    part = numbers[numbers["panel"] == "a"]
    dims = sorted(part["line"].unique(), key=int)
    lines = dict(zip(dims, ("-", "--"), strict=False))
    for (name, dim), points in part.groupby(["series", "line"]):
        if name == "predicted":
            ax.plot(points["x"], points["y"], ":", color="#888888", linewidth=0.8, zorder=0)
        else:
            curve(ax, points, str(name), lines.get(dim, "-."), bars=True)
    ax.set(xscale="log", yscale="log", xlabel="K / d", ylabel=r"$1 - \alpha(R, x)$", ylim=(2e-3, 2))
    style.panel_title(ax, "a", "Theorem 1, by rule")
    ax.legend(
        handles=handles([s for s in SERIES if (part["series"] == s).any()]),
        loc="lower left",
        handlelength=1.6,
        fontsize=5.6,
        labelspacing=0.2,
        borderpad=0,
    )
    small = grid[1].subgridspec(1, len(INPUTS), wspace=0.1)
    first = None
    for i, (kind, title) in enumerate(INPUTS.items()):
        ax = figure.add_subplot(small[i], sharey=first)
        first = first or ax
        for law, points in numbers[numbers["panel"] == f"b_{kind}"].groupby("series"):
            colour, mark = style.LAW_COLOURS[law], style.LAW_MARKS[law]
            ax.plot(
                points["x"],
                points["y"],
                color=colour,
                marker=mark,
                markerfacecolor=colour if law != "ring" else "white",
                markersize=3,
                linewidth=0.9,
                linestyle="--" if law == "ring" else "-",
            )
        ax.set(xscale="log", yscale="log", xlabel="K / d", ylim=(2e-3, 2))
        ax.tick_params(labelleft=i == 0)
        style.panel_title(ax, "b" if i == 0 else "", title)
    figure.legend(handles=[Line2D([], [], color=c, marker=m, markersize=3, linewidth=0.9, markerfacecolor="white" if law == "ring" else c, linestyle="--" if law == "ring" else "-", label=style.LAW_LABELS[law])
                           for law, c, m in ((law, style.LAW_COLOURS[law], style.LAW_MARKS[law]) for law in LAWS)], loc="upper center", bbox_to_anchor=(0.69, 0.768), ncols=5, columnspacing=0.9, handlelength=1.6, fontsize=6.2)  # fmt: skip


def draw_theorem2(figure: Figure, grid, numbers: pd.DataFrame) -> None:
    for i, (panel, label) in enumerate((("c", "share of a random matrix in W"), ("d", r"SD of $\log \|w\|$"))):
        ax = figure.add_subplot(grid[i])
        for (name, law), points in numbers[numbers["panel"] == panel].groupby(["series", "line"]):
            curve(ax, points, str(name), BACKWARD[law])
        ax.set(xlabel=label, ylabel="share where (18) holds" if i == 0 else "", ylim=(-0.03, 1.03))
        style.panel_title(ax, panel, ("Theorem 2, not orthogonal", "of unequal norms")[i])
    ax = figure.add_subplot(grid[2])
    part = numbers[numbers["panel"] == "e"]
    series = [s for s in SERIES if (part["series"] == s).any()]
    for k, name in enumerate(series):
        points = part[part["series"] == name]
        points = points.assign(x=points["x"] + 0.16 * (k - (len(series) - 1) / 2))
        curve(ax, points, name, "none", bars=True)
    ax.axhline(0, color="#888888", linewidth=0.5, zorder=0)
    ax.set_xticks(range(len(BACKWARD)), [f"$r_b$ {law}" for law in BACKWARD], fontsize=6)
    ax.set(ylabel=r"$\alpha_a - \alpha_b$", xlim=(-0.5, len(BACKWARD) - 0.5))
    style.panel_title(ax, "e", "all A equal")
    figure.legend(
        handles=handles(series),
        loc="upper center",
        bbox_to_anchor=(0.5, 0.53),
        ncols=4,
        columnspacing=1.2,
        handlelength=1.6,
        fontsize=6.5,
    )


def draw_networks(figure: Figure, grid, numbers: pd.DataFrame) -> None:
    for row, (letter, label) in enumerate((("f", "share of images"), ("g", "cosine"))):
        first = None
        for column, state in enumerate(style.STATES):
            ax = figure.add_subplot(grid[row, column], sharey=first)
            first = first or ax
            part = numbers[numbers["panel"] == f"{letter}_{state}"]
            for (name, line), points in part.groupby(["series", "line"]):
                shift = 0.16 * (SHIFTED.index(name) - 1.5) if letter == "f" else 0  # they lie on each other at 1
                curve(ax, points.assign(x=points["x"] + shift), str(name), "--" if line == "random" else "-")
            names = numbers[numbers["panel"] == f"f_{state}"].drop_duplicates("x").sort_values("x")
            ax.set_xlim(-0.5, numbers[numbers["panel"].str.startswith("f_")]["x"].max() + 0.5)
            ax.axhline(0, color="#888888", linewidth=0.5, zorder=0)
            if letter == "f":
                ax.set_xticks(names["x"], names["name"], rotation=90, fontsize=6)
                ax.set(ylim=(-0.05, 1.05))
            else:
                ticks = part["x"].unique()
                ax.set_xticks(sorted(ticks)[::2])
                ax.set(xlabel=r"l, where $r_l$ is compared (0: the map)")
            ax.set(ylabel=label if column == 0 else "")
            ax.tick_params(labelleft=column == 0)
            style.panel_title(
                ax, letter if column == 0 else "", f"{('condition (13)', 'two classes, one direction?')[row]}, {state}"
            )
    figure.legend(handles=handles(["grad", "gbp", "rectgrad", "lrp kept", "lrp dropped"]), loc="upper center", bbox_to_anchor=(0.5, 0.112), ncols=5, columnspacing=1.2, handlelength=1.6, fontsize=6.5)  # fmt: skip


def curve(ax: Axes, points: pd.DataFrame, name: str, line: str, bars: bool = False) -> None:
    key, mark, filled = SERIES[name]
    colour = style.COLOURS[key]
    points = points.sort_values("x")
    look = {
        "color": colour,
        "marker": mark,
        "markersize": 3,
        "markerfacecolor": colour if filled else "white",
        "markeredgewidth": 0.6,
        "linewidth": 0.9,
    }
    if bars:
        errors = [(points["y"] - points["low"]).clip(lower=0), (points["high"] - points["y"]).clip(lower=0)]
        ax.errorbar(points["x"], points["y"], errors, linestyle=line, elinewidth=0.5, **look)
    else:
        ax.plot(points["x"], points["y"], linestyle=line, **look)


def handles(series: list[str]) -> list[Line2D]:
    found = []
    for name in series:
        key, mark, filled = SERIES[name]
        colour = style.COLOURS[key]
        found.append(
            Line2D(
                [],
                [],
                color=colour,
                marker=mark,
                markersize=3,
                markerfacecolor=colour if filled else "white",
                markeredgewidth=0.6,
                linewidth=0.9,
                label=LABELS[name],
            )
        )
    return found
