"""Statistics of a score against their definitions, over all pairs and on planted data."""

import numpy as np
import pytest

from pipeline.measures.scores import (
    LOW,
    STEP,
    auroc,
    auroc_within,
    bootstrap,
    density,
    dip,
    percentile_interval,
    resampled_aurocs,
    silverman,
    valley,
    weighted_aurocs,
)

# ---- AUROC -----------------------------------------------------------------------------------------------------------


def wins(score, positive) -> np.ndarray:
    """A row per positive, a column per negative: is it above?"""
    up, down = (
        [s for s, p in zip(score, positive, strict=True) if p],
        [s for s, p in zip(score, positive, strict=True) if not p],
    )
    return np.array([[1.0 if u > d else 0.5 if u == d else 0.0 for d in down] for u in up])


def pair_share(score, positive) -> tuple[float, float]:
    """AUROC and DeLong's variance by their definitions, over all pairs."""
    found = wins(score, positive)
    return found.mean(), np.var(found.mean(1), ddof=1) / found.shape[0] + np.var(found.mean(0), ddof=1) / found.shape[1]


def share_within(score, positive, groups) -> float:
    """AUROC over the pairs within one of the groups (lists of places)."""
    found = [wins(score[some], positive[some]).ravel() for some in groups]
    return np.concatenate(found).mean()


@pytest.mark.parametrize("decimals", [0, 1, 9])  # many ties, some, none
def test_auroc_is_the_share_of_ordered_pairs(decimals):
    rng = np.random.default_rng(decimals)
    positive = rng.random(150) < 0.7
    score = (rng.normal(size=150) + positive).round(decimals)
    found, (value, variance) = auroc(np.append(score, np.nan), np.append(positive, True)), pair_share(score, positive)
    assert np.isclose(found.value, value, atol=1e-12) and np.isclose(found.variance, variance, atol=1e-12)
    assert (found.positives, found.negatives) == (positive.sum(), (~positive).sum())
    low, high = found.interval()
    assert np.isclose(high - low, 2 * 1.959964 * variance**0.5) and found.interval(0.9)[0] > low


def test_auroc_of_one_class_is_none():
    assert np.isnan(auroc(np.arange(3.0), np.ones(3)).value)
    alone = auroc(np.arange(3.0), np.array([0, 0, 1]))
    assert alone.value == 1 and np.isnan(alone.variance)


def test_delong_and_the_bootstrap_cover():
    """True AUROC .70: normals .7416 apart. 75 right and 25 wrong of 100."""
    rng, positive, hits, widths = np.random.default_rng(0), np.arange(300) >= 75, 0, []
    for trial in range(400):
        score = rng.normal(size=300) + 0.74161 * positive
        low, high = auroc(score, positive).interval()
        hits += low <= 0.7 <= high
        if trial < 3:
            widths.append(
                np.subtract(*bootstrap(lambda s, p: auroc(s, p).value, score, positive, draws=400)[::-1]) / (high - low)
            )
    assert 0.92 <= hits / 400 <= 0.975 and np.allclose(widths, 1, atol=0.2)


def test_auroc_given_the_margin():
    rng = np.random.default_rng(3)
    margin, positive = rng.exponential(size=400), rng.random(400) < 0.6
    score = margin.round(1) + positive * 0.3
    order = sorted(range(400), key=lambda i: margin[i])
    assert np.isclose(
        auroc_within(score, positive, margin),
        share_within(score, positive, [order[at : at + 20] for at in range(0, 400, 20)]),
    )
    big, chance = rng.exponential(size=20000), rng.random(20000)
    right = chance < 1 - np.exp(-2 * big)
    assert (
        auroc(big, right).value > 0.75 and abs(auroc_within(big, right, big) - 0.5) < 0.05
    )  # the margin says nothing beyond itself
    assert np.isnan(auroc_within(np.ones(3), np.ones(3), np.arange(3)))


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_aurocs_are_those_of_repeated_images(ties):
    """Image i counted w times = image i written down w times; with strata, the pairs within them alone."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        score = rng.integers(0, 6, 50).astype(float) if ties else rng.normal(size=50)
        score[rng.random(50) < 0.1] = np.nan
        positive, stratum, weights = (
            rng.random(50) < 0.6,
            rng.integers(0, 4, 50),
            rng.integers(0, 3, (3, 50)).astype(float),
        )
        plain, within = weighted_aurocs(score, positive, weights), weighted_aurocs(score, positive, weights, stratum)
        for d in range(3):
            rows = np.repeat(np.arange(50), weights[d].astype(int))
            rows = rows[~np.isnan(score[rows])]
            assert np.isclose(plain[d], wins(score[rows], positive[rows]).mean())
            assert np.isclose(within[d], share_within(score, positive, [rows[stratum[rows] == k] for k in range(4)]))
    assert np.isnan(weighted_aurocs(np.array([np.nan]), np.array([True]), np.ones((2, 1)))).all()


def test_resampled_aurocs_are_paired():
    """Two scores that always agree have a difference without spread, and the interval is DeLong's."""
    rng, positive = np.random.default_rng(5), np.arange(300) >= 75
    score = rng.normal(size=300) + 0.7 * positive
    drawn = resampled_aurocs(np.stack([score, 2 * score + 1, rng.normal(size=300)]), positive, draws=1500)
    assert drawn.shape == (1500, 3) and (drawn[:, 0] == drawn[:, 1]).all() and np.std(drawn[:, 0] - drawn[:, 2]) > 0.02
    np.testing.assert_allclose(percentile_interval(drawn[:, 0]), auroc(score, positive).interval(), atol=0.012)
    again = resampled_aurocs(score[None], positive, draws=1500)
    assert np.array_equal(again[:, 0], drawn[:, 0])  # seeded, whatever else is asked for


# ---- peaks -----------------------------------------------------------------------------------------------------------


def mixture(share: float, n: int, seed: int, right: float = 0.6, left: float = -0.5, sd: float = 0.25) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < share, right, left) + sd * rng.normal(size=n)


def test_density_is_the_sum_of_kernels():
    values = np.append(mixture(0.7, 300, 0), [-20.0, -3.1, 1.05])  # some beyond the grid
    width = silverman(values)
    assert np.isclose(
        width, 0.9 * min(values.std(ddof=1), np.subtract(*np.percentile(values, [75, 25])) / 1.34) * 303**-0.2
    )
    grid, f = density(values, width)
    assert np.isclose(grid[0], LOW - STEP) and np.isclose(grid[-1], 1 + STEP)
    slow = [
        sum(np.exp(-((x - v) ** 2) / 2 / width**2) for v in values) / 303 / width / np.sqrt(2 * np.pi)
        for x in grid[::40]
    ]
    np.testing.assert_allclose(f[::40], slow, atol=1e-3)


@pytest.mark.parametrize("n", [900, 10000])
@pytest.mark.parametrize("share", [0.5, 0.85])
def test_two_planted_peaks_are_found(share, n):
    found = [valley(mixture(share, n, seed)) for seed in range(20)]
    assert min(f.v for f in found) > 0.25
    for f in found:
        assert abs(f.right - 0.6) < 0.12 and abs(f.left + 0.5) < 0.2 and f.left < f.valley < f.right
    sd = np.hypot(
        0.25, silverman(mixture(share, n, 0))
    )  # the estimate's expectation: each peak as wide as the kernel makes it
    x = np.linspace(-0.6, 0.7, 1000)
    f = share * np.exp(-(((x - 0.6) / sd) ** 2) / 2) + (1 - share) * np.exp(-(((x + 0.5) / sd) ** 2) / 2)
    lower = min(f[x < -0.3].max(), f[x > 0.4].max())
    assert abs(np.mean([v.v for v in found]) - (1 - f.min() / lower)) < 0.05
    low, high = bootstrap(lambda s: valley(s).v, mixture(share, n, 0), draws=60)
    assert 0.1 < low < found[0].v < high


NOT_TWO = {
    "normal": lambda rng, n: 0.2 + 0.3 * rng.normal(size=n), "skewed": lambda rng, n: 0.9 - rng.gamma(2, 0.4, n), "uniform": lambda rng, n: 1.8 * rng.random(n) - 0.9,
    "plateau": lambda rng, n: 1.2 * rng.random(n) - 0.5 + 0.1 * rng.normal(size=n), "critical": lambda rng, n: np.where(rng.random(n) < 0.5, 0.4, -0.2) + 0.3 * rng.normal(size=n),
    "two on the right": lambda rng, n: np.where(rng.random(n) < 0.5, 0.8 + 0.07 * rng.normal(size=n), 0.2 + 0.17 * rng.normal(size=n)), "few below 0": lambda rng, n: np.where(np.arange(n) >= 0.062 * n, 0.6 + 0.1 * rng.normal(size=n), 0.05 * rng.normal(size=n) - 0.015),
    "few on the left": lambda rng, n: np.where(rng.random(n) < 0.97, 0.6, -0.5) + 0.1 * rng.normal(size=n),
}  # fmt: skip


@pytest.mark.parametrize("law", NOT_TWO)
def test_one_peak_is_not_two(law):
    """No lower end of an interval reaches .1, and where the law has no wiggle at all neither does V."""
    for seed in range(20):
        values = NOT_TWO[law](np.random.default_rng(seed), 900)
        v = valley(values).v
        assert v < 0.1 or (
            law in ("uniform", "plateau", "skewed", "critical")
            and bootstrap(lambda s: valley(s).v, values, draws=60)[0] < 0.1
        )


def test_valley_of_nothing():
    assert valley(np.full(10, 0.3)).v == 0 and np.isnan(valley(np.full(10, 0.3)).left) and valley(np.array([])).v == 0
    assert valley(np.append(mixture(0.5, 900, 0), np.nan)) == valley(mixture(0.5, 900, 0))


def test_dip_test():
    assert (
        dip(np.append(mixture(0.5, 900, 0), np.nan))[1] < 0.01
        and dip(np.random.default_rng(0).normal(size=900))[1] > 0.3
    )
