import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.measures.intervals import crossed_interval, crossed_table, t_interval
from pipeline.measures.maps import BANDS, alignment, band_alignment, naive_alignment
from pipeline.measures.weights import isotropy


def test_alignment_is_the_cosine():
    r, x = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    expected = torch.nn.functional.cosine_similarity(r.flatten(1), x.flatten(1))
    torch.testing.assert_close(alignment(r, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1e21, 1e37])
def test_scale_does_not_matter_where_the_naive_cosine_fails(scale):
    x = torch.rand(2, 3, 8, 8) + 0.5
    r = x * scale
    assert torch.allclose(alignment(r, x), torch.ones(2, dtype=torch.float64), atol=1e-6 if scale > 1e-39 else 1e-3)
    assert not torch.allclose(naive_alignment(r, x), torch.ones(2), atol=1e-3)


def test_a_zero_map_has_no_alignment():
    assert alignment(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)).isnan().all()


def slow_bands(r: np.ndarray, x: np.ndarray) -> list[float]:
    """Literal: filter both images to the band with the full FFT, then the cosine."""
    side = x.shape[-1]
    k = np.fft.fftfreq(side, 1 / side)
    cycles = np.sqrt(k[:, None] ** 2 + k[None] ** 2)
    with np.errstate(divide="ignore"):
        wavelength = np.where(cycles > 0, 224 / np.maximum(cycles, 1e-9), np.inf)  # px at side 224
    masks = [
        wavelength < 4,
        (wavelength >= 4) & (wavelength < 16),
        (wavelength >= 16) & (wavelength <= 56),
        wavelength > 56,
    ]
    found = []
    for mask in masks:
        a, b = (np.fft.ifft2(np.fft.fft2(t) * mask).real.ravel() for t in (r, x))
        found.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) if mask.any() else np.nan)
    return found


@pytest.mark.parametrize("side", [32, 33, 120])
def test_bands_equal_a_literal_transcription(side):
    r, x = torch.randn(2, 3, side, side, dtype=torch.float64), torch.randn(2, 3, side, side, dtype=torch.float64) + 0.3
    expected = np.array([slow_bands(r[b].numpy(), x[b].numpy()) for b in range(2)])
    np.testing.assert_allclose(band_alignment(r, x).numpy(), expected, atol=1e-10)
    assert band_alignment(r, x).shape == (2, BANDS)


def test_isotropy_of_sphere_and_cube():
    sphere, cube = torch.randn(20000, 50), torch.rand(20000, 50) * 2 - 1
    assert abs(isotropy(sphere)) < 0.02
    assert isotropy(cube) < -0.3


def test_t_interval():
    """By hand: t of two degrees of freedom is 4.302653; and it covers in 95 of 100 samples of five."""
    half = 4.302653 / 3**0.5
    np.testing.assert_allclose(t_interval([1.0, 2.0, 3.0]), [2, 2 - half, 2 + half], rtol=1e-6)
    mean, low, high = t_interval([0.3])
    assert mean == 0.3 and np.isnan([low, high]).all()
    drawn = [t_interval(sample) for sample in np.random.default_rng(0).normal(1, 2, (4000, 5))]
    assert abs(np.mean([low < 1 < high for _, low, high in drawn]) - 0.95) < 0.01


def test_crossed_interval_covers():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        values = (
            0.5 + rng.normal(0, 0.05, (20, 1, 1)) + rng.normal(0, 0.05, (1, 10, 1)) + rng.normal(0, 0.03, (20, 10, 1))
        )
        mean, low, high = crossed_interval(values, draws=400, seed=trial)
        assert np.isclose(mean[0], values.mean())
        hits += low[0] <= 0.5 <= high[0]
    assert 0.88 <= hits / 200 <= 0.99


def test_crossed_interval_of_one_network_is_over_images_alone():
    values = np.random.default_rng(1).normal(0, 1, (50, 1, 2))
    _, low, high = crossed_interval(values)
    assert np.allclose(high - low, 2 * 1.96 * values.std(0)[0] / 7, rtol=0.15)


def test_crossed_table_keeps_images_and_seeds_apart():
    frame = pd.DataFrame(
        [{"image": i, "seed": s, "n": n, "v": 100 * i + 10 * s + n} for i in (1, 2) for s in (3, 4, 5) for n in (0, 1)]
    )
    table = crossed_table(frame.sample(frac=1, random_state=0), "v")
    assert table.shape == (2, 3, 2) and table[1, 2, 1] == 251 and table[0, 0, 1] == 131
