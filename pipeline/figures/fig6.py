"""Fig. 6: maps from the largest and the smallest activations of each layer: (a, b) their alignment, (c) the gap,
(d, e) how like the map from all they are."""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import captions, style
from pipeline.measures.intervals import crossed_curve

READINGS = {  # how r starts: colour and mark of its legend
    "activation": style.Look(style.INK, "o", r"$r_l = A_l$ on the units"),
    "relevance": style.Look(style.INK, "o", r"the rule's own $r_l$, masked", "--", False),
}
ORIGINAL = style.Look("#000000", "", "from the output", ":")
COLUMNS = ["panel", "seed_with", "rule", "part", "layer", "name", "y", "low", "high"]
TEXT = """
Profile {profile}: {activation.state}{alone}; {activation.images}, explained class: {activation[explained]}.
Propagation starts at a layer's ReLU from the units named, and the rule runs to the input, without bottom process.
max, min: the largest and smallest {share:g} % of the non-zero activations of one image; controls: as many random
ones, 1 on those of max and min, noise and another image's activation on all. (a) r is the activation itself
(for LRP the relevance is, so that r is 1 there); dotted line: the attribution from the
output. (b) r is what the rule sends to that layer, masked; all units give the attribution from the output. (c)
Difference of alignment, image by image. (d, e) Cosine with the map from all units. Bands: 95 % intervals over images.
Missing (no map): {missing} of {values} values.
"""


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: alignment (also of `original`, the attribution from the output), gap (of alignment, max - min, image
    by image), similarity (cosine with the map from all units); y with its 95 % interval over images (and weight
    seeds, if there are several)."""
    rows: list[list] = []
    keys = ["image", "seed", "layer", "name"]
    for seed_with, every in tables.items():
        for rule in style.ordered(every["rule"]):
            labels = [seed_with, rule]
            parts = {str(part): table for part, table in every[every["rule"] == rule].groupby("part", sort=False)}
            for part, table in parts.items():
                rows += crossed_curve(["alignment", *labels, part], table, "alignment", by="layer")
            for part in ("max", "min"):
                rows += crossed_curve(["similarity", *labels, part], parts[part], "sim_all", by="layer")
            largest, smallest = (parts[part][[*keys, "alignment"]] for part in ("max", "min"))
            pairs = largest.merge(smallest, on=keys, suffixes=("_max", "_min"))
            pairs = pairs.assign(gap=pairs["alignment_max"] - pairs["alignment_min"])
            rows += crossed_curve(["gap", *labels, "max - min"], pairs, "gap", by="layer")
    found = pd.DataFrame(rows, columns=COLUMNS)
    originals = style.where(found, panel="alignment", seed_with="relevance", part="all")
    return pd.concat([found, originals.assign(seed_with="activation", part="original")], ignore_index=True)


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    table = tables["activation"]
    return captions.words(
        TEXT,
        tables,
        profile=profile,
        alone=", one network" if table["seed"].nunique() == 1 else "",
        share=100 * table["share"].iloc[0],
        missing=sum(int(t["alignment"].isna().sum()) for t in tables.values()),
        values=sum(map(len, tables.values())),
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = style.page(7.0)
    rules = style.looks(numbers["rule"])
    narrow = len(rules) > 3  # then the reading has no room above a panel
    left = 0.09 if narrow else 0.07
    top = figure.add_gridspec(2, len(rules), top=0.965, bottom=0.475, hspace=0.2, wspace=0.16, left=left, right=0.985)
    bottom = figure.add_gridspec(1, 3, top=0.355, bottom=0.19, wspace=0.3, left=0.07, right=0.985)
    names = numbers.drop_duplicates("layer").sort_values("layer")
    part = numbers[numbers["panel"] == "alignment"]
    low, high = min(-0.02, part["low"].min() - 0.02), part["high"].max() + 0.03
    for row, (seed_with, reading) in enumerate(READINGS.items()):
        for column, (rule, look) in enumerate(rules.items()):
            ax = figure.add_subplot(top[row, column])
            draw_parts(ax, style.where(part, seed_with=seed_with, rule=rule))
            first = column == 0
            title = f"{reading.label}: {look.label}" if first and not narrow else look.label
            label = (f"{reading.label}\n" if narrow else "") + r"alignment $\alpha(R, x)$"
            words = {"ylabel": label if first else ""}
            style.panel_title(ax, "ab"[row] if first else "", title, ylim=(low, high), **words)
            ax.tick_params(labelleft=first)
            layers_below(ax, names, labels=row == 1)
    handles = [style.handle(look, **marks(look)) for look in (*style.PARTS.values(), ORIGINAL)]
    more = {"columnspacing": 0.7, "handlelength": 1.6, "handletextpad": 0.4, "fontsize": 6.0}
    style.legend(figure, handles, (0.525, 0.42), ncols=9, **more)
    similar = numbers[numbers["panel"] == "similarity"]
    for column, (panel, which, title, label) in enumerate(
        (
            ("gap", "max - min", r"gap, $\alpha$(max) - $\alpha$(min)", r"difference of $\alpha$"),
            ("similarity", "max", "likeness, max to all", "cosine of maps"),
            ("similarity", "min", "likeness, min to all", ""),
        )
    ):
        ax = figure.add_subplot(bottom[column])
        draw_rules(ax, style.where(numbers, panel=panel, part=which))
        style.panel_title(ax, "cde"[column], title, ylabel=label)
        if panel == "gap":
            style.level(ax)
        else:
            ax.set_ylim(min(0, similar["low"].min()) - 0.02, 1.03)
        layers_below(ax, names, labels=True)
    series = [*map(style.solid, rules.values()), *READINGS.values()]
    style.legend(figure, series, (0.52, 0.085), loc="lower center", ncols=max(5, len(series)))
    style.caption(figure, text)
    return figure


def marks(look: style.Look) -> dict:
    """Controls lie above the parts, with open marks."""
    if look.line == "-":
        return {"markeredgewidth": 1}
    return {"markersize": 4.2, "markerfacecolor": "none", "linewidth": 0.8}


def draw_parts(ax: Axes, points: pd.DataFrame) -> None:
    for part, look in [*style.PARTS.items(), ("original", ORIGINAL)]:
        chosen = points[points["part"] == part]
        above = {} if look.line == "-" or part == "original" else {"zorder": 4}
        style.curve(ax, chosen["layer"], chosen, look, band=0.15 if look.line == "-" else 0, **marks(look), **above)


def draw_rules(ax: Axes, points: pd.DataFrame) -> None:
    for seed_with, reading in READINGS.items():
        for rule, rule_look in style.looks(points["rule"]).items():
            chosen = style.where(points, seed_with=seed_with, rule=rule)
            look = replace(rule_look, line=reading.line, filled=reading.filled)
            style.curve(ax, chosen["layer"], chosen, look, band=0.12)


def layers_below(ax: Axes, names: pd.DataFrame, labels: bool) -> None:
    ax.set_xticks(names["layer"], names["name"] if labels else [""] * len(names), rotation=90, fontsize=6)
