"""Fig. 8: KIS (20) of right and wrong decisions, when the network is given (a) the attribution, (b), (c) insertions in
x's place; what controls say, how much of it the seed of training decides, and how much the insertions' threshold."""

from collections.abc import Mapping
from dataclasses import replace

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
far the attribution is above (paired by image). Blue: mean and 95 % t interval over networks that differ in their
training seed alone, but for those with fewer than {least} right or wrong images; faint: each of them: {seeds}{among}.
(e): {imagenet}. (f) How far the attribution's AUROC is above that of an insertion that removes this share of the
lowest scores, paired by image; filled: row of the new decision, open: of k; {removed.count:,} images,
{seeds_removed.count:,} of each of the networks. Missing S: {missing}; {beyond}.
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
    return captions.words(
        TEXT,
        tables,
        profile=profile,
        network=scores.network_text(main),
        least=scores.LEAST,
        among="; one of them is that of (a)" if scores.networks(main).keys() <= networks.keys() else "",
        seeds=", ".join(scores.network_text(table, brief=True) for table in networks.values()),
        imagenet=scores.network_text(tables["imagenet"]),
        missing=scores.missing_text(main),
        beyond=scores.beyond_text(main),
    )


# ---- drawing ---------------------------------------------------------------------------------------------------------


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = style.page(9.4)
    sides = {"left": 0.05, "right": 0.985, "top": 0.97, "bottom": 0.175}
    top, bottom = figure.add_gridspec(2, 1, **sides, hspace=0.2, height_ratios=(1, 1.08))
    draw_distributions(figure, top, numbers[numbers["panel"] == "main"])
    left, right = bottom.subgridspec(1, 2, width_ratios=(2.15, 1), wspace=0.12)
    shares = (0.5, 1, 0.74)  # room for the names of inputs and for the differences
    draw_aurocs(figure.add_subplot(left.subgridspec(1, 3, width_ratios=shares, wspace=0)[1]), numbers)
    rest = right.subgridspec(2, 1, height_ratios=(0.55, 3), hspace=0.42)
    draw_imagenet(figure.add_subplot(rest[0]), numbers[numbers["panel"] == "imagenet"])
    draw_thresholds(figure, rest[1], numbers)
    outcomes = [style.handle(look) for look in style.OUTCOMES.values()]
    style.legend(figure, outcomes, (0.355, 0.608), ncols=2, fontsize=6.5)
    style.caption(figure, text)
    return figure


def draw_distributions(figure: Figure, place: SubplotSpec, main: pd.DataFrame) -> None:
    """(a) to (c), and below them two more rows."""
    low, high = scores.sides(main)
    grid = place.subgridspec(3, 3, hspace=0.62, wspace=0.1)
    for row, (measure, inputs) in enumerate((("s_own", PANELS), ("s_fixed", PANELS), ("s_own", CONTROLS))):
        for column, name in enumerate(inputs):
            ax = figure.add_subplot(grid[row, column])
            scores.draw_distribution(ax, style.where(main, input=name, measure=measure))
            letter = "abc"[column] if row == 0 else ""
            style.panel_title(ax, letter, style.INPUT_LABELS[name] + (r", row of $k$" if row == 1 else ""), pad=11)
            ax.set(xlim=(low, high), xlabel="S" if row == 2 else "", ylabel="density" if column == 0 else "")


def draw_imagenet(ax: Axes, part: pd.DataFrame) -> None:
    scores.draw_distribution(ax, part)
    style.panel_title(ax, "e", ", ".join([*part["series"].unique(), "attribution"]), pad=11)
    ax.set(xlim=scores.sides(part))
    ax.set_xlabel("S", labelpad=1)


def draw_aurocs(ax: Axes, numbers: pd.DataFrame) -> None:
    parts = {panel: numbers[numbers["panel"] == panel] for panel in ("seeds", "over seeds", "main")}
    parts = {panel: part[part["input"] != "margin"] for panel, part in parts.items()}
    inputs = set(parts["main"]["input"]) | set(parts["over seeds"]["input"])
    places = {name: i for i, name in enumerate(name for name in style.INPUT_LABELS if name in inputs)}
    marks = {
        "seeds": ("#56B4E9", 1.8, 0.4, 0.11),
        "over seeds": (MEAN, 3.2, 0.7, 0.02),
        "main": ("#000000", 3.2, 0.7, -0.1),
    }
    for shift, (measure, what, look) in zip((-0.28, 0.0, 0.28), READINGS, strict=True):
        for level, (panel, (colour, size, edge, below)) in enumerate(marks.items(), start=2):
            points = style.where(parts[panel], measure=measure, what=what)
            at = points["input"].map(places).astype(float) + shift + below
            drawn = {"markersize": size, "markeredgewidth": edge, "zorder": level}
            style.curve(ax, at, points, replace(look, colour=colour), bars="x", **drawn)
    write_differences(ax, 1.03, parts["main"], places, "(a) above it by", "#333333")
    write_differences(ax, 1.4, parts["over seeds"], places, "the same, mean", MEAN)
    for _, row in style.where(numbers, measure="margin", what="auroc").iterrows():
        ax.axvline(row["y"], color="#444444", linestyle=":", linewidth=0.8, zorder=1)
    style.level(ax, 0.5, "x")
    ax.set_yticks(list(places.values()), [style.INPUT_LABELS[name] for name in places])
    ax.set_ylim(len(places) - 0.4, -0.6)
    style.panel_title(ax, "d", 'AUROC for "classified correctly"')
    ax.set_xlabel("AUROC", labelpad=1)
    handles = [style.handle(look, markersize=3.5, markeredgewidth=0.7) for _, _, look in READINGS]
    lines = (Look("#000000", "", "this network"), Look(MEAN, "", mean_label(parts["over seeds"])))
    more = {"columnspacing": 1.0, "handletextpad": 0.4, "handlelength": 1.0, "fontsize": 6}
    style.legend(ax, [*handles, *lines], (0.5, -0.085), ncols=3, **more)


def write_differences(
    ax: Axes, x: float, part: pd.DataFrame, places: Mapping[str, int], title: str, colour: str
) -> None:
    """A column of numbers at x (in widths of the axes), beside the input that each is about."""
    differences = part[part["what"] == "first - this"]
    look = {"transform": ax.get_yaxis_transform(), "color": colour}
    for _, row in differences.iterrows():
        scores.note(ax, x, places[row["input"]], scores.interval_text(row), **look)
    if len(differences):  # they are above the first input that has an AUROC
        scores.note(ax, x, places[part.loc[part["what"] == "auroc", "input"].iloc[0]], title, **look)


def mean_label(means: pd.DataFrame) -> str:
    """How many networks the means are of, some of which may lack an input."""
    counts = sorted({int(n) for n in means["n"]})
    if not counts:
        return "no mean over networks"
    return f"mean of {'-'.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))} network{'s' * (counts[-1] > 1)}"


def draw_thresholds(figure: Figure, place: SubplotSpec, numbers: pd.DataFrame) -> None:
    """This network above; the mean over networks, and each of them, below."""
    above, below = place.subgridspec(2, 1, hspace=0.16).subplots(sharex=True, sharey=True)
    singles = numbers[numbers["panel"] == "removed seeds"]
    for ax, panel in ((above, "removed"), (below, "removed over seeds")):
        part = numbers[numbers["panel"] == panel]
        for name, look in ((name, style.INPUTS[name]) for name in PANELS[1:]):
            for measure, drawn in (("s_own", style.solid(look)), ("s_fixed", style.opened(look, ":"))):
                points = style.where(part, input=name, measure=measure).sort_values("x")
                style.curve(ax, points["x"], points, drawn, band=0.13, markeredgewidth=0.7)
                if ax is below:
                    each = style.where(singles, input=name, measure=measure)
                    small = {"markersize": 1.3, "markeredgewidth": 0.3, "alpha": 0.6}
                    style.curve(ax, each["x"], each, replace(drawn, line=""), **small)
        style.level(ax)
        words = "this network" if ax is above else mean_label(part)
        scores.note(ax, 0.02, 0.99, words, transform=ax.transAxes, va="top")
    style.panel_title(above, "f", "(a) above insertions by")
    style.panel_title(below, "", "")
    below.set_xlabel("share of pixels removed", labelpad=1)
    above.tick_params(labelbottom=False)
    handles = [style.handle(style.INPUTS[name]) for name in PANELS[1:]]
    more = {"handlelength": 1.0, "handletextpad": 0.2, "columnspacing": 0.8, "fontsize": 6}
    style.legend(below, handles, (0.42, -0.27), ncols=2, **more)
