"""What a score tells of "classified correctly" beyond what the network's confidence does."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

KNOTS = (0.05, 0.275, 0.5, 0.725, 0.95)  # quantiles (Harrell): a natural cubic spline of 4 degrees of freedom
FOLDS = 10


@dataclass(frozen=True)
class OutOfFold:
    """For each image (n,) the probability that it is right, by a model that has not seen it: without and with S."""

    without: np.ndarray
    with_score: np.ndarray


def out_of_fold(
    score: np.ndarray, right: np.ndarray, margin: np.ndarray, stays: np.ndarray, seed: int = 0
) -> OutOfFold:
    """Logistic models of right (n,) bool, cross-validated: splines of the margin and the bit `stays` (does R~ keep the
    decision?), and the same with a spline of the score. Each class needs FOLDS images at least."""
    found = np.empty((2, len(score)))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(margin, right):
        columns = stays[:, None] * 1.0
        for i, values in enumerate((margin, score)):
            columns = np.hstack([columns, natural_spline(values, values[train])])
            model = LogisticRegression(C=1e6, max_iter=2000).fit(columns[train], right[train])
            found[i, test] = model.predict_proba(columns[test])[:, 1]
    return OutOfFold(*found)


def natural_spline(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """(n, 4): basis of cubic splines that are straight beyond the outer KNOTS, quantiles of `like`; each column
    scaled by its mean and deviation there."""
    knots = np.unique(np.quantile(like, KNOTS))
    basis, reference = (np.stack([*powers(x, knots)], axis=1) for x in (values, like))
    spread = reference.std(0)
    return (basis - reference.mean(0)) / np.where(spread > 0, spread, 1)


def powers(x: np.ndarray, knots: np.ndarray) -> Iterator[np.ndarray]:
    """x, and the truncated powers whose cubic and square parts cancel beyond the last knot."""
    yield x
    last = knots[-1]

    def power(knot: float) -> np.ndarray:
        return (np.clip(x - knot, 0, None) ** 3 - np.clip(x - last, 0, None) ** 3) / (last - knot)

    for knot in knots[:-2]:
        yield power(knot) - power(knots[-2])
