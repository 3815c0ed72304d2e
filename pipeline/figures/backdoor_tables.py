"""Tables of backdoored and clean networks: which network, whose triggers, which images count, what they tell."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.figures import scores, style
from pipeline.figures.scores import DRAWS, LEAST, NAN
from pipeline.measures.attacked import kept, success, whose
from pipeline.measures.scores import AT_ONCE, percentile_interval, resamples

TUNED = "fine-tuned"
VARIANTS = ("1 px", "2 px", "3 px", "5 px")

Reading = Callable[[pd.DataFrame], float]


# ---- what they tell --------------------------------------------------------------------------------------------------


def median(measure: str) -> Reading:
    return lambda table: float(table[measure].median())


S: dict[str, Reading] = {measure: median(measure) for measure in scores.MEASURES}
KEPT: dict[str, Reading] = {"kept": kept, **S}
SUCCESS: dict[str, Reading] = {"success": success}


def by_network(
    panel: str, table: pd.DataFrame, case: str, readings: Mapping[str, Reading], state: str = ""
) -> list[list]:
    """For each attack, value of the column `case` and reading: a row for each network, and one for their mean, in
    scores.COLUMNS. n: images, and in the mean's row those of all networks together."""
    rows: list[list] = []
    for (attack, value), part in table.groupby(["attack", case], sort=False):
        networks = list(part.groupby("network"))
        for measure, reading in readings.items():
            labels, values = [panel, attack, value, measure], [reading(one) for _, one in networks]
            for (network, one), y in zip(networks, values, strict=True):
                rows.append([*labels, f"{state}network {network}", NAN, y, NAN, NAN, len(one)])
            rows.append([*labels, f"{state}mean", NAN, float(np.mean(values)), NAN, NAN, len(part)])
    return rows


def median_interval(values: np.ndarray, images: Iterable[str], draws: int = DRAWS) -> tuple[float, float]:
    """Of the median of values (n,) when images are drawn again, each with all of its values; NaN where they are few."""
    codes, names = pd.factorize(np.asarray(images))
    if len(names) < LEAST:
        return NAN, NAN
    order, drawn = np.argsort(values), resamples(len(names), draws, 0)
    places = []
    for at in range(0, draws, AT_ONCE):
        total = drawn[at : at + AT_ONCE, codes[order]].cumsum(1, dtype=np.int64)
        places.append((2 * total >= total[:, -1:]).argmax(1))
    return percentile_interval(values[order][np.concatenate(places)])


def mean_interval(labels: Sequence[str], what: str, values: pd.Series) -> list:
    """Mean of one value per image, with its normal 95 % interval over images; none where they are few."""
    values = values.dropna()
    mean, n = float(values.mean()), len(values)
    half = 1.96 * float(values.std(ddof=1)) / n**0.5 if n >= LEAST else NAN
    return [*labels, what, NAN, mean, mean - half, mean + half, n]


def lit(panel: str, pairs: pd.DataFrame) -> list[list]:
    """For each attack and map, how much of the map lies inside the trigger (where the trigger is everywhere: the rank
    correlation with the change): `attacked`, and less that of the clean network, `difference`, the mean over networks
    of each image, then over images; the same for each network; and `chance`."""
    rows: list[list] = []
    for attack, part in pairs.groupby("attack", sort=False):
        measure = "energy" if part["energy"].notna().any() else "rank_correlation"
        part = part.assign(attacked=part[measure], difference=part[measure] - part[f"{measure}_clean"])
        for shown, maps in part.groupby("shown", sort=False):
            labels = [panel, str(attack), str(shown), measure]
            each = maps.groupby("image", sort=False)[["attacked", "difference"]].mean()
            rows += [mean_interval(labels, what, each[what]) for what in ("attacked", "difference")]
            for network, one in maps.groupby("network"):
                alone = mean_interval(labels, f"difference network {network}", one["difference"])
                rows.append([*alone[:7], NAN, NAN, alone[-1]])
        chance = float(part["share"].mean()) if measure == "energy" else 0.0
        rows.append([panel, attack, "any", measure, "chance", NAN, chance, NAN, NAN, part["image"].nunique()])
    return rows


# ---- panels of their own ---------------------------------------------------------------------------------------------


def variant_rows(table: pd.DataFrame) -> list[list]:
    """(e): of each kind of BadNet the density of S or, of few images, S itself; peaks; shares."""
    rows: list[list] = []
    names = pd.Series([variant(network) for network in whose(table)], index=table.index, dtype=object)
    for name in style.ordered(names, (*VARIANTS, TUNED)):
        part = table[names == name]
        labels, values = ["e", name, "attribution", "s_own"], part["s_own"].dropna().to_numpy()
        single = [[*labels, "image", x, NAN, NAN, NAN, len(values)] for x in values]
        rows += scores.curve([*labels, "density"], values) or single
        rows += scores.peaks(labels, values)
        for measure, reading in (KEPT | SUCCESS).items():
            rows.append([*labels[:3], measure, "mean", NAN, reading(part), NAN, NAN, len(part)])
    return rows


def variant(network: str) -> str:
    """What tells a BadNet apart, from the words of its training or the name of its file: the side of its patch, or that
    it was a clean network first; else these words."""
    if "train.start=" in network or "badnettuned" in network:
        return TUNED
    side = re.search(r"badnet\.patch=(\d+)", network) or re.search(r"badnet(\d+)px", network)
    if side:
        return f"{side[1]} px"
    return "3 px" if re.search(r"(^|/)badnet_|attack=badnet", network) else Path(network).stem


def fates(table: pd.DataFrame) -> list[list]:
    """(d): median S of triggered images whose attack succeeded or failed, networks together."""
    rows: list[list] = []
    fate = np.where(table["decision"] == table["goal"], "succeeded", "failed")
    for (attack, name), part in table.groupby(["attack", fate], sort=False):
        for measure, reading in S.items():
            there = part[part[measure].notna()]
            ends = median_interval(there[measure].to_numpy(), there["image"])
            rows.append(["d", attack, name, measure, "median", NAN, reading(part), *ends, len(there)])
    return rows
