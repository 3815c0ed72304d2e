"""Statistics of a score against their definitions, over all pairs and on planted data."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.measures.gain import natural_spline, out_of_fold
from pipeline.measures.scores import (
    LOW,
    STEP,
    bins_of,
    bootstrap,
    density,
    dip,
    percentile_interval,
    resampled_aurocs,
    resampled_valleys,
    resamples,
    silverman,
    valley,
    weighted_aurocs,
)
from tests.pairs import delong, equal_bins, share_within, wins

# ---- AUROC -----------------------------------------------------------------------------------------------------------


def auroc(score, positive, stratum=None) -> float:
    """Of each image once."""
    return float(weighted_aurocs(score, positive, np.ones((1, len(score))), stratum)[0])


@pytest.mark.parametrize("decimals", [0, 1, 9])  # many ties, some, none
def test_auroc_is_the_share_of_ordered_pairs(decimals):
    rng = np.random.default_rng(decimals)
    positive = rng.random(150) < 0.7
    score = (rng.normal(size=150) + positive).round(decimals)
    found = auroc(np.append(score, np.nan), np.append(positive, True))
    assert np.isclose(found, wins(score, positive).mean(), atol=1e-12)
    assert np.isclose(found, roc_auc_score(positive, score), atol=1e-12)


def test_auroc_of_one_class_is_none():
    assert np.isnan(auroc(np.arange(3.0), np.ones(3, dtype=bool)))
    score, alone = np.arange(3.0), np.array([False, False, True])
    drawn = resampled_aurocs(score[None], alone, draws=50)
    assert auroc(score, alone) == 1 and np.isnan(drawn).any()  # of samples without it
    assert percentile_interval(drawn) == (1, 1)
    assert np.isnan(percentile_interval(np.full(3, np.nan))).all()


def test_the_bootstrap_covers():
    """True AUROC .70: normals .7416 apart. 75 right and 25 wrong of 100. Its intervals are DeLong's."""
    rng, positive, hits, widths = np.random.default_rng(0), np.arange(300) >= 75, 0, []
    for trial in range(400):
        score = rng.normal(size=300) + 0.74161 * positive
        low, high = percentile_interval(resampled_aurocs(score[None], positive, draws=400)[:, 0])
        hits += low <= 0.7 <= high
        if trial < 3:
            each = bootstrap(auroc, score, positive, draws=400)
            widths += [np.subtract(*end) / np.subtract(*delong(score, positive)) for end in (each, (low, high))]
    assert 0.92 <= hits / 400 <= 0.975 and np.allclose(widths, 1, atol=0.2)


def test_auroc_given_the_margin():
    rng = np.random.default_rng(3)
    margin, positive = rng.exponential(size=400), rng.random(400) < 0.6
    score = margin.round(1) + positive * 0.3
    expected = share_within(score, positive, equal_bins(margin))
    assert np.isclose(auroc(score, positive, bins_of(margin)), expected)
    big, chance = rng.exponential(size=20000), rng.random(20000)
    right = chance < 1 - np.exp(-2 * big)
    assert auroc(big, right) > 0.75
    assert abs(auroc(big, right, bins_of(big)) - 0.5) < 0.05  # the margin says nothing beyond itself
    assert np.isnan(auroc(np.ones(3), np.ones(3, dtype=bool), bins_of(np.arange(3.0))))


def test_bins_are_equally_full_and_keep_equal_values_together():
    rng = np.random.default_rng(6)
    assert np.bincount(bins_of(rng.normal(size=400))).tolist() == [20] * 20
    given = rng.integers(0, 7, 300)
    found = {value: set(bins_of(given)[given == value]) for value in range(7)}
    assert all(len(places) == 1 for places in found.values())
    assert [min(found[value]) for value in range(7)] == sorted(min(places) for places in found.values())


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_aurocs_are_those_of_repeated_images(ties):
    """Image i counted w times = image i written down w times; with strata, the pairs within them alone."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        score = rng.integers(0, 6, 50).astype(float) if ties else rng.normal(size=50)
        score[rng.random(50) < 0.1] = np.nan
        positive, stratum = rng.random(50) < 0.6, rng.integers(0, 4, 50)
        weights = rng.integers(0, 3, (3, 50)).astype(float)
        plain, within = weighted_aurocs(score, positive, weights), weighted_aurocs(score, positive, weights, stratum)
        for d in range(3):
            rows = np.repeat(np.arange(50), weights[d].astype(int))
            rows = rows[~np.isnan(score[rows])]
            assert np.isclose(plain[d], wins(score[rows], positive[rows]).mean())
            assert np.isclose(plain[d], roc_auc_score(positive[rows], score[rows]))
            assert np.isclose(within[d], share_within(score, positive, [rows[stratum[rows] == k] for k in range(4)]))
    assert np.isnan(weighted_aurocs(np.array([np.nan]), np.array([True]), np.ones((2, 1)))).all()


def test_resampled_aurocs_are_paired():
    """Two scores that always agree have a difference without spread, and the interval is DeLong's."""
    rng, positive = np.random.default_rng(5), np.arange(300) >= 75
    score = rng.normal(size=300) + 0.7 * positive
    drawn = resampled_aurocs(np.stack([score, 2 * score + 1, rng.normal(size=300)]), positive, draws=1500)
    assert drawn.shape == (1500, 3) and (drawn[:, 0] == drawn[:, 1]).all() and np.std(drawn[:, 0] - drawn[:, 2]) > 0.02
    np.testing.assert_allclose(percentile_interval(drawn[:, 0]), delong(score, positive), atol=0.012)
    again = resampled_aurocs(score[None], positive, draws=1500)
    assert np.array_equal(again[:, 0], drawn[:, 0])  # seeded, whatever else is asked for


def test_resamples_draw_all_images_alike():
    counts = resamples(300, 1500, 0)
    assert (counts.sum(1) == 300).all() and np.allclose(counts.mean(0), 1, atol=0.12)
    assert np.isclose(counts.var(), 1, atol=0.01)  # Poisson, but for one in n
    one_call = np.random.default_rng(0).multinomial(300, np.full(300, 1 / 300), size=1500)
    assert np.array_equal(counts, one_call)


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


def two(rng, n: int, share: float, first: tuple[float, float], second: tuple[float, float]) -> np.ndarray:
    """Two normals, (mean, standard deviation) each."""
    (a, b), (c, d) = first, second
    return np.where(rng.random(n) < share, a + b * rng.normal(size=n), c + d * rng.normal(size=n))


def few_below_0(rng, n: int) -> np.ndarray:
    right = 0.6 + 0.1 * rng.normal(size=n)
    return np.where(np.arange(n) >= 0.062 * n, right, 0.05 * rng.normal(size=n) - 0.015)


NOT_TWO = {
    "normal": lambda rng, n: 0.2 + 0.3 * rng.normal(size=n),
    "skewed": lambda rng, n: 0.9 - rng.gamma(2, 0.4, n),
    "uniform": lambda rng, n: 1.8 * rng.random(n) - 0.9,
    "plateau": lambda rng, n: 1.2 * rng.random(n) - 0.5 + 0.1 * rng.normal(size=n),
    "critical": lambda rng, n: np.where(rng.random(n) < 0.5, 0.4, -0.2) + 0.3 * rng.normal(size=n),
    "two on the right": lambda rng, n: two(rng, n, 0.5, (0.8, 0.07), (0.2, 0.17)),
    "few below 0": few_below_0,
    "few on the left": lambda rng, n: np.where(rng.random(n) < 0.97, 0.6, -0.5) + 0.1 * rng.normal(size=n),
}


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


@pytest.mark.parametrize("n", [40, 900])
def test_resampled_valleys_are_those_of_repeated_values(n):
    """Also with ties, far values, and draws in which all are equal."""
    tied = np.repeat([0.25, -0.5], [3, 1])
    for values in (np.append(mixture(0.6, n, 1), [-30.0, -30.0, 1.0]), mixture(0.6, n, 2).round(1), tied):
        found, counts = resampled_valleys(values, 60), resamples(len(values), 60, 0)
        slow = [valley(np.repeat(np.sort(values), row)).v for row in counts]
        np.testing.assert_allclose(found, slow, atol=1e-9)


def test_the_gain_of_a_score_beyond_confidence():
    """S that is the margin, or noise, adds nothing; S that knows better does, and so does a bend that no line makes."""
    rng, n = np.random.default_rng(0), 3000
    margin, stays, hidden = rng.exponential(size=n), rng.random(n) < 0.5, rng.normal(size=n)
    right = rng.random(n) < 1 / (1 + np.exp(1 - 1.5 * margin - 0.5 * stays - 2 * (np.abs(hidden) < 0.7)))

    def gain(score: np.ndarray, seed: int = 0) -> float:
        found = out_of_fold(score, right, margin, stays, seed)
        return roc_auc_score(right, found.with_score) - roc_auc_score(right, found.without)

    assert abs(gain(margin**2)) < 0.003 and abs(gain(rng.normal(size=n))) < 0.005 and abs(gain(margin + stays)) < 0.004
    assert gain(hidden) > 0.05
    assert gain(hidden) == gain(hidden) and gain(hidden) != gain(hidden, seed=1)
    alone = out_of_fold(hidden, right, margin, stays).without
    assert (
        np.ptp(alone) > 0.3
        and abs(roc_auc_score(right, alone) - roc_auc_score(right, 1.5 * margin + 0.5 * stays)) < 0.01
    )


def test_splines_are_natural():
    """Straight beyond the outer knots, curved within, continuous in two derivatives."""
    like = np.random.default_rng(1).normal(size=500)
    x = np.linspace(-6, 6, 4801)
    basis = natural_spline(x, like)
    assert basis.shape == (4801, 4) and np.linalg.matrix_rank(basis) == 4
    second = np.diff(basis, 2, axis=0) / 0.0025**2
    low, high = np.quantile(like, [0.05, 0.95])
    outside = (x[1:-1] < low - 0.01) | (x[1:-1] > high + 0.01)
    assert np.abs(second[outside]).max() < 1e-4 < np.abs(second[~outside, 1:]).max(0).min()
    assert np.abs(np.diff(second, axis=0)).max() < 0.05 * np.abs(second).max(), "no jump"


def test_valley_of_nothing():
    assert valley(np.full(10, 0.3)).v == 0 and np.isnan(valley(np.full(10, 0.3)).left) and valley(np.array([])).v == 0
    assert valley(np.append(mixture(0.5, 900, 0), np.nan)) == valley(mixture(0.5, 900, 0))


def test_dip_test():
    assert (
        dip(np.append(mixture(0.5, 900, 0), np.nan))[1] < 0.01
        and dip(np.random.default_rng(0).normal(size=900))[1] > 0.3
    )
