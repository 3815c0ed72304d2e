"""Fig. 9: KIS (20) of clean and triggered images of backdoored networks, of clean networks on the same images, and whether
the attribution is what tells attacks apart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.figures import captions, scores, style
from pipeline.figures import maps as pictures
from pipeline.figures.style import Look
from pipeline.measures.scores import bootstrap, highest, percentile_interval, resamples, weighted_aurocs

ATTACKS = {"badnet": "BadNet", "dynamic": "Dynamic", "inputaware": "InputAware", "wanet": "WaNet"}
PAIRS = (("badnet", "dynamic"), ("inputaware", "wanet"))  # the paper: their peaks are on the right, on the left
GATES = {"badnet": 0.99, "dynamic": 0.99, "inputaware": 0.97, "wanet": 0.97}  # least success
COST = 0.015  # most accuracy that an attack may cost
SAMPLES = {
    "clean": Look("#228833", "", "clean images"),
    "triggered": Look("#AA3377", "", "triggered images"),
    "triggered, other classes": Look("#AA3377", "", "triggered images not of the trigger's class", ":"),
}
PANELS = {
    "own": (r"$S$, row of the new decision", "s_own"),
    "fixed": (r"$S$, row of $k$", "s_fixed"),
    "clean network": ("clean network, same images", "s_own"),
}
DRAWS = 200  # of the bootstraps over images
COLUMNS = ["panel", "attack", "network", "sample", "input", "measure", "what", "x", "y", "low", "high", "n"]
NAN = float("nan")
TEXT = """
Profile {profile}{warning}: {network}; rule {attacked[rule]}, explained class: {attacked[explained]}; networks: {names}.
Rows of pictures: clean and triggered image, their difference (amplified to the whole range), attribution of the
triggered one without bottom process. Densities of S (20), each of area 1, Silverman's width, one line per network, the
first one strong, triangles at the highest peaks of triggered images; dotted: without images of the trigger's class.
Numbers, network by network: share of triggered images whose R~ keeps the decision, median P of that decision on R~,
median S among those that keep it; V (1 - valley / lower peak), p of the dip test, place of the highest peak with a 95 %
bootstrap over images. First row: starred weights of the new decision (the letter of (20)), which is negative nearly
wherever the decision changes; second: of the decision k; third: a clean network of the same seed and recipe on the same
triggered images. Table: AUROC of S of triggered images for BadNet and Dynamic against InputAware and WaNet, with the
attribution or something else in R's place, 95 % bootstrap over images, networks pooled{alike}. {gates} Missing S: {missing}.
"""


def refuse(sweeps: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    cells = [cell for cells in sweeps.values() for cell in cells]
    if unknown := [cell.get("attack.name") for cell in cells if cell.get("attack.name") not in ATTACKS]:
        return (
            f"Fig. 9 has a column for each of {', '.join(ATTACKS)}, and a cell's attack.name is {unknown[0]}; give each "
            "of its networks one of these"
        )
    return captions.several_maps(cells)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def pairs(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, int, pd.DataFrame, pd.DataFrame]]:
    """(attack, number of the network, its table, that of the clean network on the same triggers)"""
    for attack in ATTACKS:
        own, clean = (style.where(tables[sweep], **{"attack.name": attack}) for sweep in ("attacked", "clean"))
        by_network = dict(iter(own.groupby(known(own, "weights"), sort=True)))
        by_triggers = dict(iter(clean.groupby(known(clean, "attack"), sort=True)))
        for number, (name, table) in enumerate(by_network.items(), start=1):
            yield attack, number, table, by_triggers.get(name, clean.iloc[:0])


def known(table: pd.DataFrame, group: str) -> pd.Series:
    """What names a network: the file of its weights, or how it was trained."""
    named = [table[column] for column in (f"{group}.path", f"{group}.training") if column in table]
    return pd.concat(named, axis=1).bfill(axis=1).iloc[:, 0].fillna("").astype(str)


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per number. panel: own, fixed, clean network (S of the attribution), measures, table, pictures; attack;
    network: 1, 2, ...; sample; input: what is given in R's place; measure: s_own or s_fixed; what: density at x, V, dip
    p, peak, kept, probability, S where kept, accuracy ..., auroc; y with its 95 % interval; n: images."""
    rows: list[list] = []
    for attack, number, own, clean in pairs(tables):
        at = [attack, number]
        rows += [["measures", *at, "", "", "", *row] for row in measures(own, clean)]
        own, clean = (style.where(table, input="attribution") for table in (own, clean))
        for panel, table in (("own", own), ("fixed", own), ("clean network", clean)):
            for sample, part in parted(table).items():
                rows += panel_rows([panel, *at, sample, "attribution", PANELS[panel][1]], part)
    rows += [["table", "", 0, "triggered", *row] for row in split(tables["attacked"])]
    shown = tables["examples"].drop_duplicates(["attack.name", "image"])
    for row in shown.to_dict("records"):
        rows.append(["pictures", row["attack.name"], 1, row["image"], "", "", "picture", NAN, NAN, NAN, NAN, 1])
    return pd.DataFrame(rows, columns=COLUMNS)


def parted(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    triggered = style.where(table, sample="triggered")
    others = triggered[triggered["label"] != triggered["goal"]]
    return {"clean": style.where(table, sample="clean"), "triggered": triggered, "triggered, other classes": others}


def measures(own: pd.DataFrame, clean: pd.DataFrame) -> list[list]:
    """Rows [what, x, y, low, high, n]: accuracy, that of the clean network, success on images not of the trigger's
    class, and on all."""
    found = []
    once = [style.where(table, input=table["input"].iloc[0]) if len(table) else table for table in (own, clean)]
    for name, table in zip(("accuracy", "accuracy of the clean network"), once, strict=True):
        part = style.where(table, sample="clean")
        found.append([name, (part["label"] == part["decision"])])
    for name, what in (("success", "triggered, other classes"), ("success on all", "triggered")):
        part = parted(once[0])[what]
        found.append([name, part["decision"] == part["goal"]])
    return [[name, NAN, float(hits.mean()) if len(hits) else NAN, NAN, NAN, len(hits)] for name, hits in found]


def panel_rows(labels: list, part: pd.DataFrame) -> list[list]:
    """The density of S, its peaks, and what R~ keeps."""
    values = part[labels[-1]].dropna().to_numpy()
    rows = [[*labels, "density", *row[-5:]] for row in scores.curve(["", "", "", "", ""], values)]
    if labels[3] == "triggered, other classes" or len(values) < scores.LEAST:
        return rows
    rows += [[*labels, *row[-6:]] for row in scores.peaks(["", "", "", ""], values)]
    rows.append([*labels, "highest peak", NAN, highest(values), *bootstrap(highest, values, draws=DRAWS), len(values)])
    stays = part["decision_star"] == part["decision"]
    for what, found in (
        ("kept", stays.astype(float)),
        ("probability", part["probability_star"]),
        ("S where kept", part.loc[stays, labels[-1]]),
    ):
        value = found.mean() if what == "kept" else found.median()
        rows.append([*labels, what, NAN, float(value), NAN, NAN, int(found.notna().sum())])
    return rows


def split(table: pd.DataFrame) -> list[list]:
    """AUROC of S of triggered images for the first pair of attacks against the second, rows [input, measure, what, x, y,
    low, high, n]; nothing unless both are there."""
    triggered = table[(table["sample"] == "triggered") & table["attack.name"].isin([*PAIRS[0], *PAIRS[1]])]
    rows = []
    for name, part in triggered.groupby("input", sort=False):
        first = part["attack.name"].isin(PAIRS[0]).to_numpy()
        if not first.any() or first.all():
            continue
        image = part["image"].astype("category").cat.codes.to_numpy()
        drawn = resamples(image.max() + 1, DRAWS, 0)[:, image]  # an image is drawn for all networks at once
        for measure in scores.MEASURES:
            score = part[measure].to_numpy(dtype=float)
            value = weighted_aurocs(score, first, np.ones((1, len(score))))[0]
            ends = percentile_interval(weighted_aurocs(score, first, drawn))
            rows.append([name, measure, "auroc", NAN, float(value), *ends, int((~np.isnan(score)).sum())])
    return rows


# ---- caption ---------------------------------------------------------------------------------------------------------


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    own = tables["attacked"]
    named = [f"{ATTACKS[attack]} {number} {short_name(table)}" for attack, number, table, _ in pairs(tables)]
    few = [ATTACKS[a] for a in ATTACKS if 0 < sum(attack == a for attack, *_ in pairs(tables)) < 3]
    digits = set(own["data"]) == {"digits"}
    return captions.words(
        TEXT,
        tables,
        profile=profile,
        warning=", which shows the path and decides nothing (digits, small networks)" if digits else "",
        network=scores.network_text(style.where(own, sample="clean")).split(",")[0]
        + f", {own['image'].nunique():,} images of {own['data'].iloc[0]}, each clean and triggered",
        names="; ".join(named),
        alike="; where lines of the table agree, the attribution is not what tells the attacks apart",
        gates=f"Fewer than three networks, so only of these models: {', '.join(few)}." if few else "",
        missing=scores.missing_text(own),
    )


def short_name(table: pd.DataFrame) -> str:
    name = known(table, "weights").iloc[0]
    return " ".join(word for word in name.split() if word.startswith("train.seed=") or "=" not in word) or name


# ---- drawing ---------------------------------------------------------------------------------------------------------


def draw(numbers: pd.DataFrame, text: str, maps: Mapping[str, Sequence[tuple[Any, dict[str, Any]]]]) -> Figure:
    figure = style.page(8.9)
    attacks = [attack for attack in ATTACKS if attack in set(numbers["attack"])]
    width = (0.985 - 0.06) / len(attacks)
    for i, attack in enumerate(attacks):
        left = 0.06 + i * width
        shown = [tensors["pictures"] for about, tensors in maps["examples"] if about["attack.name"] == attack]
        lines = tiles(shown[0]) if shown else []
        pictures.draw_tiles(figure, lines, (left, 0.865, left + 0.94 * width, 0.965), size=5.5)
        title = f"({'abcd'[i]}) {ATTACKS[attack]}"
        figure.text(left, 0.982, title, fontsize=8, va="center")
    sides = {"left": 0.06, "right": 0.985 - 0.06 * width, "top": 0.80, "bottom": 0.34}
    grid = figure.add_gridspec(3, len(attacks), **sides, hspace=0.75, wspace=0.08)
    curves = numbers[numbers["what"] == "density"]
    dense = curves[curves["y"] > 0.02 * curves.groupby(["panel", "attack", "network", "sample"])["y"].transform("max")]
    low = max(-3.0, min(float(dense["x"].min()) if len(dense) else -1.0, -0.5))
    for row, (panel, (label, _)) in enumerate(PANELS.items()):
        for column, attack in enumerate(attacks):
            ax = figure.add_subplot(grid[row, column])
            draw_panel(ax, style.where(numbers, panel=panel, attack=attack))
            ax.set(xlim=(low, 1.05), xlabel="S" if row == 2 else "")
            if column == 0:
                ax.set_ylabel(label, fontsize=6.5)
    style.legend(figure, SAMPLES.values(), (0.5, 0.31), ncols=3)
    draw_table(figure, style.where(numbers, panel="table"))
    draw_measures(figure, style.where(numbers, panel="measures"), attacks)
    style.caption(figure, text)
    return figure


def tiles(tensors: Mapping[str, Tensor]) -> list[list[pictures.Tile]]:
    """A line per image: clean, triggered, what changed, attribution."""
    found = []
    for y, (clean, triggered, r) in enumerate(zip(*(tensors[k] for k in ("clean", "triggered", "attribution")))):
        change = triggered - clean
        span = float(change.abs().max()) or 1.0
        words = ("clean", "triggered", "change", "R") if y == 0 else ("",) * 4
        shown = [
            as_picture(clean),
            as_picture(triggered),
            as_picture(change / (2 * span) + 0.5),
            pictures.image_like(r),
        ]
        found.append([pictures.Tile(picture, word) for picture, word in zip(shown, words, strict=True)])
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
    triggered = style.where(part, sample="triggered")
    for place in triggered.loc[triggered["what"] == "highest peak", "y"]:
        ax.plot([place], [0.0], marker=6, markersize=4, color=SAMPLES["triggered"].colour, clip_on=False, zorder=5)

    def said(what: str) -> str:
        return "/".join(scores.short(y) for y in triggered.loc[triggered["what"] == what, "y"]) or "-"

    peaks = triggered[triggered["what"] == "highest peak"]
    first = f" {scores.interval_text(peaks.iloc[0])}" if len(peaks) == 1 else f" {said('highest peak')}"
    dips = "/".join("<.001" if p < 0.001 else scores.short(p) for p in triggered.loc[triggered["what"] == "dip p", "y"])
    lines = (
        f"kept {said('kept')}   P {said('probability')}",
        f"S|kept {said('S where kept')}   V {said('V')}",
        f"dip p {dips or '-'}   peak{first}",
    )
    scores.note(ax, 0, 1.03, "\n".join(lines), transform=ax.transAxes, va="bottom", fontsize=5.3, linespacing=1.15)
    style.level(ax, axis="x")
    ax.set(ylabel="", yticks=[])
    style.panel_title(ax, "", "")


def draw_table(figure: Figure, part: pd.DataFrame) -> None:
    """AUROCs of the two pairs of attacks."""
    ax = figure.add_axes((0.06, 0.165, 0.40, 0.12))
    ax.axis("off")
    head = ["in R's place", r"AUROC, row of $k^*$", r"row of $k$"]
    body = []
    for name in dict.fromkeys(part["input"]):
        cells = [style.where(part, input=name, measure=measure) for measure in scores.MEASURES]
        body.append([style.INPUT_LABELS.get(name, name), *(scores.interval_text(cell.iloc[0]) for cell in cells)])
    write(ax, [head, *(body or [["both pairs of attacks are needed", "", ""]])], (0, 0.42, 0.75))


def draw_measures(figure: Figure, part: pd.DataFrame, attacks: Sequence[str]) -> None:
    """Accuracy and success of each network, and whether it passes the gate."""
    ax = figure.add_axes((0.50, 0.165, 0.485, 0.12))
    ax.axis("off")
    lines = [["network", "accuracy (clean one's)", "success (on all)", "gate"]]
    for (attack, number), rows in part.groupby(["attack", "network"], sort=False):
        y = rows.set_index("what")["y"]
        lines.append(
            [
                f"{ATTACKS[attack]} {number}",
                f"{y['accuracy']:.3f} ({y['accuracy of the clean network']:.3f})",
                f"{y['success']:.3f} ({y['success on all']:.3f})",
                "passes" if gate(attack, y) == "" else f"misses: {gate(attack, y)}",
            ]
        )
    write(ax, lines, (0, 0.2, 0.5, 0.76))


def gate(attack: str, y: pd.Series) -> str:
    """Why a network misses the gate, "" if it passes."""
    why = []
    if not y["success"] >= GATES[attack]:
        why.append(f"success below {GATES[attack]:.2f}")
    if y["accuracy"] < y["accuracy of the clean network"] - COST:
        why.append(f"accuracy more than {COST:.3f} lower")
    return ", ".join(why)


def write(ax: Axes, lines: Sequence[Sequence[str]], at: Sequence[float]) -> None:
    for i, line in enumerate(lines):
        for x, word in zip(at, line, strict=True):
            y, weight = 1 - i / max(6, len(lines) - 1), "bold" if i == 0 else "normal"
            ax.text(x, y, word, fontsize=5.6, weight=weight, va="center", transform=ax.transAxes)
