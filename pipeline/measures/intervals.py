"""Intervals over images and weight seeds."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import t


def over_crossed(values: np.ndarray) -> np.ndarray:
    """Mean over images and seeds of the cells that are there; (images, seeds, N) -> (N,)."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0).sum((0, 1)) / there.sum((0, 1))


def crossed_interval(
    values: np.ndarray,
    level: float = 0.95,
    statistic: Callable[[np.ndarray], np.ndarray] = over_crossed,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic of a table of images x weight seeds, by default the mean, and the ends of its interval; each (N,).

    values: (images, seeds, N), complete; NaN cells are missing. Each image is left out once, and each seed: V_I = (n -
    1) / n sum (T without i - their mean)^2, V_S alike over seeds; T -+ t sqrt(V_I + V_S), with Satterthwaite's degrees
    of freedom. A factor with one level says nothing of its variance; with one image and one seed the ends are NaN.
    """
    estimate, variance, freedom = crossed_moments(values, statistic)
    if max(values.shape[:2]) == 1:
        return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    half = np.where(variance == 0, 0, t.ppf((1 + level) / 2, freedom) * np.sqrt(variance))
    return estimate, estimate - half, estimate + half


def crossed_moments(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray] = over_crossed
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The statistic, its variance V_I + V_S and Satterthwaite's degrees of freedom (NaN where the variance is 0), each
    (N,)."""
    estimate = statistic(values)
    variance, squares = np.zeros_like(estimate), np.zeros_like(estimate)
    for axis, n in enumerate(values.shape[:2]):
        if n > 1:
            without = np.stack([statistic(np.delete(values, i, axis)) for i in range(n)])
            part = (n - 1) / n * ((without - without.mean(0)) ** 2).sum(0)
            variance, squares = variance + part, squares + part**2 / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return estimate, variance, variance**2 / squares


def t_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values and the ends of its t interval, NaN where there is one value only."""
    found = np.asarray(values, dtype=float)
    mean, n = float(found.mean()), len(found)
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(t.ppf((1 + level) / 2, n - 1) * found.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def crossed_table(frame, value: str, by: Sequence[str] = ("n",)) -> np.ndarray:
    """A tidy table -> (images, seeds, N) for crossed_interval, NaN where a row is missing. Raises ValueError for two
    rows of one image and seed: they would be averaged silently."""
    keys = ["image", "seed", *by]
    factors = [pd.factorize(frame[key], sort=True, use_na_sentinel=False) for key in keys]
    shape = [len(levels) for _, levels in factors]
    place = np.ravel_multi_index([codes for codes, _ in factors], shape)
    if len(np.unique(place)) < len(place):
        found = frame[frame.duplicated(keys)].iloc[0]
        raise ValueError(f"two rows of image {found['image']} and seed {found['seed']}: they are not of one cell")
    cells = np.full(shape, np.nan)
    cells.flat[place] = frame[value].to_numpy(dtype=float, na_value=np.nan)
    return cells.reshape(*shape[:2], -1)


def crossed_curve(labels: Sequence[str], frame, value: str, by: str = "n") -> list[list]:
    """Rows [*labels, x, name, mean, low, high] of one curve along the column `by`, named by the column `name`."""
    xs, names = sorted(frame[by].unique()), frame.drop_duplicates(by).set_index(by)["name"]
    ends = zip(*crossed_interval(crossed_table(frame, value, by=(by,))), strict=True)
    return [[*labels, x, names[x], *numbers] for x, numbers in zip(xs, ends, strict=True)]


def crossed_mean(labels: Sequence[object], frame, value: str) -> list:
    """A row [*labels, mean, low, high] of a table with one value per image and weight seed."""
    return [*labels, *(float(end[0]) for end in crossed_interval(crossed_table(frame, value, by=())))]
