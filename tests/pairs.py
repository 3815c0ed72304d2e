"""AUROC by its definition, over all pairs of a positive and a negative."""

import numpy as np


def wins(score, positive) -> np.ndarray:
    """A row per positive, a column per negative: is it above?"""
    up, down = score[positive], score[~positive]
    return np.array([[1.0 if u > d else 0.5 if u == d else 0.0 for d in down] for u in up])


def delong(score, positive) -> tuple[float, float]:
    """DeLong's 95 % interval."""
    found = wins(score, positive)
    variance = np.var(found.mean(1), ddof=1) / found.shape[0] + np.var(found.mean(0), ddof=1) / found.shape[1]
    half = 1.959964 * variance**0.5
    return max(0.0, found.mean() - half), min(1.0, found.mean() + half)


def share_within(score, positive, groups) -> float:
    """Over the pairs within one of the groups (lists of places)."""
    found = [wins(score[some], positive[some]).ravel() for some in groups]
    return np.concatenate(found).mean()


def equal_bins(given, bins: int = 20) -> list[list[int]]:
    """The places of `given`, which has no ties, in `bins` groups by size."""
    order = sorted(range(len(given)), key=lambda i: given[i])
    return [[i for at, i in enumerate(order) if at * bins // len(order) == b] for b in range(bins)]
