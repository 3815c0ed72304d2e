"""How well a score tells right from wrong, and how many peaks it has: AUROC, bootstrap, valley between peaks, dip test.

Scores are NaN where missing; they are left out here, and counted by whoever shows the number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from scipy.stats import rankdata

NAN = float("nan")
AT_ONCE = 50  # weightings that weighted_aurocs takes at a time: of 10,000 images they fit the cache


# ---- AUROC -----------------------------------------------------------------------------------------------------------


def bins_of(given: np.ndarray, bins: int = 20) -> np.ndarray:
    """Which of `bins` equally full bins of `given` each value lies in; equal values stay together."""
    return ((rankdata(given) - 1) * bins // max(1, len(given))).astype(int)


def weighted_aurocs(
    score: np.ndarray, positive: np.ndarray, weights: np.ndarray, stratum: np.ndarray | None = None
) -> np.ndarray:
    """AUROC where image i counts weights[d, i] times, (D,): the share of pairs of a positive and a negative where the
    positive scores higher, ties half. score, positive (bool): (n,), weights: (D, n). With a stratum (n,) of each image,
    over the pairs within one stratum. NaN without such a pair. Exact for whole weights, in any order of summation.
    """
    stratum = np.zeros(len(score), dtype=int) if stratum is None else stratum
    order = np.lexsort((score, stratum))
    order = order[~np.isnan(score[order])]
    up, down = order[positive[order]], order[~positive[order]]
    if not len(up) or not len(down):
        return np.full(len(weights), NAN)
    rank = np.empty(len(score), dtype=int)  # equal for equal scores of one stratum
    rank[order] = np.cumsum((np.diff(stratum[order], prepend=-1) != 0) | (np.diff(score[order], prepend=NAN) != 0))
    below, upto = (np.searchsorted(rank[down], rank[up], side) for side in ("left", "right"))
    strata, starts = np.unique(stratum[up], return_index=True)
    first, stop = (np.searchsorted(stratum[down], strata, side) for side in ("left", "right"))
    found = []
    for at in range(0, len(weights), AT_ONCE):
        some = weights[at : at + AT_ONCE]
        lower = np.zeros((len(some), len(down) + 1))  # the weight of the first negatives
        np.cumsum(some[:, down], axis=1, out=lower[:, 1:])
        higher = some[:, up].astype(float)
        each = np.add.reduceat(higher, starts, axis=1)
        twice = lower[:, below] + lower[:, upto] if (below != upto).any() else 2 * lower[:, below]
        ordered = np.einsum("dp,dp->d", higher, twice) / 2 - np.einsum("ds,ds->d", each, lower[:, first])
        pairs = np.einsum("ds,ds->d", each, lower[:, stop] - lower[:, first])
        with np.errstate(invalid="ignore"):
            found.append(ordered / pairs)
    return np.concatenate(found)


@lru_cache(maxsize=1)
def resamples(n: int, draws: int, seed: int) -> np.ndarray:
    """How often each of n images is in each bootstrap sample, (draws, n). Kept: the scores of a figure share them."""
    rng, counts = np.random.default_rng(seed), np.empty((draws, n), dtype=np.uint8)  # a count is about Poisson(1)
    for at in range(0, draws, AT_ONCE):
        counts[at : at + AT_ONCE] = rng.multinomial(n, np.full(n, 1 / n), size=min(AT_ONCE, draws - at))
    return counts


def resampled_aurocs(
    scores: np.ndarray, positive: np.ndarray, stratum: np.ndarray | None = None, draws: int = 2000, seed: int = 0
) -> np.ndarray:
    """AUROC of each of k scores (k, n) when images are drawn again, (draws, k): the same images for all scores, so that
    their differences are paired."""
    weights = resamples(len(positive), draws, seed)
    return np.stack([weighted_aurocs(score, positive, weights, stratum) for score in scores], axis=1)


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


# ---- peaks -----------------------------------------------------------------------------------------------------------

LOW, HIGH, STEP = -3.0, 1.0, 1 / 256  # S <= 1; below -3 it is a tail
LEAST_MASS = 0.05


@dataclass(frozen=True)
class Valley:
    """v: 1 - density at the valley / at the lower of the two peaks; left, right, valley: their places, NaN where
    there is no such peak."""

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
    """(grid, density) of a Gaussian kernel estimate on a grid that reaches one STEP beyond [LOW, HIGH]; values beyond
    count too."""
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
    """V of S's density on [-3, 1]: 1 - valley / lower peak, the peaks the highest local maxima on each side of 0, the
    valley the lowest place between.

    0 where a side of 0 has no peak or less than 5 % of the values; also where a side of the valley has less, for a bump
    that a few values of a tail make is no peak.
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


def highest(values: np.ndarray) -> float:
    """The place of the density's highest peak on [-3, 1]; NaN where all values are equal."""
    width = silverman(values) if len(values) > 1 else 0.0
    if width == 0:
        return NAN
    grid, f = density(values, width)
    return float(grid[f.argmax()])


def dip(values: np.ndarray) -> tuple[float, float]:
    """Hartigan's dip statistic and its p-value against a single peak."""
    from diptest import diptest

    values = np.asarray(values, dtype=float)
    statistic, p = cast(tuple[float, float], diptest(values[~np.isnan(values)]))
    return float(statistic), float(p)
