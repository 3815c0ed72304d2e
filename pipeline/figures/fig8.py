"""Fig. 8: KIS (20) of right and wrong decisions, when the network is given (a) the attribution, (b), (c) insertions in
x's place; and what controls say."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import captions, scores, style
from pipeline.figures.style import Look

PANELS = ("attribution", "insertion", "insertion_magnitude")  # (a), (b), (c)
CONTROLS = ("edge", "noise", "blur")
READINGS = (  # series of the last panel: measure, what, look
    ("s_own", "auroc", Look("#000000", "o", r"$S$, row of the new decision", "")),
    ("s_fixed", "auroc", Look("#000000", "s", r"$S$, row of $k$", "", False)),
    ("s_own", "auroc within margin", Look("#000000", "x", r"$S$ beyond the margin", "")),
)
TEXT = """
Profile {profile}: {network}; rule {main[rule]}, explained class: {main[explained]}. Densities of S (20), each of area
1, Silverman's width; triangles: the two peaks of all images together; V: 1 - valley / lower peak; dip: Hartigan's
test of one peak. AUROC: of S for classified correctly, 95 % bootstrap over images. First row: starred weights of the
new decision (the letter of (20)); second: of the decision k on x; third: controls, maps that know nothing of the
decision. Insertions put zero of normalised space in place of pixels that score below the mean. (d) AUROC for each
input, also over pairs of images alike in margin (20 bins); dotted line: AUROC of the margin itself; on the right how
far the attribution is above (paired); small grey marks: {others}. (e): {imagenet}. Missing S: {missing}; {beyond}.
"""


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: main, others (networks of other training seeds), imagenet; series: the network; input: what it is given in
    x's place; measure: s_own or s_fixed; what: correct, incorrect (densities at x), a place of a peak, V, the p of the
    dip test, or an AUROC or a difference of two (y with its 95 % interval over images); n: images."""
    main, rows = tables["main"], []
    for measure in scores.MEASURES:
        for name in (*PANELS, *CONTROLS) if measure == "s_own" else PANELS:
            rows += scores.distribution("main", "main", main[main["input"] == name], measure)
        rows += scores.aurocs("main", "main", main, measure, more=measure == "s_own")
        for i, table in enumerate(scores.networks(tables["others"]), start=1):
            rows += scores.aurocs("others", f"other {i}", table, measure, intervals=False, more=measure == "s_own")
    alone = main[main["input"] == main["input"].iloc[0]]
    rows += scores.aurocs("main", "main", alone.assign(input="margin"), "margin")
    one, series = tables["imagenet"], tables["imagenet"]["model"].iloc[0]
    one = one[one["input"] == PANELS[0]]
    rows += scores.distribution("imagenet", series, one, "s_own")
    rows += scores.aurocs("imagenet", series, one, "s_own")
    return pd.DataFrame(rows, columns=scores.COLUMNS)


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    main = tables["main"]
    return captions.words(
        TEXT,
        tables,
        profile=profile,
        network=scores.network_text(main),
        others=", ".join(scores.network_text(table, brief=True) for table in scores.networks(tables["others"])),
        imagenet=scores.network_text(tables["imagenet"]),
        missing=scores.missing_text(main),
        beyond=scores.beyond_text(main),
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = style.page(8.5)
    sides, rows = {"left": 0.05, "right": 0.985, "top": 0.967, "bottom": 0.178}, (1, 1, 1, 1.35)
    grid = figure.add_gridspec(4, 3, **sides, hspace=0.55, wspace=0.1, height_ratios=rows)
    main = numbers[numbers["panel"] == "main"]
    low, high = scores.sides(main)
    for row, (measure, inputs) in enumerate((("s_own", PANELS), ("s_fixed", PANELS), ("s_own", CONTROLS))):
        for column, name in enumerate(inputs):
            ax = figure.add_subplot(grid[row, column])
            scores.draw_distribution(ax, style.where(main, input=name, measure=measure))
            letter = "abc"[column] if row == 0 else ""
            style.panel_title(ax, letter, style.INPUT_LABELS[name] + (r", row of $k$" if row == 1 else ""), pad=11)
            ax.set(xlim=(low, high), xlabel="S" if row == 2 else "", ylabel="density" if column == 0 else "")
    bottom = grid[3, :].subgridspec(1, 2, width_ratios=(2.1, 1), wspace=0.1)
    shares = (0.42, 1, 0.3)  # room for the names of inputs and for the differences
    draw_aurocs(figure.add_subplot(bottom[0].subgridspec(1, 3, width_ratios=shares, wspace=0)[1]), numbers)
    imagenet = numbers[numbers["panel"] == "imagenet"]
    ax = figure.add_subplot(bottom[1])
    scores.draw_distribution(ax, imagenet)
    style.panel_title(ax, "e", ", ".join([*imagenet["series"].unique(), "attribution"]), pad=11)
    ax.set(xlim=scores.sides(imagenet), xlabel="S")
    outcomes = [style.handle(look) for look in style.OUTCOMES.values()]
    figure.axes[0].legend(handles=outcomes, loc="upper left", fontsize=6)
    style.caption(figure, text)
    return figure


def draw_aurocs(ax: Axes, numbers: pd.DataFrame) -> None:
    main = numbers[numbers["panel"] == "main"]
    names = [name for name in style.INPUT_LABELS if name in set(main["input"])]
    for shift, (measure, what, look) in zip((-0.2, 0.0, 0.2), READINGS, strict=True):
        some = style.where(numbers, measure=measure, what=what)
        for panel, colour, size, level in (("others", "#888888", 2.2, 2), ("main", look.colour, 3.5, 3)):
            points = some[some["panel"] == panel]
            at = points["input"].map({name: i for i, name in enumerate(names)}).astype(float) + shift
            drawn = replace(look, colour=colour)
            style.curve(ax, at, points, drawn, bars="x", markersize=size, markeredgewidth=0.7, zorder=level)
    differences, beside = main[main["what"] == "first - this"], {"transform": ax.get_yaxis_transform()}
    for _, row in differences.iterrows():
        scores.note(ax, 1.02, names.index(row["input"]), scores.interval_text(row), **beside)
    if len(differences):
        first = names.index(main.loc[main["what"] == "auroc", "input"].iloc[0])
        scores.note(ax, 1.02, first, "(a) above it by", **beside)
    for _, row in style.where(numbers, measure="margin", what="auroc").iterrows():
        ax.axvline(row["y"], color="#444444", linestyle=":", linewidth=0.8, zorder=1)
    style.level(ax, 0.5, "x")
    ax.set_yticks(np.arange(len(names)), [style.INPUT_LABELS[name] for name in names])
    ax.invert_yaxis()
    style.panel_title(ax, "d", 'AUROC for "classified correctly"', xlabel="AUROC")
    handles = [style.handle(look, markersize=3.5, markeredgewidth=0.7) for _, _, look in READINGS]
    more = {"columnspacing": 1.0, "handletextpad": 0.2, "handlelength": None, "fontsize": 6}
    style.legend(ax, handles, (0.3, -0.21), ncols=3, **more)
