"""Fig. 8: KIS (20) of right and wrong decisions, when the network is given (a) the attribution, (b), (c) insertions in
x's place; what controls say, how much of it the seed of training decides, and how much the insertions' threshold."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from pipeline.figures import captions, scores, style
from pipeline.figures.style import Look

PANELS = ("attribution", "insertion", "insertion_magnitude")  # (a), (b), (c)
CONTROLS = ("edge", "noise", "blur")
READINGS = (  # series of (d): measure, what, look
    ("s_own", "auroc", Look("#000000", "o", r"$S$, row of the new decision", "")),
    ("s_fixed", "auroc", Look("#000000", "s", r"$S$, row of $k$", "", False)),
    ("s_own", "auroc within margin", Look("#000000", "x", r"$S$ beyond the margin", "")),
)
MEAN = "#0072B2"  # over networks; each of them is a faint mark
TEXT = """
Profile {profile}: {network}; rule {main[rule]}, explained class: {main[explained]}. Densities of S (20), each of area
1, Silverman's width; triangles: the two peaks of all images together; V: 1 - valley / lower peak; dip: Hartigan's
test of one peak. AUROC: of S for classified correctly, 95 % bootstrap over images. First row: starred weights of the
new decision (the letter of (20)); second: of the decision k on x; third: controls, maps that know nothing of the
decision. Insertions put zero of normalised space in place of pixels that score below the mean. (d) AUROC for each
input, also over pairs of images alike in margin (20 bins); dotted line: AUROC of the margin itself; on the right how
far the attribution is above (paired by image). Blue: mean of n = {n} networks that differ in their training seed
alone{among}, 95 % t interval over them; faint marks: each: {seeds}. (e): {imagenet}. (f) How far the AUROC of the
attribution is above that of an insertion that removes this share of the lowest scores, paired by image; filled: row of
the new decision, open: of k; {shown} images. Missing S: {missing}; {beyond}.
"""


# ---- numbers ---------------------------------------------------------------------------------------------------------


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: main; seeds (networks that differ in their training seed alone), over seeds (their mean, with a t
    interval; n: networks); removed, removed seeds, removed over seeds: the same for insertions that remove a share x of
    the lowest scores; imagenet. series: the network; input: what it is given in x's place; measure: s_own or s_fixed;
    what: correct, incorrect (densities at x), a place of a peak, V, the p of the dip test, an AUROC or a difference of
    two, that of the attribution less that of the input (y with its 95 % interval over images); n: images."""
    main, networks = tables["main"], scores.networks(tables["seeds"])
    rows: list[list] = []
    removed = scores.networks(tables["seeds_removed"])
    for measure in scores.MEASURES:
        for name in (*PANELS, *CONTROLS) if measure == "s_own" else PANELS:
            rows += scores.distribution("main", "main", main[main["input"] == name], measure)
        more = measure == "s_own"
        single: list[list] = []
        rows += scores.aurocs("main", "main", main, measure, more=more)
        for i, table in enumerate(networks.values(), start=1):
            single += scores.aurocs("seeds", f"network {i}", table, measure, intervals=False, more=more)
        rows += single + scores.over_networks("over seeds", single)
    rows += thresholds("removed", "main", main, tables["removed"])
    single = []
    for i, (network, table) in enumerate(networks.items(), start=1):
        single += thresholds("removed seeds", f"network {i}", table, removed[network], intervals=False)
    rows += single + scores.over_networks("removed over seeds", single)
    alone = main[main["input"] == main["input"].iloc[0]]
    rows += scores.aurocs("main", "main", alone.assign(input="margin"), "margin")
    one, series = tables["imagenet"], tables["imagenet"]["model"].iloc[0]
    one = one[one["input"] == PANELS[0]]
    rows += scores.distribution("imagenet", series, one, "s_own")
    rows += scores.aurocs("imagenet", series, one, "s_own")
    return pd.DataFrame(rows, columns=scores.COLUMNS)


def thresholds(
    panel: str, series: str, table: pd.DataFrame, removed: pd.DataFrame, intervals: bool = True
) -> list[list]:
    """How far the attribution of one network is above its insertions, by the share that they remove."""
    own = table[table["input"] == PANELS[0]]
    rows: list[list] = []
    for (name, share), part in removed.groupby(["input", "experiment.removed"], sort=False):
        for measure in scores.MEASURES:
            found = scores.above(own, part, measure, intervals)
            rows += [[panel, series, name, measure, "first - this", float(share), *values] for values in found]
    return rows


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    main, networks = tables["main"], scores.networks(tables["seeds"])
    shown = {f"{table['image'].nunique():,}" for table in (tables["removed"], tables["seeds_removed"])}
    return captions.words(
        TEXT,
        tables,
        profile=profile,
        network=scores.network_text(main),
        n=len(networks),
        among=" (the one of (a) is among them)" if scores.networks(main).keys() <= networks.keys() else "",
        seeds=", ".join(scores.network_text(table, brief=True) for table in networks.values()),
        shown=" and ".join(sorted(shown)),
        imagenet=scores.network_text(tables["imagenet"]),
        missing=scores.missing_text(main),
        beyond=scores.beyond_text(main),
    )


# ---- drawing ---------------------------------------------------------------------------------------------------------


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = style.page(9.4)
    sides, rows = {"left": 0.05, "right": 0.985, "top": 0.97, "bottom": 0.165}, (1, 1, 1, 3.1)
    grid = figure.add_gridspec(4, 3, **sides, hspace=0.62, wspace=0.1, height_ratios=rows)
    main = numbers[numbers["panel"] == "main"]
    low, high = scores.sides(main)
    for row, (measure, inputs) in enumerate((("s_own", PANELS), ("s_fixed", PANELS), ("s_own", CONTROLS))):
        for column, name in enumerate(inputs):
            ax = figure.add_subplot(grid[row, column])
            scores.draw_distribution(ax, style.where(main, input=name, measure=measure))
            letter = "abc"[column] if row == 0 else ""
            style.panel_title(ax, letter, style.INPUT_LABELS[name] + (r", row of $k$" if row == 1 else ""), pad=11)
            ax.set(xlim=(low, high), xlabel="S" if row == 2 else "", ylabel="density" if column == 0 else "")
    bottom = grid[3, :].subgridspec(1, 2, width_ratios=(2.1, 1), wspace=0.12)
    shares = (0.5, 1, 0.78)  # room for the names of inputs and for the differences
    draw_aurocs(figure.add_subplot(bottom[0].subgridspec(1, 3, width_ratios=shares, wspace=0)[1]), numbers)
    imagenet = numbers[numbers["panel"] == "imagenet"]
    right = bottom[1].subgridspec(2, 1, height_ratios=(1, 3), hspace=0.5)
    ax = figure.add_subplot(right[0])
    scores.draw_distribution(ax, imagenet)
    style.panel_title(ax, "e", ", ".join([*imagenet["series"].unique(), "attribution"]), pad=11)
    ax.set(xlim=scores.sides(imagenet), xlabel="S")
    draw_thresholds(figure, right[1], numbers)
    outcomes = [style.handle(look) for look in style.OUTCOMES.values()]
    figure.axes[0].legend(handles=outcomes, loc="upper left", fontsize=6)
    style.caption(figure, text)
    return figure


def draw_aurocs(ax: Axes, numbers: pd.DataFrame) -> None:
    parts = {panel: numbers[numbers["panel"] == panel] for panel in ("seeds", "over seeds", "main")}
    names = [name for name in style.INPUT_LABELS if name in set(parts["main"]["input"])]
    places = {name: i for i, name in enumerate(names)}
    for shift, (measure, what, look) in zip((-0.27, 0.0, 0.27), READINGS, strict=True):
        for panel, colour, size, below in (
            ("seeds", "#9CCBE8", 2, 0.07),
            ("over seeds", MEAN, 3.2, 0.07),
            ("main", look.colour, 3.2, -0.07),
        ):
            points = style.where(parts[panel], measure=measure, what=what)
            points = points[points["input"].isin(names)]
            at = points["input"].map(places).astype(float) + shift + below
            mark = {"markersize": size, "markeredgewidth": 0.4 if panel == "seeds" else 0.7}
            style.curve(
                ax, at, points, replace(look, colour=colour), bars="x", zorder=2 + list(parts).index(panel), **mark
            )
    beside = {"transform": ax.get_yaxis_transform()}
    for x, panel, colour, title in (
        (1.03, "main", "#333333", "(a) above it by"),
        (1.45, "over seeds", MEAN, "mean of networks"),
    ):
        differences = style.where(parts[panel], what="first - this")
        for _, row in differences[differences["input"].isin(names)].iterrows():
            scores.note(ax, x, places[row["input"]], scores.interval_text(row), **beside, color=colour)
        if len(differences):
            scores.note(ax, x, places.get(PANELS[0], 0), title, **beside, color=colour)
    for _, row in style.where(numbers, measure="margin", what="auroc").iterrows():
        ax.axvline(row["y"], color="#444444", linestyle=":", linewidth=0.8, zorder=1)
    style.level(ax, 0.5, "x")
    ax.set_yticks(np.arange(len(names)), [style.INPUT_LABELS[name] for name in names])
    ax.invert_yaxis()
    style.panel_title(ax, "d", 'AUROC for "classified correctly"', xlabel="AUROC")
    handles = [style.handle(look, markersize=3.5, markeredgewidth=0.7) for _, _, look in READINGS]
    handles += [
        style.handle(Look("#000000", "", "this network", "-")),
        style.handle(Look(MEAN, "", mean_label(parts["over seeds"]), "-")),
    ]
    more = {"columnspacing": 1.0, "handletextpad": 0.4, "handlelength": 1.0, "fontsize": 6}
    style.legend(ax, handles, (0.5, -0.1), ncols=3, **more)


def mean_label(means: pd.DataFrame) -> str:
    """How many networks a mean is of."""
    counts = sorted({int(n) for n in means["n"]})
    return f"mean of {' to '.join(map(str, (counts[0], counts[-1])[: len(counts)]))} networks" if counts else "no mean"


def draw_thresholds(figure: Figure, place: SubplotSpec, numbers: pd.DataFrame) -> None:
    """This network above, the mean over networks and each of them below."""
    axes = place.subgridspec(2, 1, hspace=0.3).subplots(sharex=True, sharey=True)
    for ax, panel in zip(axes, ("removed", "removed over seeds"), strict=True):
        part = numbers[numbers["panel"] == panel]
        for name, look in ((name, style.INPUTS[name]) for name in PANELS[1:]):
            for measure, drawn in (("s_own", style.solid(look)), ("s_fixed", style.opened(look, ":"))):
                points = style.where(part, input=name, measure=measure).sort_values("x")
                style.curve(ax, points["x"], points, drawn, band=0.13, markeredgewidth=0.7)
                if panel != "removed":
                    each = style.where(numbers, panel="removed seeds", input=name, measure=measure)
                    ax.plot(
                        each["x"], each["y"], look.mark, color=look.colour, markersize=1.2, alpha=0.5, linestyle="none"
                    )
        style.level(ax)
        scores.note(
            ax, 0.02, 0.97, "this network" if panel == "removed" else mean_label(part), transform=ax.transAxes, va="top"
        )
    style.panel_title(axes[0], "f", "(a) above insertions by")
    style.panel_title(axes[1], "", "", xlabel="share of pixels removed")
    handles = [style.handle(style.INPUTS[name]) for name in PANELS[1:]]
    style.legend(axes[1], handles, (0.45, -0.33), ncols=2, fontsize=6, handlelength=1.0, handletextpad=0.4)
