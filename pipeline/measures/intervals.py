"""Intervals over images and weight seeds."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t


def crossed_interval(
    values: np.ndarray, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over images and weight seeds, and the ends of its interval by the crossed bootstrap; each of shape (N,).

    values: (images, seeds, N), complete. Each draw takes n - 1 images and, independently, n - 1 seeds; a factor with
    one level is not drawn. NaN cells are left out of every mean.
    """
    rng = np.random.default_rng(seed)
    images, seeds, _ = values.shape

    def weights(n: int) -> np.ndarray:
        return np.ones((draws, 1)) if n == 1 else rng.multinomial(n - 1, np.full(n, 1 / n), size=draws).astype(float)

    present = ~np.isnan(values)
    wi, ws = weights(images), weights(seeds)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.einsum("di,isn,ds->dn", wi, np.where(present, values, 0), ws, optimize=True)
        count = np.einsum("di,isn,ds->dn", wi, present.astype(float), ws, optimize=True)
        tail = (1 - level) / 2 * 100
        low, high = np.nanpercentile(total / count, [tail, 100 - tail], axis=0)
        return np.where(present, values, 0).sum((0, 1)) / present.sum((0, 1)), low, high


def t_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values and the ends of its t interval, NaN where there is one value only."""
    found = np.asarray(values, dtype=float)
    mean, n = float(found.mean()), len(found)
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(t.ppf((1 + level) / 2, n - 1) * found.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def crossed_table(frame, value: str, by: Sequence[str] = ("n",)) -> np.ndarray:
    """A tidy table -> (images, seeds, N) for crossed_interval, NaN where a row is missing."""
    wide = frame.pivot_table(index="image", columns=["seed", *by], values=value, dropna=False, sort=True)
    seeds = frame["seed"].nunique()
    return wide.to_numpy(dtype=float).reshape(len(wide), seeds, -1)


def crossed_curve(labels: Sequence[str], frame, value: str, by: str = "n") -> list[list]:
    """Rows [*labels, x, name, mean, low, high] of one curve along the column `by`, named by the column `name`."""
    xs, names = sorted(frame[by].unique()), frame.drop_duplicates(by).set_index(by)["name"]
    ends = zip(*crossed_interval(crossed_table(frame, value, by=(by,))), strict=True)
    return [[*labels, x, names[x], *numbers] for x, numbers in zip(xs, ends, strict=True)]


def crossed_mean(labels: Sequence[object], frame, value: str) -> list:
    """A row [*labels, mean, low, high] of a table with one value per image and weight seed."""
    return [*labels, *(float(end[0]) for end in crossed_interval(crossed_table(frame, value, by=())))]
