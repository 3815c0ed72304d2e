"""Fig. 9: KIS (20) of clean and triggered images of backdoored networks, of clean networks on the same images, and
whether the attribution is what tells the attacks apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.figures import captions, fig9_numbers, scores, style
from pipeline.figures import maps as pictures
from pipeline.figures.fig9_numbers import COST, CROSS, NOISE, gate, networks
from pipeline.figures.style import Look
from pipeline.measures.attacked import ATTACKS, GATES, whose

numbers = fig9_numbers.numbers

SAMPLES = {
    "clean": Look("#228833", "", "clean images"),
    "triggered": Look("#AA3377", "", "triggered images"),
    "triggered, other classes": Look("#AA3377", "", "triggered images not of the trigger's class", ":"),
}
PANELS = {
    "own": r"$S$, row of $k^*$",
    "fixed": r"$S$, row of $k$",
    "clean network": r"$S$, clean network",
}
SHORT = {"filter": r"$P\mathbf{x}$"}
SHOWN = 2  # images of each attack
TEXT = """
Profile {profile}{warning}: {network}; rule {attacked[rule]}, explained class: {attacked[explained]}; networks: {names}.
Rows of pictures: clean and triggered image, their difference (amplified), attribution of the triggered one without
bottom process. Densities of S (20), each of area 1, Silverman's width, one line per network, the first one strong,
triangles at the highest peaks of triggered images; dotted: without images of the trigger's class. Numbers, network by
network, of all triggered images (in brackets: without the trigger's class): share of those whose R~ keeps the
decision, median P of that decision on R~, median S among those that keep it; V (1 - valley / lower peak), p of the dip
test, place of the highest peak with a 95 % bootstrap over images. First row: starred weights of the new decision, as
(20) has it, negative nearly wherever the decision changes; second: of the decision k; third: a clean network of the
same seed and recipe on the same triggered images. Table: AUROC of S of triggered images for BadNet and Dynamic against
InputAware and WaNet, with the attribution or something else in R's place (P x = $W_1 W_1^T x$), 95 % bootstrap over
images, networks pooled (last column: without the trigger's class): where its lines agree, the attribution is not what
tells the attacks apart. Gate: success of at least {gates}, accuracy at most {cost} below the clean network's;
look-alikes, accuracy on images that only look triggered: at least {cross} with the trigger that InputAware made for
another image, at most {noise} below that on clean images with noise on WaNet's warp. {few} Missing S: {missing}.
"""


def refuse(sweeps: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    cells = [cell for cells in sweeps.values() for cell in cells]
    if unknown := [cell.get("attack.name") for cell in cells if cell.get("attack.name") not in ATTACKS]:
        return (
            f"Fig. 9 has a column for each of {', '.join(ATTACKS)}, and a cell's attack.name is {unknown[0]}; give "
            "each network one of these"
        )
    return captions.several_maps(cells)


# ---- caption ---------------------------------------------------------------------------------------------------------


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    own = tables["attacked"]
    each = [(attack, number, found["attacked"]) for attack, number, found in networks(tables)]
    named = [f"{ATTACKS[attack]} {number} {short_name(table)}" for attack, number, table in each]
    few = [ATTACKS[a] for a in ATTACKS if 0 < sum(attack == a for attack, *_ in each) < 3]
    digits = set(own["data"]) == {"digits"}
    return captions.words(
        TEXT,
        tables,
        profile=profile,
        warning=", which shows the path and decides nothing (digits, small networks)" if digits else "",
        network=scores.network_text(style.where(own, sample="clean")).split(",")[0]
        + f", {own['image'].nunique():,} images of {own['data'].iloc[0]}, each clean and triggered",
        names="; ".join(named),
        gates=", ".join(f"{least} ({ATTACKS[attack]})" for attack, least in GATES.items()),
        cost=COST,
        cross=CROSS,
        noise=NOISE,
        few=f"Fewer than three networks, so only of these models: {', '.join(few)}." if few else "",
        missing=scores.missing_text(own),
    )


def short_name(table: pd.DataFrame) -> str:
    name = whose(table).iloc[0]
    return " ".join(word for word in name.split() if word.startswith("train.seed=") or "=" not in word) or name


# ---- drawing ---------------------------------------------------------------------------------------------------------


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, Sequence[tuple[Any, dict[str, Any]]]]) -> Figure:
    figure = style.page(10.0)
    attacks = [attack for attack in ATTACKS if attack in set(numbers["attack"])]
    width = (0.985 - 0.06) / len(attacks)
    for i, attack in enumerate(attacks):
        left = 0.06 + i * width
        shown = [tensors["pictures"] for about, tensors in maps["examples"] if about["attack.name"] == attack]
        lines = tiles(shown[0]) if shown else []
        pictures.draw_tiles(figure, lines, (left, 0.865, left + 0.94 * width, 0.965), size=5.5)
        figure.text(left, 0.982, f"({'abcd'[i]}) {ATTACKS[attack]}", fontsize=8, va="center")
        missed = misses(style.where(numbers, panel="measures", attack=attack))
        figure.text(left, 0.85, missed, fontsize=5.6, va="center", color="#BB5566")
    sides = {"left": 0.06, "right": 0.985 - 0.06 * width, "top": 0.795, "bottom": 0.34}
    grid = figure.add_gridspec(3, len(attacks), **sides, hspace=0.8, wspace=0.08)
    curves = numbers[numbers["what"] == "density"]
    dense = curves[curves["y"] > 0.02 * curves.groupby(["panel", "attack", "network", "sample"])["y"].transform("max")]
    low = max(-3.0, min(float(dense["x"].min()) if len(dense) else -1.0, -0.5))
    for row, (panel, label) in enumerate(PANELS.items()):
        for column, attack in enumerate(attacks):
            ax = figure.add_subplot(grid[row, column])
            draw_panel(ax, style.where(numbers, panel=panel, attack=attack))
            ax.set(xlim=(low, 1.05), xlabel="S" if row == 2 else "")
            if column == 0:
                ax.set_ylabel(label, fontsize=6.5, labelpad=6)
    style.legend(figure, SAMPLES.values(), (0.5, 0.308), ncols=3)
    draw_table(figure, style.where(numbers, panel="table"))
    draw_measures(figure, style.where(numbers, panel="measures"), attacks)
    style.caption(figure, text)
    return figure


def tiles(tensors: Mapping[str, Tensor]) -> list[list[pictures.Tile]]:
    """A line per image: clean, triggered, what changed, attribution."""
    found = []
    shown = (tensors[name][:SHOWN] for name in ("clean", "triggered", "attribution"))
    for y, (clean, stamped, r) in enumerate(zip(*shown, strict=True)):
        change = stamped - clean
        span = float(change.abs().max()) or 1.0
        words = ("clean", "triggered", "change", "R") if y == 0 else ("",) * 4
        made = [
            as_picture(clean),
            as_picture(stamped),
            as_picture(change / (2 * span) + 0.5),
            pictures.image_like(r),
        ]
        found.append([pictures.Tile(picture, word) for picture, word in zip(made, words, strict=True)])
    return found


def as_picture(pixels: Tensor) -> np.ndarray:
    return pictures.array(pixels).clip(0, 1).transpose(1, 2, 0)


def draw_panel(ax: Axes, part: pd.DataFrame) -> None:
    """Densities of every network, and what is printed of the triggered images."""
    for (number, sample), points in part[part["what"] == "density"].groupby(["network", "sample"], sort=False):
        if number > 1 and sample not in ("clean", "triggered"):
            continue
        strong = {"linewidth": 1.1} if number == 1 else {"linewidth": 0.5, "alpha": 0.6}
        style.curve(ax, points["x"], points, SAMPLES[sample], **strong)
    triggered, others = (style.where(part, sample=sample) for sample in ("triggered", "triggered, other classes"))
    for place in triggered.loc[triggered["what"] == "highest peak", "y"]:
        ax.plot([place], [0.0], marker=6, markersize=4, color=SAMPLES["triggered"].colour, clip_on=False, zorder=5)

    def said(what: str, of: pd.DataFrame = triggered) -> str:
        return "/".join(scores.short(y) for y in of.loc[of["what"] == what, "y"]) or "-"

    peaks = triggered[triggered["what"] == "highest peak"]
    first = f" {scores.interval_text(peaks.iloc[0])}" if len(peaks) == 1 else f" {said('highest peak')}"
    dips = "/".join("<.001" if p < 0.001 else scores.short(p) for p in triggered.loc[triggered["what"] == "dip p", "y"])
    lines = (
        f"kept {said('kept')} ({said('kept', others)})",
        f"P {said('probability')}   V {said('V')}",
        f"S|kept {said('S where kept')}",
        f"dip p {dips or '-'}",
        f"peak{first} ({said('highest peak', others)})",
    )
    scores.note(ax, 0, 1.03, "\n".join(lines), transform=ax.transAxes, va="bottom", fontsize=5.3, linespacing=1.15)
    style.level(ax, axis="x")
    ax.set(ylabel="", yticks=[])
    style.panel_title(ax, "", "")


def draw_table(figure: Figure, part: pd.DataFrame) -> None:
    """AUROCs of the two pairs of attacks."""
    ax = figure.add_axes((0.06, 0.158, 0.37, 0.115))
    ax.axis("off")
    head = ["in R's place", r"AUROC, $k^*$", r"AUROC, $k$", "other classes"]
    body = []
    for name in dict.fromkeys(part["input"]):
        every, others = (
            [style.where(part, input=name, measure=measure, sample=sample).iloc[0] for measure in scores.MEASURES]
            for sample in ("triggered", "triggered, other classes")
        )
        cells = [*map(scores.interval_text, every), ", ".join(scores.short(row["y"]) for row in others)]
        body.append([(style.INPUT_LABELS | SHORT).get(name, name), *cells])
    write(ax, [head, *(body or [["both pairs of attacks are needed", "", "", ""]])], (0, 0.21, 0.52, 0.83))


def draw_measures(figure: Figure, part: pd.DataFrame, attacks: Sequence[str]) -> None:
    """Accuracies and success of each network, and whether it passes the gate."""
    ax = figure.add_axes((0.46, 0.158, 0.525, 0.115))
    ax.axis("off")
    lines = [["network", "accuracy (clean)", "success (on all)", "look-alikes", "gates missed"]]
    for (attack, number), rows in part.groupby(["attack", "network"], sort=False):
        y = rows.set_index("what")["y"]
        lines.append(
            [
                f"{ATTACKS[attack]} {number}",
                f"{y['accuracy']:.3f} ({y['accuracy of the clean network']:.3f})",
                f"{y['success']:.3f} ({y['success on all']:.3f})",
                "-" if np.isnan(y["look-alikes"]) else f"{y['look-alikes']:.3f}",
                gate(attack, y) or "none",
            ]
        )
    write(ax, lines, (0, 0.15, 0.35, 0.56, 0.715))


def misses(part: pd.DataFrame) -> str:
    """Which networks of one attack miss the gate."""
    attack = part["attack"].iloc[0]
    found = [str(n) for n, rows in part.groupby("network") if gate(attack, rows.set_index("what")["y"])]
    if len(found) < 2:
        return f"network {found[0]} misses the gate" if found else ""
    return f"networks {', '.join(found[:-1])} and {found[-1]} miss the gate"


def write(ax: Axes, lines: Sequence[Sequence[str]], at: Sequence[float]) -> None:
    for i, line in enumerate(lines):
        for x, word in zip(at, line, strict=True):
            y, weight = 1 - i / max(6, len(lines) - 1), "bold" if i == 0 else "normal"
            ax.text(x, y, word, fontsize=5.6, weight=weight, va="center", transform=ax.transAxes)
