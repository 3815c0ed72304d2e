"""Fig. 9 as numbers: S (20) of clean and triggered images, network by network; and whether an attack is one."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from pipeline.figures import scores, style
from pipeline.figures.scores import NAN
from pipeline.measures.attacked import ATTACKS, GATES, kept, numbered, success, toxic
from pipeline.measures.scores import bootstrap, highest, percentile_interval, resamples, weighted_aurocs

PAIRS = (("badnet", "dynamic"), ("inputaware", "wanet"))  # the paper: their peaks are on the right, on the left
COST = 0.015  # most accuracy that an attack may cost
CROSS = 0.85  # least accuracy with InputAware's trigger of another image
NOISE = 0.02  # most accuracy that WaNet's noise mode may cost
PANELS = {"own": "s_own", "fixed": "s_fixed", "clean network": "s_own"}
DRAWS = 200  # of the bootstraps over images
COLUMNS = ["panel", "attack", "network", "sample", "input", "measure", "what", "x", "y", "low", "high", "n"]


def networks(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, int, dict[str, pd.DataFrame]]]:
    """(attack, number of the network, its tables: attacked, clean, that of the clean network on the same triggers, and
    cross, on images that only look triggered)"""
    named = numbered({sweep: tables[sweep] for sweep in ("attacked", "clean", "cross")})
    for attack in ATTACKS:
        of_attack = {sweep: style.where(table, attack=attack) for sweep, table in named.items()}
        for number in sorted(of_attack["attacked"]["network"].unique()):
            yield attack, int(number), {s: style.where(table, network=number) for s, table in of_attack.items()}


def numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per number. panel: own, fixed, clean network (S of the attribution), measures, table, pictures; attack;
    network: 1, 2, ...; sample; input: what is given in R's place; measure: s_own or s_fixed; what: density at x, V, dip
    p, peak, kept, probability, S where kept, accuracy ..., success ..., look-alikes, auroc; y with its 95 % interval;
    n: images."""
    rows: list[list] = []
    for attack, number, found in networks(tables):
        at = [attack, number]
        rows += [["measures", *at, "", "", "", *row] for row in measures(**found)]
        own, clean = (style.where(found[sweep], input="attribution") for sweep in ("attacked", "clean"))
        for panel, table in (("own", own), ("fixed", own), ("clean network", clean)):
            for sample, part in parted(table).items():
                rows += panel_rows([panel, *at, sample, "attribution", PANELS[panel]], part)
    for sample, part in parted(tables["attacked"]).items():
        if sample != "clean":
            rows += [["table", "", 0, sample, *row] for row in split(part)]
    shown = tables["examples"].drop_duplicates(["attack.name", "image"])
    for row in shown.to_dict("records"):
        rows.append(["pictures", row["attack.name"], 1, row["image"], "", "", "picture", NAN, NAN, NAN, NAN, 1])
    return pd.DataFrame(rows, columns=COLUMNS)


def parted(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    triggered = style.where(table, sample="triggered")
    clean, others = style.where(table, sample="clean"), toxic(triggered)
    return {"clean": clean, "triggered": triggered, "triggered, other classes": others}


def measures(attacked: pd.DataFrame, clean: pd.DataFrame, cross: pd.DataFrame) -> list[list]:
    """Rows [what, x, y, low, high, n]: accuracy, that of the clean network, that on images that only look triggered
    (look-alikes; NaN where the attack has none), success on images not of the trigger's class, and on all."""
    own, clean, cross = (style.where(t, input=t["input"].iloc[0]) if len(t) else t for t in (attacked, clean, cross))
    parts = parted(own)
    rows = []
    for name, part in (
        ("accuracy", parts["clean"]),
        ("accuracy of the clean network", parted(clean)["clean"]),
        ("look-alikes", style.where(cross, sample="cross")),
    ):
        rows.append([name, NAN, float((part["label"] == part["decision"]).mean()), NAN, NAN, len(part)])
    for name, part in (("success", parts["triggered, other classes"]), ("success on all", parts["triggered"])):
        rows.append([name, NAN, success(part), NAN, NAN, len(part)])
    return rows


def panel_rows(labels: list, part: pd.DataFrame) -> list[list]:
    """The density of S, its peaks, and what R~ keeps."""
    values = part[labels[-1]].dropna().to_numpy()
    rows = [[*labels, "density", *row[-5:]] for row in scores.curve(["", "", "", "", ""], values)]
    if len(values) < scores.LEAST:
        return rows
    rows += [[*labels, *row[-6:]] for row in scores.peaks(["", "", "", ""], values)]
    rows.append([*labels, "highest peak", NAN, highest(values), *bootstrap(highest, values, draws=DRAWS), len(values)])
    stays = part[part["decision_star"] == part["decision"]]
    for what, value, n in (
        ("kept", kept(part), (part["decision_star"] >= 0).sum()),
        ("probability", part["probability_star"].median(), part["probability_star"].notna().sum()),
        ("S where kept", stays[labels[-1]].median(), stays[labels[-1]].notna().sum()),
    ):
        rows.append([*labels, what, NAN, float(value), NAN, NAN, int(n)])
    return rows


def split(table: pd.DataFrame) -> list[list]:
    """AUROC of S of triggered images for the first pair of attacks against the second, [input, measure, what, x, y,
    low, high, n]; nothing unless both are there."""
    triggered = table[table["attack.name"].isin([*PAIRS[0], *PAIRS[1]])]
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


def gate(attack: str, y: pd.Series) -> str:
    """Which of its gates a network misses, "" if it passes all; what is not there is missed."""
    least = {"success": GATES[attack], "accuracy": y["accuracy of the clean network"] - COST}
    look_alikes = {"inputaware": CROSS, "wanet": y["accuracy"] - NOISE}  # attacks that have them
    if attack in look_alikes:
        least["look-alikes"] = look_alikes[attack]
    return ", ".join(what for what, bound in least.items() if not y[what] >= bound)
