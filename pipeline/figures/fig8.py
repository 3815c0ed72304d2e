"""Fig. 8: KIS (20) of right and wrong decisions, when the network is given (a) the attribution, (b), (c) insertions in x's place; and what controls say."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.figures import scores, style

PANELS = ("attribution", "insertion", "insertion_magnitude")  # (a), (b), (c)
CONTROLS = ("edge", "noise", "blur")
MARKS = {  # series of the last panel: measure, what, mark, filled
    r"$S$, row of the new decision": ("s_own", "auroc", "o", True),
    r"$S$, row of $k$": ("s_fixed", "auroc", "s", False),
    r"$S$ beyond the margin": ("s_own", "auroc within margin", "x", True),
}


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: main, others (networks of other training seeds), imagenet; series: the network; input: what it is given in x's place; measure: s_own or
    s_fixed; what: correct, incorrect (densities at x), a place of a peak, V, the dip test's p, or an AUROC or a difference of two (y with its 95 % interval over
    images); n: images."""
    main, rows = tables["main"], []
    for measure in scores.MEASURES:
        for name in (*PANELS, *CONTROLS) if measure == "s_own" else PANELS:
            rows += scores.distribution("main", "main", main[main["input"] == name], measure)
        rows += scores.aurocs("main", "main", main, measure, more=measure == "s_own")
        for i, table in enumerate(scores.networks(tables["others"]), start=1):
            rows += scores.aurocs("others", f"other {i}", table, measure, intervals=False, more=measure == "s_own")
    alone = main[main["input"] == PANELS[0]]
    rows += scores.aurocs("main", "main", alone.assign(input="margin"), "margin")
    one = tables["imagenet"][tables["imagenet"]["input"] == PANELS[0]]
    rows += scores.distribution("imagenet", one["model"].iloc[0], one, "s_own")
    rows += scores.aurocs("imagenet", one["model"].iloc[0], one, "s_own")
    return pd.DataFrame(rows, columns=scores.COLUMNS)


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    others = [scores.network_text(table, brief=True) for table in scores.networks(tables["others"])]
    return (
        f"Profile {profile}: {scores.network_text(tables['main'])}; rule {tables['main']['rule'].iloc[0]}, explained class: {tables['main']['explained'].iloc[0]}. "
        "Densities of S (20), each of area 1, Silverman's width; triangles: the two peaks of all images together; V: 1 - valley / lower peak; dip: Hartigan's test of one peak. "
        "AUROC: of S for classified correctly, 95 % bootstrap over images. First row: starred weights of the new decision (the letter of (20)); second: of the decision k on x; "
        "third: controls, maps that know nothing of the decision. Insertions put zero of normalised space in place of pixels that score below the mean. "
        "(d) AUROC for each input, also over pairs of images alike in margin (20 bins); dotted line: AUROC of the margin itself; on the right how far the attribution is "
        "above (paired); "
        f"small grey marks: {', '.join(others)}. (e): {scores.network_text(tables['imagenet'])}. "
        f"Missing S: {scores.missing_text(tables['main'])}; {scores.beyond_text(tables['main'])}."
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = plt.figure(figsize=(style.DOUBLE, 8.5))
    grid = figure.add_gridspec(
        4, 3, left=0.05, right=0.985, top=0.967, bottom=0.178, hspace=0.55, wspace=0.1, height_ratios=(1, 1, 1, 1.35)
    )
    main = numbers[numbers["panel"] == "main"]
    low, high = scores.sides(main)
    for row, (measure, inputs) in enumerate({"s_own": PANELS, "s_fixed": PANELS, "controls": CONTROLS}.items()):
        for column, name in enumerate(inputs):
            ax = figure.add_subplot(grid[row, column])
            shown = "s_own" if measure == "controls" else measure
            scores.draw_distribution(ax, main[(main["input"] == name) & (main["measure"] == shown)])
            letter = "abc"[column] if row == 0 else ""
            style.panel_title(ax, letter, style.INPUT_LABELS[name] + (r", row of $k$" if row == 1 else ""), pad=11)
            ax.set(xlim=(low, high), xlabel="S" if row == 2 else "", ylabel="density" if column == 0 else "")
    bottom = grid[3, :].subgridspec(1, 2, width_ratios=(2.1, 1), wspace=0.1)
    inner = bottom[0].subgridspec(
        1, 3, width_ratios=(0.42, 1, 0.3), wspace=0
    )  # room for the names of inputs and for the differences
    draw_aurocs(figure.add_subplot(inner[1]), numbers)
    imagenet = numbers[(numbers["panel"] == "imagenet") & (numbers["input"] == "attribution")]
    ax = figure.add_subplot(bottom[1])
    scores.draw_distribution(ax, imagenet)
    style.panel_title(ax, "e", f"{imagenet['series'].iloc[0]}, attribution", pad=11)
    ax.set(xlim=scores.sides(imagenet), xlabel="S")
    figure.axes[0].legend(
        handles=[style.handle(look) for look in style.OUTCOMES.values()],
        loc="upper left",
        fontsize=6,
    )
    style.caption(figure, text)
    return figure


def draw_aurocs(ax: Axes, numbers: pd.DataFrame) -> None:
    names = [name for name in style.INPUT_LABELS if name in set(numbers.loc[numbers["panel"] == "main", "input"])]
    for shift, (measure, what, mark, filled) in zip((-0.2, 0.0, 0.2), MARKS.values(), strict=True):
        some = numbers[(numbers["measure"] == measure) & (numbers["what"] == what)]
        for panel, size in (("others", 2.2), ("main", 3.5)):
            points = some[some["panel"] == panel]
            at = points["input"].map({name: i for i, name in enumerate(names)}).astype(float) + shift
            error = [points["y"] - points["low"], points["high"] - points["y"]] if panel == "main" else None
            colour = "#000000" if panel == "main" else "#888888"
            ax.errorbar(points["y"], at, xerr=error, fmt=mark, color=colour, markersize=size, markerfacecolor=colour if filled else "white",
                        markeredgewidth=0.7, elinewidth=0.7, zorder=3 if panel == "main" else 2)  # fmt: skip
    for _, row in numbers[(numbers["panel"] == "main") & (numbers["what"] == "first - this")].iterrows():
        ax.text(
            1.02,
            names.index(row["input"]),
            scores.interval_text(row),
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=5.8,
            color="#333333",
        )
    for _, row in numbers[(numbers["measure"] == "margin") & (numbers["what"] == "auroc")].iterrows():
        ax.axvline(row["y"], color="#444444", linestyle=":", linewidth=0.8, zorder=1)
    if len(names) > 1:
        ax.text(
            1.02,
            names.index(PANELS[0]),
            "(a) above it by",
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=5.8,
            color="#333333",
        )
    ax.axvline(0.5, color="#888888", linewidth=0.5, zorder=0)
    ax.set_yticks(np.arange(len(names)), [style.INPUT_LABELS[name] for name in names])
    ax.invert_yaxis()
    style.panel_title(ax, "d", 'AUROC for "classified correctly"')
    ax.set(xlabel="AUROC")
    handles = [
        Line2D(
            [],
            [],
            color="#000000",
            linestyle="",
            marker=mark,
            markersize=3.5,
            markerfacecolor="#000000" if filled else "white",
            markeredgewidth=0.7,
            label=label,
        )
        for label, (_, _, mark, filled) in MARKS.items()
    ]
    ax.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.3, -0.21),
        ncols=3,
        columnspacing=1.0,
        handletextpad=0.2,
        fontsize=6,
    )
