"""How well a score tells right from wrong, and how many peaks it has: AUROC, bootstrap, valley between peaks, dip test.

Scores are NaN where missing; they are left out here, and counted by whoever shows the number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import cast

import numpy as np
from scipy.sparse import csr_array
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
GRID = LOW + STEP * np.arange(-1, round((HIGH - LOW) / STEP) + 2)
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
    return float(silverman_width(deviation, high - low, len(values)))


def silverman_width(deviation: np.ndarray, quartiles: np.ndarray, n: int) -> np.ndarray:
    """From standard deviations and interquartile ranges of n values."""
    spread = np.minimum(deviation, quartiles / 1.34)
    return 0.9 * np.where(spread > 0, spread, deviation) * n**-0.2


def density(values: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """(grid, density) of a Gaussian kernel estimate on a grid that reaches one STEP beyond [LOW, HIGH]; values beyond
    count too."""
    reach = reach_of(width)
    bins = binned(values, reach)
    return GRID, smoothed(np.asarray(bins.sum(0)).ravel(), width, len(values))


def reach_of(width: float) -> int:
    """Of a kernel, in steps."""
    return int(np.ceil(4 * width / STEP)) + 1


def binned(values: np.ndarray, reach: int) -> csr_array:
    """(n, cells): each value's share of the two cells around it, on the grid and `reach` steps more on both sides."""
    cells = len(GRID) - 2 + 2 * reach
    place = (values - LOW) / STEP + reach
    low = np.floor(place).astype(int)
    row, column = np.tile(np.arange(len(values)), 2), np.concatenate([low, low + 1])
    weight = np.concatenate([1 - (place - low), place - low])
    there = (column >= 0) & (column < cells)
    return csr_array((weight[there], (row[there], column[there])), shape=(len(values), cells))


def smoothed(bins: np.ndarray, width: float, n: int) -> np.ndarray:
    """Density on GRID of n values in bins that reach reach_of(width) steps beyond it."""
    reach = reach_of(width)
    kernel = np.exp(-0.5 * (np.arange(-reach + 1, reach) * STEP / width) ** 2)
    return np.convolve(bins, kernel, mode="valid") / (n * width * np.sqrt(2 * np.pi))


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
    return valley_of(density(values, width)[1], lambda at: ((values < at).mean(), (values > at).mean()))


def valley_of(f: np.ndarray, beside: Callable[[float], tuple[float, float]]) -> Valley:
    """The same of a density on GRID; beside: the shares of values below and above a place."""
    tops = np.flatnonzero((f[1:-1] >= f[:-2]) & (f[1:-1] > f[2:])) + 1
    sides = [tops[GRID[tops] < 0], tops[GRID[tops] > 0]]
    if not all(len(side) for side in sides):
        left, right = (float(GRID[side[f[side].argmax()]]) if len(side) else NAN for side in sides)
        return Valley(0.0, left, right, NAN)
    left, right = (int(side[f[side].argmax()]) for side in sides)
    bottom = left + int(f[left : right + 1].argmin())
    enough = min(*beside(0.0), *beside(float(GRID[bottom]))) >= LEAST_MASS
    return Valley(
        float(1 - f[bottom] / min(f[left], f[right])) if enough else 0.0,
        float(GRID[left]),
        float(GRID[right]),
        float(GRID[bottom]),
    )


def resampled_valleys(values: np.ndarray, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """V when the values are drawn again, (draws,): that of `valley`, from counts of each value. values: (n,), none is
    missing."""
    ordered, n = np.sort(np.asarray(values, dtype=float)), len(values)
    counts, found = resamples(n, draws, seed), np.empty(draws)
    reach = reach_of(2 * silverman(ordered) + STEP)  # as far as any draw's kernel will reach, or more cells below
    cells = binned(ordered, reach).T.tocsr()
    quartiles = np.array([0.25, 0.75]) * (n - 1)
    for at in range(0, draws, AT_ONCE):
        some = counts[at : at + AT_ONCE].astype(float)
        upto, bins = np.cumsum(some, axis=1), (cells @ some.T).T
        lower, upper = (ordered[(upto <= np.floor(quartiles)[:, None, None] + k).sum(2)] for k in (0, 1))
        low, high = lower + (upper - lower) * (quartiles % 1)[:, None]
        mean = some @ ordered / n
        spread = np.sqrt(np.clip(some @ ordered**2 / n - mean**2, 0, None) * n / (n - 1))
        widths = silverman_width(spread, high - low, n)
        flat = widths < 1e-9  # equal values, but for rounding
        for d, f in enumerate(smoothed_together(bins, np.where(flat, 1.0, widths), reach, n)):
            if flat[d] or reach_of(widths[d]) > reach:
                found[at + d] = valley(np.repeat(ordered, counts[at + d])).v
            else:
                found[at + d] = valley_of(f, partial(shares_beside, ordered, upto[d])).v
    return found


def shares_beside(ordered: np.ndarray, upto: np.ndarray, place: float) -> tuple[float, float]:
    """Below and above a place; upto: how many values up to each of `ordered`."""
    counts = np.append(0.0, upto)
    below, to = (counts[np.searchsorted(ordered, place, side)] for side in ("left", "right"))
    return below / counts[-1], (counts[-1] - to) / counts[-1]


def smoothed_together(bins: np.ndarray, widths: np.ndarray, reach: int, n: int) -> np.ndarray:
    """`smoothed` of each row of bins (D, cells), which reach further than its kernel, at its own width: (D, grid)."""
    size = 1 << (bins.shape[1] + 2 * reach).bit_length()
    steps = np.arange(size)
    steps = np.minimum(steps, size - steps)  # around a circle that no kernel closes
    reaches = np.array([reach_of(width) for width in widths])[:, None]
    kernels = np.exp(-0.5 * (steps * STEP / widths[:, None]) ** 2) * (steps < reaches)
    f = np.fft.irfft(np.fft.rfft(bins, size) * np.fft.rfft(kernels, size), size)[:, reach - 1 : reach - 1 + len(GRID)]
    f[f < 1e-12 * f.max(1, keepdims=True)] = 0  # rounding, which would have peaks of its own
    return f / (n * widths[:, None] * np.sqrt(2 * np.pi))


def highest(values: np.ndarray) -> float:
    """The place of the density's highest peak on [-3, 1]; NaN where all values are equal."""
    width = silverman(values) if len(values) > 1 else 0.0
    if width == 0:
        return NAN
    return float(GRID[density(values, width)[1].argmax()])


def dip(values: np.ndarray) -> tuple[float, float]:
    """Hartigan's dip statistic and its p-value against a single peak."""
    from diptest import diptest

    values = np.asarray(values, dtype=float)
    statistic, p = cast(tuple[float, float], diptest(values[~np.isnan(values)]))
    return float(statistic), float(p)
