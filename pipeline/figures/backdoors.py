"""Controls of Fig. 9: (a) how a map becomes an image, (b) whether the trigger decides alone, (c) the trigger put on
again, (d) attacks that failed, (e) variants of BadNet, (f) how much of each rule's map lies on the trigger."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import backdoor_tables as tabled
from pipeline.figures import captions, scores, style
from pipeline.figures.backdoor_tables import TUNED, VARIANTS
from pipeline.figures.style import Look
from pipeline.measures.attacked import ATTACKS, numbered, paired, toxic, undecided, whose
from pipeline.measures.scores import LOW

BLACK, BLUE, ORANGE, GREEN, GREY = "#000000", "#0077BB", "#EE7733", "#009988", "#999999"
RESCALES = {
    "minmax": Look(BLACK, "o", "range of x (the paper's)", ""),
    "percentile": Look(BLUE, "s", "range, tails cut off", ""),
    "contrast": Look(ORANGE, "^", "mean and SD of x", ""),
}
SAMPLES = {
    "triggered": Look(BLACK, "o", "triggered", ""),
    "transplanted": Look(BLUE, "s", "other image", ""),
    "mean": Look(ORANGE, "^", "mean colour", ""),
}
AGAIN = {
    "attribution": Look(BLACK, "o", "triggered", ""),
    "retriggered": Look(BLUE, "s", "trigger put on again", ""),
    "cross": Look(ORANGE, "^", "only looks triggered", ""),
    "clean": Look(GREEN, "D", "clean", ""),
}
FATES = {
    "succeeded": Look(BLACK, "o", "attack succeeded", ""),
    "failed": Look("#AA3377", "v", "failed", ""),
}
SHADES = {name: Look(colour, "", name) for name, colour in zip(VARIANTS, ("#99DDFF", "#44AAEE", "#0066AA", "#002255"))}
FILTER = Look("#888888", "P", r"$P\mathbf{x}$, no decision")
TEXT = """
Profile {profile}: {networks}; {data}. {decides_nothing}{few}(a) to (e): rule {rescale[rule]}, explained class:
{rescale[explained]}. Only images that are not of the goal class. Large marks in (a) to (c): mean over the networks of
an attack, small ones: each network; in (d) networks together, 95 % bootstrap over images. S: median of (20), filled:
starred weights of the new decision, open: of the decision k on x; drawn at {low:.0f} where it is below. Kept: the
rescaled map gets the decision of the image. (a) The map mapped to the range of x, the same after {percent:g} % are cut
off at each end, and to the mean and SD of x. (b) Decided for the goal class: what the trigger changed, on the image, on
another one, and on the mean colour, of those that are decided otherwise without it (no mark: there are none); grey:
clean networks on the same. (c) The map's image with the trigger put on again, and images that only look triggered
(another image's trigger, or a noisy warp), beside clean ones. (e) Densities of S, starred weights of the new decision,
of BadNets ({kinds}); triangles: peaks, V: 1 - valley / lower peak; {tuned}. (f) Share of the map's |R| inside the
trigger (WaNet, whose trigger is everywhere: rank correlation with the change), {lit}; filled: less that of the clean
network on the same triggered image, each for the class explained of its own, mean over networks of each image, 95 %
over images; small: each network; open: as it is; dotted: chance. Maps without bottom process. Missing S: {missing}.
"""


# ---- numbers ---------------------------------------------------------------------------------------------------------


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """panel: a to f; series: the attack, in d the variant of BadNet; input: what is compared: the rescaling (a), the
    sample (b), what the network is given (c), whether the attack succeeded (d), the rule or filter (f); measure: kept,
    success, s_own, s_fixed (medians), energy or rank_correlation; what: mean (over networks), network 1, ..., the same
    of clean ones (b), median (d), difference, attacked, chance (f), in e a density y at x, peaks and V; n: images, in
    rows of several networks those of all together."""
    given = numbered({name: table for name, table in tables.items() if name != "variants"})
    part = {name: toxic(table) for name, table in given.items()}
    rows = tabled.by_network("a", part["rescale"], "experiment.rescale", tabled.KEPT)
    for sweep, state in (("decides", ""), ("decides_clean", "clean ")):
        rows += tabled.by_network("b", undecided(once(part[sweep])), "sample", tabled.SUCCESS, state)
    for table in (part["again"], part["cross"].assign(input=part["cross"]["sample"])):
        rows += tabled.by_network("c", table, "input", tabled.KEPT)
    rows += tabled.variant_rows(toxic(tables["variants"]))
    rows += tabled.fates(part["again"][part["again"]["input"] == "attribution"])
    rows += tabled.lit("f", paired(part["highlight"], part["highlight_clean"]))
    return pd.DataFrame(rows, columns=scores.COLUMNS)


def once(table: pd.DataFrame) -> pd.DataFrame:
    """A row per image and sample, whatever was put in its place: for decisions on the sample."""
    return table.drop_duplicates(["attack", "network", "sample", "image"])


# ---- caption ---------------------------------------------------------------------------------------------------------


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    given = numbered({name: tables[name] for name in ("rescale", "highlight")})
    rescale, counts = given["rescale"], given["rescale"].groupby("attack", sort=False)["network"].nunique()
    row, images = rescale.iloc[0], toxic(rescale).drop_duplicates(["attack", "network", "image"])
    each = images.groupby(["attack", "network"]).size()
    lit = toxic(given["highlight"]).drop_duplicates(["attack", "network", "image"])
    kinds = [tabled.variant(network) for network in whose(tables["variants"]).unique()]
    percents = rescale.loc[rescale["experiment.rescale"] == "percentile", "experiment.percent"]
    wide = f" of width {row['model.width']:.0f}" if np.isfinite(row.get("model.width", scores.NAN)) else ""
    return captions.words(
        TEXT,
        tables,
        profile=profile,
        networks=", ".join(f"{n} {label(attack)}" for attack, n in counts.items())
        + f" ({row['model']}{wide}, {row['weights']})",
        data=f"{between(each)} triggered images of {row['data']} for each",
        decides_nothing="Small and few: this shows the path and decides nothing. "
        if row["data"] == "digits" or profile == "demo"
        else "",
        few="Fewer than 3 networks of some attack: for these models. " if counts.min() < 3 else "",
        low=LOW,
        percent=percents.iloc[0] if len(percents) else 0,
        kinds=", ".join(kinds),
        tuned=f"{TUNED}: a clean network trained on"
        if TUNED in kinds
        else "none is a clean network trained on, which needs a file to start from",
        lit=f"n = {between(lit.groupby(['attack', 'network']).size())}",
        missing=scores.missing_text(pd.concat([tables[name] for name in ("rescale", "again", "cross", "variants")])),
    )


def between(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def label(attack: str) -> str:
    return ATTACKS.get(attack, attack)


# ---- drawing ---------------------------------------------------------------------------------------------------------


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    figure = style.page(9.0)
    sides = {"left": 0.078, "right": 0.985, "top": 0.975, "bottom": 0.2}
    grid = figure.add_gridspec(4, 1, **sides, hspace=0.62, height_ratios=(1, 1, 1, 1.15))
    part = {panel: numbers[numbers["panel"] == panel] for panel in "abcdef"}
    attacks = style.ordered(numbers.loc[numbers["panel"] != "e", "series"], ATTACKS)
    (kept, medians, alone), (again, later, fate) = (
        [figure.add_subplot(spec) for spec in grid[row].subgridspec(1, 3, wspace=0.33)] for row in (0, 1)
    )
    for left, right, letter, looks, words in (
        (kept, medians, "a", RESCALES, "how a map becomes an image"),
        (again, later, "c", AGAIN, "the trigger put on again"),
    ):
        draw_shares(left, style.where(part[letter], measure="kept"), attacks, looks)
        style.panel_title(left, letter, words, ylabel="decision kept")
        draw_scores(right, part[letter], attacks, looks)
        style.panel_title(right, "", "the same: median S")
        style.legend(left, looks.values(), (1.13, -0.13), ncols=4, **SMALL)
    draw_shares(alone, part["b"], attacks, SAMPLES)
    style.panel_title(alone, "b", "the trigger alone", ylabel="decided for the goal")
    style.legend(alone, [*SAMPLES.values(), Look(GREY, "o", "clean", "")], (0.4, -0.13), ncols=4, **SMALL)
    draw_scores(fate, part["d"], attacks, FATES, counted=True)
    style.panel_title(fate, "d", "attacks that failed")
    style.legend(fate, FATES.values(), (0.5, -0.24), ncols=2, **SMALL)
    densities, beside = (figure.add_subplot(s) for s in grid[2].subgridspec(1, 2, wspace=0.04, width_ratios=(1.25, 1)))
    draw_variants(densities, beside, part["e"])
    draw_lit(figure, grid[3], part["f"], [attack for attack in attacks if attack in set(part["f"]["series"])])
    style.caption(figure, text)
    return figure


SMALL = {"fontsize": 6, "columnspacing": 0.6, "handletextpad": 0.1, "handlelength": 1.2}


def places(ax: Axes, attacks: Sequence[str], count: int) -> np.ndarray:
    """Attacks along x; where the marks of `count` cases lie beside each other around one of them."""
    ax.set_xticks(range(len(attacks)), [label(attack) for attack in attacks], fontsize=5.2)
    ax.set_xlim(-0.55, len(attacks) - 0.45)
    step = 0.72 / max(count, 1)
    return step * (np.arange(count) - (count - 1) / 2)


def marks(ax: Axes, points: pd.DataFrame, attacks: Sequence[str], shift: float, look: Look, state: str = "") -> None:
    """The mean over networks, large, and each network, small."""
    place = {attack: i + shift for i, attack in enumerate(attacks)}
    small = points[points["what"].str.match(f"{state}network")]
    at = small["series"].map(place).astype(float) + 0.09
    style.curve(ax, at, small, replace(look, filled=False), markersize=1.8, markeredgewidth=0.4, zorder=2)
    large = style.where(points, what=f"{state}mean")
    style.curve(ax, large["series"].map(place).astype(float), large, look, markersize=4, zorder=3)


def draw_shares(ax: Axes, part: pd.DataFrame, attacks: Sequence[str], looks: Mapping[str, Look]) -> None:
    shifts = places(ax, attacks, len(looks))
    for shift, (case, look) in zip(shifts, looks.items(), strict=True):
        points = style.where(part, input=case)
        marks(ax, points, attacks, shift, replace(look, colour=GREY), "clean ")
        marks(ax, points, attacks, shift, look)
    ax.set(ylim=(-0.04, 1.04))
    style.level(ax, 0)
    style.level(ax, 1)


def draw_scores(
    ax: Axes, part: pd.DataFrame, attacks: Sequence[str], looks: Mapping[str, Look], counted: bool = False
) -> None:
    """Medians of S; counted: of networks together, with intervals, and n below."""
    part = part.assign(**{column: part[column].clip(lower=LOW) for column in ("y", "low", "high")})
    part = part.loc[part["measure"].isin(scores.MEASURES)]
    shifts = places(ax, attacks, len(looks))
    for shift, (case, look) in zip(shifts, looks.items(), strict=True):
        for side, measure, drawn in ((-0.06, "s_own", look), (0.06, "s_fixed", style.opened(look, ""))):
            points = style.where(part, input=case, measure=measure)
            if not counted:
                marks(ax, points, attacks, shift + side, drawn)
                continue
            at = points["series"].map({attack: i + shift + side for i, attack in enumerate(attacks)}).astype(float)
            style.curve(ax, at, points, drawn, bars="y", markersize=4)
            for x, n in zip(at, points["n"], strict=True) if measure == "s_own" else ():
                scores.note(ax, x - side, -0.2, f"{n:,}", transform=ax.get_xaxis_transform(), ha="center", fontsize=5)
    if counted:
        scores.note(ax, -0.02, -0.2, "n", transform=ax.transAxes, fontsize=5, ha="right")
    ax.set(ylabel="S")
    style.level(ax, 0)


def draw_variants(ax: Axes, beside: Axes, part: pd.DataFrame) -> None:
    """Densities of S, and what each variant's say in words."""
    looks = style.looks(part["series"], {**SHADES, TUNED: Look(ORANGE, "", TUNED, "--")})
    columns = (0.0, 0.2, 0.35, 0.48, 0.7)
    beside.axis("off")
    for x, head in zip(columns, ("BadNet", "success", "kept", "peaks", "V"), strict=True):
        scores.note(beside, x + 0.06, 0.95, head, transform=beside.transAxes, fontweight="bold")
    for i, (name, look) in enumerate(looks.items()):
        points = style.where(part, series=name)
        dense, single = style.where(points, what="density"), style.where(points, what="image")
        style.curve(ax, dense["x"], dense, look)
        height = np.full(len(single), 0.1 + 0.13 * i)
        ax.plot(single["x"], height, "|", color=look.colour, markersize=6, transform=ax.get_xaxis_transform())
        found = points[~points["what"].isin(["density", "image", "mean"])].set_index("what")
        tops = [found.at[what, "x"] for what in ("left peak", "right peak", "peak") if what in found.index]
        tops = [x for x in tops if np.isfinite(x)]
        ax.plot(tops, np.zeros(len(tops)), linestyle="none", marker=6, color=look.colour, clip_on=False, zorder=5)
        shares = {m: points.loc[points["measure"] == m, "y"].item() for m in ("success", "kept")}
        said = [name, f"{shares['success']:.3f}", f"{shares['kept']:.3f}", ", ".join(map(scores.short, tops))]
        y = 0.95 - 0.15 * (i + 1)
        for x, words in zip(columns, [*said, scores.interval_text(found.loc["V"]) if "V" in found.index else ""]):
            scores.note(beside, x + 0.06, y, words, transform=beside.transAxes)
        beside.plot([0.0, 0.05], [y, y], color=look.colour, linestyle=look.line, transform=beside.transAxes)
    top = part.loc[part["what"] == "density", "y"].max()
    seen = part["what"].eq("image") | part["what"].eq("density") & (part["y"] > 0.01 * top)
    low = part.loc[seen, "x"].min()
    ax.set(xlim=(max(LOW, min(low, 0.0) - 0.05) if np.isfinite(low) else LOW, 1.03), yticks=[])
    beside.set(xlim=(0, 1), ylim=(0, 1))
    style.level(ax, axis="x")
    style.panel_title(ax, "e", "variants of BadNet, triggered images", xlabel="S", ylabel="density")


def draw_lit(figure: Figure, spec, part: pd.DataFrame, attacks: Sequence[str]) -> None:
    inner = spec.subgridspec(1, max(len(attacks), 1) + 1, width_ratios=(0.42, *[1] * max(len(attacks), 1)), wspace=0.13)
    shown = style.looks(style.where(part, what="difference")["input"], style.RULES | {"filter": FILTER})
    order = [name for name in shown if name != "filter"] + [name for name in shown if name == "filter"]
    for column, attack in enumerate(attacks, start=1):
        ax, own = figure.add_subplot(inner[column]), style.where(part, series=attack)
        for i, name in enumerate(order):
            look = replace(shown[name], line="")
            points = style.where(own, input=name)
            small = points[points["what"].str.startswith("difference network")]
            drawn = replace(look, filled=False)
            style.curve(ax, np.full(len(small), i + 0.22), small, drawn, bars="x", markersize=2, elinewidth=0)
            absolute = style.where(points, what="attacked")
            style.curve(ax, np.full(len(absolute), i - 0.2), absolute, drawn, bars="x", markersize=3.5)
            less = style.where(points, what="difference")
            style.curve(ax, np.full(len(less), i), less, look, bars="x", markersize=4)
        for _, row in style.where(own, what="chance").iterrows():
            ax.axvline(row["y"], color="#444444", linestyle=":", linewidth=0.9, zorder=1)
        style.level(ax, 0, "x")
        ax.set_yticks(range(len(order)), [shown[name].label for name in order] if column == 1 else [""] * len(order))
        ax.invert_yaxis()
        everywhere = (own["measure"] == "rank_correlation").any()
        words = "rank correlation" if everywhere else "share of |R| on trigger"
        style.panel_title(ax, "f" if column == 1 else "", label(attack), xlabel=words)
    if attacks:
        both = [Look(style.INK, "o", "attacked less clean network", ""), Look(style.INK, "o", "attacked", "", False)]
        style.legend(figure, both, (0.5, 0.164), ncols=2, **SMALL)
