import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t

from pipeline.images.batches import Preprocessing
from pipeline.measures.intervals import crossed_interval, crossed_table, t_interval
from pipeline.measures.maps import (
    BANDS,
    Convention,
    alignment,
    band_alignment,
    by_convention,
    log_norm,
    naive_alignment,
    registered_alignment,
)


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
    """Literal: filter both images, under a Hann window, to the band with the full FFT, then the cosine."""
    side = x.shape[-1]
    hann = np.sin(np.pi * np.arange(side) / side) ** 2
    r, x = (t * np.outer(hann, hann) for t in (r, x))
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


def test_a_blurred_image_with_noise_on_top_aligns_in_no_fine_band():
    """Natural spectra: 1/f. Without the window the fine bands of both hold what the image's edges do, and score .1 and
    more."""
    rng, side = np.random.default_rng(0), 224
    k = np.fft.fftfreq(2 * side, 1 / (2 * side))
    cycles = np.maximum(np.sqrt(k[:, None] ** 2 + k[None] ** 2), 1)
    spectrum = np.fft.fft2(rng.normal(size=(8, 3, 2 * side, 2 * side))) / cycles
    kept = cycles <= 2 * side / 56
    x, low = (np.fft.ifft2(part).real[..., :side, :side] for part in (spectrum, spectrum * kept))  # edges do not meet
    r = torch.tensor(low / low.std() + 0.01 * rng.normal(size=x.shape))
    found = band_alignment(r, torch.tensor(x)).mean(0)
    assert found[:2].abs().max() < 0.02 and found[3] > 0.9


def test_conventions():
    r, x = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    pixels = Preprocessing(8, 8, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), "bilinear").pixels(x)
    expected = x * torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1) + torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    torch.testing.assert_close(pixels, expected)
    by = {c.value: by_convention(r, x, pixels, c) for c in Convention}
    flat = r.flatten(1).double()
    for b in range(2):
        scaled = (flat[b] - flat[b].min()) / (flat[b].max() - flat[b].min())
        cosine = torch.nn.functional.cosine_similarity
        assert torch.isclose(by["minmax"][b], cosine(scaled, x[b].flatten().double(), 0), atol=1e-6)
        assert torch.isclose(by["pixels"][b], cosine(flat[b], pixels[b].flatten().double(), 0), atol=1e-6)
        assert np.isclose(float(by["centred"][b]), np.corrcoef(flat[b], x[b].flatten())[0, 1], atol=1e-6)
    assert torch.equal(by["normalised"], alignment(r, x)) and len({round(float(v[0]), 3) for v in by.values()}) == 4


def test_log_norm_at_any_scale():
    r = torch.randn(4, 3, 8, 8) * torch.tensor([1e-38, 1.0, 1e30, 0]).view(-1, 1, 1, 1)
    found, expected = log_norm(r), r.double().flatten(1).norm(dim=1).log()
    torch.testing.assert_close(found[:3], expected[:3], rtol=1e-6, atol=1e-6)
    assert found[3] == -np.inf


def test_t_interval():
    """By hand: t of two degrees of freedom is 4.302653; and it covers in 95 of 100 samples of five."""
    half = 4.302653 / 3**0.5
    np.testing.assert_allclose(t_interval([1.0, 2.0, 3.0]), [2, 2 - half, 2 + half], rtol=1e-6)
    mean, low, high = t_interval([0.3])
    assert mean == 0.3 and np.isnan([low, high]).all()
    drawn = [t_interval(sample) for sample in np.random.default_rng(0).normal(1, 2, (4000, 5))]
    assert abs(np.mean([low < 1 < high for _, low, high in drawn]) - 0.95) < 0.01


def planted(rng, images, seeds, spread, runs=1):
    """(images, seeds, runs): an effect of each image, of each seed, and a rest."""
    of_image, of_seed, rest = spread
    return (
        0.5
        + rng.normal(0, of_image, (images, 1, runs))
        + rng.normal(0, of_seed, (1, seeds, runs))
        + rng.normal(0, rest, (images, seeds, runs))
    )


@pytest.mark.parametrize(
    "images, seeds, runs",
    [
        (20, 5, 3000),
        (20, 10, 3000),
        (20, 24, 3000),
        (200, 10, 1000),
        pytest.param(200, 10, 3000, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("spread", [(1, 1, 0.5), (1, 0.2, 0.5), (0.1, 1, 0.3)])
def test_the_crossed_interval_covers(images, seeds, runs, spread):
    """So many tables at once. The crossed percentile bootstrap covers .87 to .93 of them at 20 x 5."""
    tables = planted(np.random.default_rng(images + seeds), images, seeds, spread, runs)
    _, low, high = crossed_interval(tables)
    assert 0.93 < np.mean((low <= 0.5) & (high >= 0.5)) < 0.97


def test_the_crossed_interval_by_hand():
    """V_I and V_S from the means without each image and each seed; Satterthwaite's degrees of freedom."""
    values = planted(np.random.default_rng(0), 6, 4, (1, 0.5, 0.3), 2)
    values[1, 2, 0] = np.nan
    for column in range(2):
        table = values[:, :, column]
        parts = []
        for axis in (0, 1):
            without = [np.nanmean(np.delete(table, i, axis)) for i in range(table.shape[axis])]
            n = len(without)
            parts.append((n, (n - 1) / n * sum((one - np.mean(without)) ** 2 for one in without)))
        variance = sum(part for _, part in parts)
        df = variance**2 / sum(part**2 / (n - 1) for n, part in parts)
        half = t.ppf(0.95, df) * variance**0.5
        found = [end[column] for end in crossed_interval(values, level=0.9)]
        np.testing.assert_allclose(found, [np.nanmean(table), np.nanmean(table) - half, np.nanmean(table) + half])


def test_the_crossed_interval_of_one_network_is_the_t_interval_over_images():
    values = np.random.default_rng(1).normal(0, 1, (50, 1, 2))
    for column in range(2):
        found = [end[column] for end in crossed_interval(values)]
        np.testing.assert_allclose(found, t_interval(values[:, 0, column]))
    mean, low, high = crossed_interval(values[:1])
    assert np.array_equal(mean, values[0, 0]) and np.isnan([low, high]).all(), "one value says nothing of its variance"
    mean, low, high = crossed_interval(np.full((3, 2, 1), 0.25))
    assert mean == low == high == 0.25


def test_the_crossed_interval_of_another_statistic():
    """Of a ratio of means, against the same by hand over images."""
    values = np.random.default_rng(2).uniform(1, 2, (30, 1, 2))

    def ratio(some):
        means = some.mean((0, 1))
        return means[:1] / means[1:]

    estimate, low, high = crossed_interval(values, statistic=ratio)
    x, y = values[:, 0].T
    without = [np.delete(x, i).mean() / np.delete(y, i).mean() for i in range(30)]
    half = t.ppf(0.975, 29) * (29 / 30 * np.square(np.array(without) - np.mean(without)).sum()) ** 0.5
    np.testing.assert_allclose([estimate[0], low[0], high[0]], [x.mean() / y.mean() + k * half for k in (0, -1, 1)])


def test_rows_that_are_there_twice_are_an_error():
    frame = pd.DataFrame({"image": ["a", "a", "b"], "seed": [1, 1, 1], "n": [0, 1, 0], "v": 1.0})
    assert crossed_table(frame, "v").shape == (2, 1, 2)
    with pytest.raises(ValueError, match="two rows of image a and seed 1"):
        crossed_table(frame, "v", by=())


def test_crossed_table_keeps_images_and_seeds_apart():
    frame = pd.DataFrame(
        [{"image": i, "seed": s, "n": n, "v": 100 * i + 10 * s + n} for i in (1, 2) for s in (3, 4, 5) for n in (0, 1)]
    )
    table = crossed_table(frame.sample(frac=1, random_state=0), "v")
    assert table.shape == (2, 3, 2) and table[1, 2, 1] == 251 and table[0, 0, 1] == 131
    some = frame.drop(index=[0, 7]).sample(frac=1, random_state=1)
    there = {(row.image, row.seed, row.n): row.v for row in some.itertuples()}
    literal = [[[there.get((i, s, n), np.nan) for n in (0, 1)] for s in (3, 4, 5)] for i in (1, 2)]
    np.testing.assert_array_equal(crossed_table(some, "v"), literal)


def test_registered_alignment_by_moving_the_image():
    """Literal: x moved by every shift, zeros coming in; the largest of the inner products over both norms."""
    r, x = torch.randn(2, 3, 7, 5, dtype=torch.float64), torch.randn(2, 3, 7, 5, dtype=torch.float64)
    for reach in (0, 2, 30):
        best = torch.full((2,), -torch.inf, dtype=torch.float64)
        for dy in range(-min(reach, 6), min(reach, 6) + 1):
            for dx in range(-min(reach, 4), min(reach, 4) + 1):
                moved = torch.zeros_like(x)
                for i in range(7):
                    for j in range(5):
                        if 0 <= i - dy < 7 and 0 <= j - dx < 5:
                            moved[:, :, i, j] = x[:, :, i - dy, j - dx]
                cosine = (r * moved).flatten(1).sum(1) / (r.flatten(1).norm(dim=1) * x.flatten(1).norm(dim=1))
                best = torch.maximum(best, cosine)
        torch.testing.assert_close(registered_alignment(r, x, reach), best, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(registered_alignment(r, x, 0), alignment(r, x))
    assert registered_alignment(torch.zeros_like(r), x, 2).isnan().all(), "a dead map has none"
