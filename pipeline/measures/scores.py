"""How well a score tells right from wrong, and how many peaks it has: AUROC, DeLong's interval, valley between peaks, dip test.

Scores are NaN where missing; they are left out here, and counted by whoever shows the number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import cast

import numpy as np

NAN = float("nan")


# ---- AUROC ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Auroc:
    """value: P(score of a positive > of a negative) + half of the ties; variance: DeLong's; positives, negatives: how many."""

    value: float
    variance: float
    positives: int
    negatives: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        half = NormalDist().inv_cdf((1 + level) / 2) * self.variance**0.5
        return max(0.0, self.value - half), min(1.0, self.value + half)


def midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties share their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def auroc(score: np.ndarray, positive: np.ndarray) -> Auroc:
    """AUROC of `score` for `positive` (bool), both (n,), with the variance of DeLong et al. (1988), in O(n log n) as Sun and Xu (2014).

    value is NaN without both classes, variance without two of each.
    """
    positive = np.asarray(positive, dtype=bool)[present := ~np.isnan(score := np.asarray(score, dtype=float))]
    score = score[present]
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        return Auroc(NAN, NAN, m, n)
    ranks = midranks(score)
    above = (ranks[positive] - midranks(score[positive])) / n  # share of negatives below each positive
    below = 1 - (ranks[~positive] - midranks(score[~positive])) / m  # share of positives above each negative
    variance = above.var(ddof=1) / m + below.var(ddof=1) / n if min(m, n) > 1 else NAN
    return Auroc(float(above.mean()), float(variance), m, n)


def bins_of(given: np.ndarray, bins: int = 20) -> np.ndarray:
    """Which of `bins` equally full bins of `given` each value lies in; equal values stay together."""
    return ((midranks(given) - 1) * bins // max(1, len(given))).astype(int)


def auroc_within(score: np.ndarray, positive: np.ndarray, given: np.ndarray, bins: int = 20) -> float:
    """AUROC over pairs that are alike in `given`: in the same one of `bins` equally full bins of it. What a score tells beyond `given`."""
    score, positive, given = (
        np.asarray(score, dtype=float),
        np.asarray(positive, dtype=bool),
        np.asarray(given, dtype=float),
    )
    present = ~(np.isnan(score) | np.isnan(given))
    stratum = np.zeros(len(score), dtype=int)
    stratum[present] = bins_of(given[present], bins)
    return float(weighted_aurocs(score, positive, present[None].astype(float), stratum)[0])


def weighted_aurocs(
    score: np.ndarray, positive: np.ndarray, weights: np.ndarray, stratum: np.ndarray | None = None
) -> np.ndarray:
    """AUROC where image i counts weights[d, i] times, (D,); score, positive (bool): (n,), weights: (D, n). With a stratum (n,) of each image,
    over pairs within one stratum. NaN without such a pair."""
    stratum = np.zeros(len(score), dtype=int) if stratum is None else stratum
    order = np.lexsort((score, stratum))
    order = order[~np.isnan(score[order])]
    if not len(order):
        return np.full(len(weights), NAN)
    score, stratum, positive, weights = score[order], stratum[order], positive[order], weights[:, order]
    new_stratum = np.diff(stratum, prepend=stratum[0] - 1) != 0
    ties = np.flatnonzero(new_stratum | (np.diff(score, prepend=np.nan) != 0))  # first of each run of equal scores
    first = np.flatnonzero(new_stratum[ties])[np.cumsum(new_stratum[ties]) - 1]  # of each run's stratum
    up, down = weights * positive, weights * ~positive
    if len(ties) < len(score):
        up, down = np.add.reduceat(up, ties, axis=1), np.add.reduceat(down, ties, axis=1)
    lower = np.cumsum(down, axis=1) - down
    ordered = up * (lower - lower[:, first] + down / 2)
    strata = np.flatnonzero(new_stratum[ties])
    pairs = np.add.reduceat(up, strata, axis=1) * np.add.reduceat(down, strata, axis=1)
    with np.errstate(invalid="ignore"):
        return ordered.sum(axis=1) / pairs.sum(axis=1)


def resampled_aurocs(
    scores: np.ndarray, positive: np.ndarray, stratum: np.ndarray | None = None, draws: int = 2000, seed: int = 0
) -> np.ndarray:
    """AUROC of each of k scores (k, n) when images are drawn again, (draws, k): the same images for all scores, so that their differences are paired."""
    rng, n = np.random.default_rng(seed), len(positive)
    found = []
    for start in range(0, draws, 100):  # in chunks that fit the cache
        weights = rng.multinomial(n, np.full(n, 1 / n), size=min(100, draws - start)).astype(float)
        found.append(np.stack([weighted_aurocs(score, positive, weights, stratum) for score in scores], axis=1))
    return np.concatenate(found)


def percentile_interval(drawn: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval of a statistic from its values on resampled images, NaN left out."""
    if np.isnan(drawn).all():
        return NAN, NAN
    low, high = np.nanpercentile(drawn, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def bootstrap(
    statistic: Callable[..., float], *columns: np.ndarray, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of statistic(*columns) when images, the rows of the columns (n,), are drawn again."""
    rng, n = np.random.default_rng(seed), len(columns[0])
    rows = (rng.integers(0, n, n) for _ in range(draws))
    return percentile_interval(np.array([statistic(*(column[chosen] for column in columns)) for chosen in rows]), level)


# ---- peaks ----------------------------------------------------------------------------------------------------------

LOW, HIGH, STEP = -3.0, 1.0, 1 / 256  # S <= 1; below -3 it is a tail
LEAST_MASS = 0.05


@dataclass(frozen=True)
class Valley:
    """v: 1 - density at the valley / at the lower of the two peaks; left, right, valley: their places, NaN where there is no such peak."""

    v: float
    left: float
    right: float
    valley: float


def silverman(values: np.ndarray) -> float:
    """Silverman's width of a Gaussian kernel, .9 min(SD, IQR / 1.34) n^(-1/5)."""
    deviation, (low, high) = values.std(ddof=1), np.percentile(values, [25, 75])
    spread = min(deviation, (high - low) / 1.34) or deviation
    return float(0.9 * spread * len(values) ** -0.2)


def density(values: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """(grid, density) of a Gaussian kernel estimate on a grid that reaches one STEP beyond [LOW, HIGH]; all values count, also beyond."""
    reach = int(np.ceil(4 * width / STEP)) + 1
    cells = round((HIGH - LOW) / STEP) + 1 + 2 * reach
    place = (values - LOW) / STEP + reach
    place = place[(place >= 0) & (place < cells - 1)]
    share = place % 1  # linear binning
    weights = np.bincount(place.astype(int), 1 - share, cells) + np.bincount(place.astype(int) + 1, share, cells)
    kernel = np.exp(-0.5 * (np.arange(-reach + 1, reach) * STEP / width) ** 2)
    smooth = np.convolve(weights, kernel, mode="valid") / (len(values) * width * np.sqrt(2 * np.pi))
    return LOW + STEP * np.arange(-1, len(smooth) - 1), smooth


def valley(values: np.ndarray) -> Valley:
    """V of S's density on [-3, 1]: 1 - valley / lower peak, the peaks the highest local maxima on each side of 0, the valley the lowest place between.

    0 where a side of 0 has no peak or less than 5 % of the values; also where a side of the valley has less, for a bump that a few
    values of a tail make is no peak.
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    width = silverman(values) if len(values) > 1 else 0.0
    if width == 0:
        return Valley(0.0, NAN, NAN, NAN)
    grid, f = density(values, width)
    tops = np.flatnonzero((f[1:-1] >= f[:-2]) & (f[1:-1] > f[2:])) + 1
    sides = [tops[grid[tops] < 0], tops[grid[tops] > 0]]
    if not all(len(side) for side in sides):
        left, right = (float(grid[side[f[side].argmax()]]) if len(side) else NAN for side in sides)
        return Valley(0.0, left, right, NAN)
    left, right = (int(side[f[side].argmax()]) for side in sides)
    bottom = left + int(f[left : right + 1].argmin())
    enough = (
        min((values < 0).mean(), (values > 0).mean(), (values < grid[bottom]).mean(), (values > grid[bottom]).mean())
        >= LEAST_MASS
    )
    return Valley(
        float(1 - f[bottom] / min(f[left], f[right])) if enough else 0.0,
        float(grid[left]),
        float(grid[right]),
        float(grid[bottom]),
    )


def dip(values: np.ndarray) -> tuple[float, float]:
    """Hartigan's dip statistic and its p-value against a single peak."""
    from diptest import diptest

    values = np.asarray(values, dtype=float)
    statistic, p = cast(tuple[float, float], diptest(values[~np.isnan(values)]))
    return float(statistic), float(p)
