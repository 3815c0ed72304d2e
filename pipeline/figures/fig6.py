"""Fig. 6: maps from the largest and the smallest activations of each layer: (a, b) their alignment, (c) the gap, (d, e) how like the map from all they are."""

from collections.abc import Mapping

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.figures import style
from pipeline.measures.intervals import crossed_curve

RULES = ("gbp", "rectgrad", "lrp")
READINGS = {"activation": r"$r_l = A_l$ on the units", "relevance": r"the rule's own $r_l$, masked"}
LINES = {"activation": ("-", True), "relevance": ("--", False)}  # line style, filled marks
CONTROLS = {"random": ":", "constant_max": (0, (1, 1.5)), "constant_min": (0, (1, 1.5))}
COLUMNS = ["panel", "seed_with", "rule", "part", "layer", "name", "y", "low", "high"]


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: alignment (also of `original`, the attribution from the output), gap (of alignment, max - min, image by image), similarity (cosine with the
    map from all units); y with its 95 % interval over images (and weight seeds, if there are several)."""
    rows: list[list] = []
    for seed_with, every in tables.items():
        for rule in RULES:
            table = every[every["rule"] == rule]
            by_part = {str(part): part_table for part, part_table in table.groupby("part", sort=False)}
            for part, part_table in by_part.items():
                rows += crossed_curve(["alignment", seed_with, rule, part], part_table, "alignment", by="layer")
            for part in ("max", "min"):
                rows += crossed_curve(["similarity", seed_with, rule, part], by_part[part], "sim_all", by="layer")
            keys = ["image", "seed", "layer", "name"]
            pairs = by_part["max"][[*keys, "alignment"]].merge(
                by_part["min"][[*keys, "alignment"]], on=keys, suffixes=("_max", "_min")
            )
            rows += crossed_curve(
                ["gap", seed_with, rule, "max - min"],
                pairs.assign(gap=pairs["alignment_max"] - pairs["alignment_min"]),
                "gap",
                by="layer",
            )
    found = pd.DataFrame(rows, columns=COLUMNS)
    originals = found[(found["panel"] == "alignment") & (found["seed_with"] == "relevance") & (found["part"] == "all")]
    return pd.concat([found, originals.assign(seed_with="activation", part="original")], ignore_index=True)


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    table = tables["activation"]
    file = table[table.columns.intersection(["weights.path", "weights.enum"])].iloc[0].dropna()
    missing = sum(int(t["alignment"].isna().sum()) for t in tables.values())
    seeds = f", weight seeds {sorted(table['seed'].unique())}" if table["seed"].nunique() > 1 else ", one network"
    return (
        f"Profile {profile}: {table['model'].iloc[0]}, weights: {' '.join([table['weights'].iloc[0], *file.astype(str)])}{seeds}; {table['image'].nunique()} images of {table['data'].iloc[0]}, "
        f"explained class: {table['explained'].iloc[0]}. Propagation starts at a layer's ReLU from the units named, and the rule runs to the input, without bottom process. max, min: the largest and "
        f"smallest {100 * table['share'].iloc[0]:g} % of the non-zero activations of one image; controls: as many random ones, and a constant r on those of max and min. (a) r is the activation itself; dotted line: "
        "the attribution from the output. (b) r is what the rule sends to that layer, masked; all units give the attribution from the output. (c) Difference of alignment, image by image. "
        f"(d, e) Cosine with the map from all units. Bands: 95 % bootstrap over images. Missing (no map): {missing} of {sum(len(t) for t in tables.values())} values."
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = plt.figure(figsize=(style.DOUBLE, 7.0))
    place = {"left": 0.07, "right": 0.985, "wspace": 0.16}
    top = figure.add_gridspec(2, 3, top=0.965, bottom=0.475, hspace=0.2, **place)
    bottom = figure.add_gridspec(1, 3, top=0.355, bottom=0.19, **{**place, "wspace": 0.24})
    names = numbers.drop_duplicates("layer").sort_values("layer")
    part = numbers[numbers["panel"] == "alignment"]
    low, high = min(-0.02, part["low"].min() - 0.02), part["high"].max() + 0.03
    for row, (seed_with, title) in enumerate(READINGS.items()):
        for column, rule in enumerate(RULES):
            ax = figure.add_subplot(top[row, column])
            draw_parts(ax, part[(part["seed_with"] == seed_with) & (part["rule"] == rule)])
            style.panel_title(
                ax,
                "ab"[row] if column == 0 else "",
                f"{title}: {style.LABELS[rule]}" if column == 0 else style.LABELS[rule],
            )
            ax.set(ylim=(low, high), ylabel=r"alignment $\alpha(R, x)$" if column == 0 else "")
            ax.tick_params(labelleft=column == 0)
            layers_below(ax, names, labels=row == 1)
    figure.legend(
        handles=part_handles(),
        loc="upper center",
        bbox_to_anchor=(0.525, 0.42),
        ncols=7,
        columnspacing=0.8,
        handlelength=1.7,
        handletextpad=0.5,
        fontsize=6.8,
    )
    for column, (panel, which, title, label) in enumerate(
        (
            ("gap", "max - min", r"gap, $\alpha$(max) - $\alpha$(min)", r"difference of $\alpha$"),
            ("similarity", "max", "likeness, max to all", "cosine of maps"),
            ("similarity", "min", "likeness, min to all", ""),
        )
    ):
        ax = figure.add_subplot(bottom[column])
        draw_rules(ax, numbers[(numbers["panel"] == panel) & (numbers["part"] == which)])
        style.panel_title(ax, "cde"[column], title)
        ax.set(ylabel=label)
        if panel == "gap":
            ax.axhline(0, color="#888888", linewidth=0.5, zorder=0)
        else:
            similar = numbers.loc[numbers["panel"] == "similarity"]
            ax.set_ylim(min(0, similar["low"].min()) - 0.02, 1.03)
        layers_below(ax, names, labels=True)
    figure.legend(
        handles=rule_handles(),
        loc="lower center",
        bbox_to_anchor=(0.52, 0.085),
        ncols=5,
        columnspacing=1.2,
        handlelength=2.2,
    )
    style.caption(figure, text, width=162)
    return figure


def draw_parts(ax: Axes, points: pd.DataFrame) -> None:
    for part, line in CONTROLS.items():
        chosen = points[points["part"] == part]
        mark = {"marker": style.PART_MARKS[part], "markersize": 4.2, "markerfacecolor": "none", "markeredgewidth": 0.6}
        ax.plot(
            chosen["layer"],
            chosen["y"],
            color=style.PART_COLOURS[part],
            linestyle=line,
            linewidth=0.8,
            zorder=4,
            **mark,
        )
    for part in ("all", "max", "min"):
        chosen, colour = points[points["part"] == part], style.PART_COLOURS[part]
        ax.fill_between(chosen["layer"], chosen["low"], chosen["high"], color=colour, alpha=0.15, linewidth=0)
        ax.plot(chosen["layer"], chosen["y"], color=colour, marker=style.PART_MARKS[part])
    original = points[points["part"] == "original"]
    ax.plot(original["layer"], original["y"], color="#000000", linestyle=":", linewidth=0.8)


def draw_rules(ax: Axes, points: pd.DataFrame) -> None:
    for seed_with, (line, filled) in LINES.items():
        for rule in RULES:
            chosen, colour = points[(points["seed_with"] == seed_with) & (points["rule"] == rule)], style.COLOURS[rule]
            ax.fill_between(chosen["layer"], chosen["low"], chosen["high"], color=colour, alpha=0.12, linewidth=0)
            ax.plot(
                chosen["layer"],
                chosen["y"],
                color=colour,
                linestyle=line,
                marker=style.MARKS[rule],
                markerfacecolor=colour if filled else "white",
                markeredgewidth=0.6,
            )


def layers_below(ax: Axes, names: pd.DataFrame, labels: bool) -> None:
    ax.set_xticks(names["layer"], names["name"] if labels else [""] * len(names), rotation=90, fontsize=6)


def part_handles() -> list[Line2D]:
    handles = [
        Line2D([], [], color=style.PART_COLOURS[p], marker=style.PART_MARKS[p], label=style.PART_LABELS[p])
        for p in ("all", "max", "min")
    ]
    handles += [
        Line2D(
            [],
            [],
            color=style.PART_COLOURS[p],
            marker=style.PART_MARKS[p],
            markersize=4.2,
            markerfacecolor="none",
            markeredgewidth=0.6,
            linestyle=line,
            linewidth=0.8,
            label=style.PART_LABELS[p],
        )
        for p, line in CONTROLS.items()
    ]
    return [*handles, Line2D([], [], color="#000000", linestyle=":", linewidth=0.8, label="from the output")]


def rule_handles() -> list[Line2D]:
    rules = [Line2D([], [], color=style.COLOURS[r], marker=style.MARKS[r], label=style.LABELS[r]) for r in RULES]
    readings = [
        Line2D(
            [],
            [],
            color="#444444",
            linestyle=line,
            marker="o",
            markerfacecolor="#444444" if filled else "white",
            label=READINGS[seed_with],
        )
        for seed_with, (line, filled) in LINES.items()
    ]
    return rules + readings
