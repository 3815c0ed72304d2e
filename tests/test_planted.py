"""What the ledger must make of planted tables (its rules, checked by simulation), at two sizes: small ones with the
other tests, large ones with `pytest -m long tests/test_planted.py`."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import pytest

from pipeline.claims.contrasts import minus
from pipeline.claims.evidence import Part, alike, at_least, auroc, mean, two_peaks
from pipeline.claims.verdicts import FAILS, HOLDS, RATE, UNDECIDED, decisions, judge
from tests.test_statistics import NOT_TWO

IMAGES, SEEDS, CELL = 0.08, 0.05, 0.03  # standard deviations
Law = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.normal(size=shape)


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Exponential, mean 0, variance 1."""
    return rng.exponential(size=shape) - 1


def sizes(small: int, large: int) -> pytest.MarkDecorator:
    """So many runs; the large number for `-m long` alone."""
    return pytest.mark.parametrize("runs", [small, pytest.param(large, marks=pytest.mark.long)])


def around(value: float, runs: int) -> tuple[float, float]:
    """Four standard errors of a share of `runs` on either side, and .01 for those of the number that is quoted."""
    half = 4 * (value * (1 - value) / runs) ** 0.5 + 0.01
    return value - half, value + half


def table(
    rng: np.random.Generator, true: float, images: int = 20, seeds: int = 10, image_sd: float = IMAGES,
    law: Law = normal, seed_sd: float = SEEDS, cell_sd: float = CELL,
) -> pd.DataFrame:  # fmt: skip
    """Images x seeds, with effects of both and noise in each cell."""
    values = true + image_sd * law(rng, (images, 1)) + seed_sd * rng.normal(size=(1, seeds))
    values = values + cell_sd * rng.normal(size=(images, seeds))
    return tidy(values)


def tidy(values: np.ndarray) -> pd.DataFrame:
    """(images, seeds) -> a row each."""
    images, seeds = values.shape
    return pd.DataFrame({
        "image": np.repeat([f"i{i:03d}" for i in range(images)], seeds),
        "seed": np.tile(np.arange(seeds), images), "y": values.ravel(),
    })  # fmt: skip


def share(word: str, parts: Iterable[Part], level: float = 0.95) -> float:
    return float(np.mean([judge([part], level).word == word for part in parts]))


# ---- images x seeds --------------------------------------------------------------------------------------------------


@sizes(100, 2000)
@pytest.mark.parametrize("law", [normal, skewed])
@pytest.mark.parametrize("image_sd", [0.02, 0.08])
@pytest.mark.parametrize(("images", "seeds"), [(20, 10), (20, 24), (200, 10)])
def test_intervals_cover(images: int, seeds: int, image_sd: float, law: Law, runs: int):
    rng, hits = np.random.default_rng(images + seeds), 0
    for _ in range(runs):
        low, high = mean("", table(rng, 0.3, images, seeds, image_sd, law), "y", at_least(0)).interval(0.95)
        hits += low <= 0.3 <= high
    slack = 4 * (0.95 * 0.05 / runs) ** 0.5 if runs < 2000 else 0.0
    assert 0.93 - slack <= hits / runs <= 0.97 + slack


@sizes(400, 3000)
@pytest.mark.parametrize(("law", "most"), [(normal, 0.03), (skewed, 0.06)])
def test_on_the_boundary_hardly_anything_holds(law: Law, most: float, runs: int):
    for target in (at_least(0.05), alike()):
        rng = np.random.default_rng(7)
        given = (mean("", table(rng, 0.05, law=law), "y", target) for _ in range(runs))
        assert share(HOLDS, given) <= most


@sizes(100, 2000)
@pytest.mark.parametrize(("true", "images", "power"), [(0.15, 20, 0.97), (0.10, 20, 0.46), (0.10, 200, 0.71)])
def test_power(true: float, images: int, power: float, runs: int):
    rng = np.random.default_rng(8)
    found = share(HOLDS, (mean("", table(rng, true, images), "y", at_least(0.05)) for _ in range(runs)), level=0.965)
    low, high = around(power, runs)
    assert low <= found <= high


@sizes(100, 2000)
@pytest.mark.parametrize(("seeds", "power"), [(10, 0.10), (24, 0.72)])
def test_power_of_alike(seeds: int, power: float, runs: int):
    """Two laws that are alike, drawn apart: seeds differ, images do not."""
    rng = np.random.default_rng(9)

    def gap() -> Part:
        images = IMAGES * rng.normal(size=(20, 1))
        arms = [tidy(images + SEEDS * rng.normal(size=(1, seeds)) + CELL * rng.normal(size=(20, seeds))) for _ in "ab"]
        return mean("", minus(arms[0], arms[1], "y"), "y", alike())

    low, high = around(power, runs)
    assert low <= share(HOLDS, (gap() for _ in range(runs)), level=0.965) <= high


@pytest.mark.parametrize(("claims", "runs"), [(36, 8), pytest.param(72, 150, marks=pytest.mark.long)])
@pytest.mark.parametrize(("effects", "most"), [((0.05,), 0.06), ((0.05, 0.3, 0.3), 0.05)])
def test_few_decisions_are_false(effects: tuple[float, ...], most: float, claims: int, runs: int):
    """Claims that share images and seeds: all on the boundary (how often there is any verdict), or a third of them (the
    share of verdicts on these)."""
    rng, false, decided, any_decided = np.random.default_rng(5), 0, 0, 0
    for _ in range(runs):
        images, seeds = IMAGES * rng.normal(size=(20, 1)), SEEDS * rng.normal(size=(1, 10))
        evidence, truth = {}, {}
        for i in range(claims):
            truth[f"c{i}"] = effects[i % len(effects)]
            values = truth[f"c{i}"] + 0.5 * images + 0.5 * seeds + IMAGES * rng.normal(size=(20, 10))
            evidence[f"c{i}"] = [mean("part", tidy(values), "y", at_least(0.05))]
        found, level, strict = decisions(evidence, [], claims)
        assert 1 - RATE <= level <= 1 - RATE / claims
        some = [name for name, verdict in found.items() if verdict.word != UNDECIDED]
        assert strict <= {*some}
        decided, any_decided = decided + len(some), any_decided + bool(some)
        false += sum(truth[name] == 0.05 for name in some)
    assert any_decided / runs <= most + 0.04 if len(effects) == 1 else false <= most * decided


# ---- images alone ----------------------------------------------------------------------------------------------------


@sizes(300, 5000)
@pytest.mark.parametrize(("right", "wrong", "half"), [(300, 30, 0.11), (9250, 750, 0.02)])
def test_intervals_of_an_auroc_cover(right: int, wrong: int, half: float, runs: int):
    """Normals .7416 apart: AUROC .7."""
    rng, positive, hits, widths = np.random.default_rng(10), np.arange(right + wrong) < right, 0, []
    for _ in range(runs):
        score = rng.normal(size=len(positive)) + 0.74161 * positive
        low, high = auroc("", score, positive, at_least(0.7)).interval(0.95)
        hits += low <= 0.7 <= high
        widths.append((high - low) / 2)
    slack = 4 * (0.95 * 0.05 / runs) ** 0.5
    assert 0.94 - slack <= hits / runs <= 0.98 + slack and np.mean(widths) == pytest.approx(half, rel=0.15)


@sizes(6, 100)
@pytest.mark.parametrize("n", [900, pytest.param(10000, marks=pytest.mark.long)])
@pytest.mark.parametrize("law", ["normal", "skewed", "uniform", "plateau", "critical"])
def test_one_peak_is_not_two(law: str, n: int, runs: int):
    rng = np.random.default_rng(n)
    held = share(HOLDS, (two_peaks("", NOT_TWO[law](rng, n), at_least(0.1)) for _ in range(runs)))
    assert held <= 0.01


@sizes(6, 100)
@pytest.mark.parametrize("n", [900, pytest.param(10000, marks=pytest.mark.long)])
@pytest.mark.parametrize("right", [0.5, 0.85])
def test_two_peaks_are_found(right: float, n: int, runs: int):
    rng = np.random.default_rng(n + 1)

    def peaks() -> np.ndarray:
        return np.where(rng.random(n) < right, 0.6, -0.5) + 0.25 * rng.normal(size=n)

    assert share(HOLDS, (two_peaks("", peaks(), at_least(0.1)) for _ in range(runs))) >= 0.95


def test_swapped_arms_turn_the_verdict():
    rng = np.random.default_rng(2)
    first, second = table(rng, 0.5), table(rng, 0.2)
    for one, other, word in ((first, second, HOLDS), (second, first, FAILS)):
        assert judge([mean("gap", minus(one, other, "y"), "y", at_least(0.05))], 0.95).word == word
