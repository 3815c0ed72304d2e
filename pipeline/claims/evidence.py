"""Evidence for a claim: numbers with intervals at any level, each with the target that it must reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import norm, t

from pipeline.measures.intervals import crossed_moments, crossed_table, over_crossed
from pipeline.measures.scores import percentile_interval, resampled_valleys, valley
from pipeline.measures.tables import Table

LEAST_IMAGES, LEAST_SEEDS, LEAST_EACH = 16, 8, 30  # fewer decide nothing; LEAST_EACH: of right and of wrong decisions
MOST_MISSING = 0.05
DRAWS = 2000  # of a bootstrap
NAN, INFINITE = float("nan"), float("inf")
Ends = Callable[[float], tuple[float, float]]  # level -> interval


@dataclass(frozen=True)
class Range:
    """Closed: where a claim's number lies if the claim holds."""

    low: float = -INFINITE
    high: float = INFINITE


@dataclass(frozen=True)
class Part:
    """One number of a claim, and where it lies if the claim holds. n: what it was counted over, in words;
    few: why so little decides nothing, "" if it is enough; missing: share of values that are not there; ends: its
    interval at a level, None of what is exact."""

    name: str
    estimate: float
    target: Range
    n: str
    few: str = ""
    missing: float = 0.0
    ends: Ends | None = None

    def interval(self, level: float) -> tuple[float, float]:
        return self.ends(level) if self.ends else (self.estimate, self.estimate)


def at_least(target: float) -> Range:
    return Range(low=target)


def at_most(target: float) -> Range:
    return Range(high=target)


def alike(margin: float = 0.05) -> Range:
    return Range(-margin, margin)


def mean(name: str, table: Table, value: str, target: Range, **more: Any) -> Part:
    """Of a column over images x weight seeds, one row each: leave one image out, leave one seed out (crossed_moments).
    A single seed counts as none: the interval is over images, for this network."""
    return statistic(name, table, [value], over_crossed, target, **more)


def statistic(
    name: str,
    table: Table,
    values: Sequence[str],
    of: Callable[[np.ndarray], np.ndarray],
    target: Range,
    seeds: bool = True,
) -> Part:
    """The first entry of a statistic of (images, seeds, columns); seeds: whether they are weight draws, of which there
    must be enough."""
    if table.empty:
        return nothing(name, target, "nothing")
    cells = np.concatenate([crossed_table(table, value, by=()) for value in values], axis=2)
    images, draws = cells.shape[:2]
    missing = float(np.isnan(cells).any(2).mean())
    if np.isnan(cells).all():
        return Part(name, NAN, target, n=counted(images, draws), few="nothing is there", missing=1.0)
    estimate, variance, freedom = (float(found[0]) for found in crossed_moments(cells, of))

    def ends(level: float) -> tuple[float, float]:
        half = 0.0 if variance == 0 else float(t.ppf((1 + level) / 2, freedom)) * variance**0.5
        return estimate - half, estimate + half

    few = [f"{images} images" if images < LEAST_IMAGES else "", f"{draws} seeds" if 1 < draws < LEAST_SEEDS else ""]
    return Part(
        name, estimate, target, n=counted(images, draws), few=", ".join(filter(None, few)), missing=missing, ends=ends
    )


def counted(images: int, draws: int) -> str:
    return f"{images} images" + (f" x {draws} seeds" if draws > 1 else ", one network")


def share(name: str, happened: np.ndarray, target: Range, what: str = "images") -> Part:
    """Of a bool array: two successes and two failures are added (Agresti and Coull)."""
    n, successes = len(happened), float(np.sum(happened))
    middle = (successes + 2) / (n + 4)

    def ends(level: float) -> tuple[float, float]:
        half = float(norm.ppf((1 + level) / 2)) * (middle * (1 - middle) / (n + 4)) ** 0.5
        return max(0.0, middle - half), min(1.0, middle + half)

    few = f"{n} {what}" if n < LEAST_IMAGES else ""
    return Part(name, successes / n if n else NAN, target, n=f"{n} {what}", few=few, ends=ends)


def crossed_share(name: str, table: Table, value: str, target: Range, of: int = 1) -> Part:
    """The mean of a column of shares, each of so many cases, over images x weight seeds. Two successes and two failures
    are added, and the interval is no narrower than Agresti and Coull's of all cases: where every one succeeds, leaving
    some out would find no variance."""
    part = mean(name, table, value, target)
    if not part.ends:
        return part
    n, left_out = int(table[value].notna().sum()) * of, part.ends
    middle = (part.estimate * n + 2) / (n + 4)
    error = (middle * (1 - middle) / (n + 4)) ** 0.5

    def ends(level: float) -> tuple[float, float]:
        low, high = left_out(level)
        half = max((high - low) / 2, float(norm.ppf((1 + level) / 2)) * error)
        return max(0.0, middle - half), min(1.0, middle + half)

    return replace(part, ends=ends)


def auroc(name: str, score: np.ndarray, positive: np.ndarray, target: Range) -> Part:
    """The share of pairs of a positive and a negative in which the positive scores higher, ties half, with DeLong's
    variance. score: NaN where missing."""
    there = ~np.isnan(score)
    estimate, up, down = delong(score[there], positive[there])
    variance = (
        sum(float(np.var(part, ddof=1)) / len(part) for part in (up, down)) if min(len(up), len(down)) > 1 else NAN
    )
    return normal(name, estimate, variance, target, positive[there], float((~there).mean()))


def auroc_gain(name: str, score: np.ndarray, other: np.ndarray, positive: np.ndarray, target: Range) -> Part:
    """How far the first score's AUROC is above the other's, paired by image: DeLong's covariance."""
    there = ~np.isnan(score) & ~np.isnan(other)
    (a, up, down), (b, other_up, other_down) = (delong(s[there], positive[there]) for s in (score, other))
    parts = (up - other_up, down - other_down)
    variance = sum(float(np.var(part, ddof=1)) / len(part) for part in parts) if min(map(len, parts)) > 1 else NAN
    return normal(name, a - b, variance, target, positive[there], float((~there).mean()))


def delong(score: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """(AUROC, for each positive the share of negatives below it, for each negative the share of positives above)."""
    up, down = np.sort(score[positive]), np.sort(score[~positive])
    if not len(up) or not len(down):
        return NAN, up, down

    def below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
        return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / 2 / len(others)

    each = below(score[positive], down)
    return float(each.mean()), each, 1 - below(score[~positive], up)


def auroc_of_networks(
    name: str, first: np.ndarray, second: np.ndarray, target: Range, missing: float = 0.0, sampled: bool = False
) -> Part:
    """The AUROC of one network's scores above another's, the mean over pairs of one of `first` and one of `second`,
    (networks, n) each: scores of the same n images, NaN where an image does not count. Its variance is that over
    images, each of which counts wherever it appears; sampled: and over the networks of either side, for a statement
    about their like (with Satterthwaite's degrees of freedom), else about these networks."""
    aurocs, influence = np.full((len(first), len(second)), NAN), np.zeros(first.shape[1])
    for (i, one), (j, other) in product(enumerate(first), enumerate(second)):
        a, b = ~np.isnan(one), ~np.isnan(other)
        positive = np.repeat([True, False], [a.sum(), b.sum()])
        aurocs[i, j], up, down = delong(np.concatenate([one[a], other[b]]), positive)
        for there, each in ((a, up), (b, down)):
            influence[there] += (each - aurocs[i, j]) / (len(each) * aurocs.size)
    n = int((~np.isnan(first).all(0) | ~np.isnan(second).all(0)).sum())
    parts = [(n / max(n - 1, 1) * float((influence**2).sum()), n - 1)]
    if sampled:
        parts += [(float(np.var(aurocs.mean(1 - side), ddof=1)) / k, k - 1) for side, k in enumerate(aurocs.shape)]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / df for part, df in parts) if variance > 0 else 1.0
    estimate, error = float(aurocs.mean()), variance**0.5
    least = int(min((~np.isnan(side)).sum(1).min() for side in (first, second)))
    few = f"{least} images in one of them" if least < LEAST_EACH else ""
    words = " and ".join(f"{len(side)} networks" if len(side) > 1 else "one network" for side in (first, second))

    def ends(level: float) -> tuple[float, float]:
        reach = 0.0 if error == 0 else float(t.ppf((1 + level) / 2, freedom)) * error
        return estimate - reach, estimate + reach

    return Part(name, estimate, target, f"{n} images, {words}", few, missing, ends)


def normal(name: str, estimate: float, variance: float, target: Range, positive: np.ndarray, missing: float) -> Part:
    right, wrong = int(positive.sum()), int((~positive).sum())

    def ends(level: float) -> tuple[float, float]:
        half = float(norm.ppf((1 + level) / 2)) * variance**0.5
        return estimate - half, estimate + half

    few = f"{right} and {wrong}" if min(right, wrong) < LEAST_EACH else ""
    return Part(name, estimate, target, n=f"{right} and {wrong} images", few=few, missing=missing, ends=ends)


def median(name: str, values: np.ndarray, target: Range, less: np.ndarray | None = None) -> Part:
    """Of one value per image (n,), NaN where missing; with `less` (m,), of other images, how far it is above their
    median. Images of each kind are drawn again (percentiles of DRAWS)."""
    groups = [values] if less is None else [values, less]
    there = [group[~np.isnan(group)] for group in groups]
    few = ", ".join(f"{len(group)} images" for group in there if len(group) < LEAST_EACH)
    if not all(len(group) for group in there):
        return nothing(name, target, "nothing")
    rng = np.random.default_rng(0)

    def gap(some: Sequence[np.ndarray]) -> float:
        return float(np.median(some[0])) - (float(np.median(some[1])) if len(some) > 1 else 0.0)

    drawn = np.array([gap([group[rng.integers(0, len(group), len(group))] for group in there]) for _ in range(DRAWS)])
    missing = 1 - sum(map(len, there)) / sum(map(len, groups))
    counts = " and ".join(str(len(group)) for group in there)
    return Part(name, gap(there), target, f"{counts} images", few, missing, partial(percentile_interval, drawn))


def two_peaks(name: str, values: np.ndarray, target: Range) -> Part:
    """V, how deep the valley between the peaks on both sides of 0 is; images are drawn again."""
    there = values[~np.isnan(values)]
    if len(there) < 2:
        return nothing(name, target, "nothing")
    few = f"{len(there)} images" if len(there) < 2 * LEAST_EACH else ""
    drawn, missing = resampled_valleys(there, DRAWS), 1 - len(there) / len(values)
    return Part(
        name, valley(there).v, target, f"{len(there)} images", few, missing, partial(percentile_interval, drawn)
    )


def over_networks(networks: Sequence[Sequence[Part]]) -> list[Part]:
    """The parts of each network, trained from seeds of their own on the same data, as one: the mean over networks. Its
    interval has that over images, as wide as if an image did the same in every network, and t of the networks."""

    def together(parts: Sequence[Part]) -> Part:
        found = np.array([part.estimate for part in parts])
        error = float(found.std(ddof=1)) / len(found) ** 0.5

        def ends(level: float) -> tuple[float, float]:
            images = np.mean([high - low for low, high in (part.interval(level) for part in parts)]) / 2
            reach = float(np.hypot(images, t.ppf((1 + level) / 2, len(found) - 1) * error))
            return float(found.mean()) - reach, float(found.mean()) + reach

        few = next((part.few for part in parts if part.few), "")
        n, missing = f"{len(parts)} networks, {parts[0].n}", max(part.missing for part in parts)
        return replace(parts[0], estimate=float(found.mean()), n=n, few=few, missing=missing, ends=ends)

    return [together(parts) for parts in zip(*networks, strict=True)]


def nothing(name: str, target: Range, why: str) -> Part:
    """What can't be computed here."""
    return Part(name, NAN, target, n="", few=why, missing=1.0)


def exact(name: str, estimate: float, target: Range, n: str) -> Part:
    """What was enumerated or searched: no interval."""
    return Part(name, float(estimate), target, n=n, missing=float(np.isnan(estimate)))
