"""Input alignment (1), in total and by spatial-frequency band; key information sufficiency (20); measures of weights; intervals."""

from collections.abc import Sequence
from enum import Enum

import numpy as np
import torch
from torch import Tensor

BAND_EDGES = (56, 14, 4)  # cycles per image: wavelengths of 4, 16 and 56 px at side 224
BANDS = len(BAND_EDGES) + 1  # band 0: < 4 px, 1: 4-16 px, 2: 16-56 px, 3: > 56 px with the mean


def _normalised(r: Tensor) -> Tensor:
    """(B, ...) -> (B, n) float64, scaled so that no entry exceeds 1: products can't overflow, whatever the weights' scale."""
    flat = r.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    return torch.where(largest > 0, flat / largest, flat).double()


def alignment(r: Tensor, x: Tensor) -> Tensor:
    """(1): the cosine of each map and its input, (B,) float64; NaN where one of them is 0 everywhere or not finite.

    r, x: (B, ...) of one shape. Safe at any scale: normalised before multiplying, accumulated in float64.
    """
    a, b = _normalised(r), _normalised(x)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def naive_alignment(r: Tensor, x: Tensor) -> Tensor:
    """(1) as it is usually written, in the maps' own precision: unscaled weights overflow it, and it returns 0."""
    a, b = r.flatten(1), x.flatten(1)
    return (a * b).sum(1) / (a.pow(2).sum(1).sqrt() * b.pow(2).sum(1).sqrt())


def chroma(x: Tensor) -> Tensor:
    """What is left of (B, C, H, W) after the mean over channels: its colour."""
    return x - x.mean(1, keepdim=True)


def band_alignment(r: Tensor, x: Tensor) -> Tensor:
    """Alignment within each Fourier band, (B, BANDS) float64; NaN in bands that are empty at this size.

    r, x: (B, C, H, W). Bands are rings of wavelength, fixed at side 224 and scaled with the side: 4, 16 and 56 px there.
    """
    b, _, h, w = x.shape
    scaled = _normalised(r).view(r.shape), _normalised(x).view(x.shape)
    fr, fx = (torch.fft.rfft2(t) for t in scaled)
    twice = torch.full((fr.shape[-1],), 2.0, dtype=torch.float64, device=r.device)  # rfft keeps one of each pair
    twice[0] = 1
    if w % 2 == 0:
        twice[-1] = 1
    side = min(h, w)
    ky = torch.fft.fftfreq(h, 1 / side, dtype=torch.float64, device=r.device)
    kx = torch.fft.rfftfreq(w, 1 / side, dtype=torch.float64, device=r.device)
    square = (ky[:, None] ** 2 + kx**2).round(decimals=6)  # cycles per image, squared
    e0, e1, e2 = (edge**2 for edge in BAND_EDGES)
    band = torch.where(square > e0, 0, torch.where(square > e1, 1, torch.where(square >= e2, 2, 3))).flatten()

    def energy(a: Tensor, c: Tensor) -> Tensor:
        product = ((a * c.conj()).real * twice).sum(1).flatten(1)  # over channels; (B, frequencies)
        return product.new_zeros(b, BANDS).index_add_(1, band, product)

    return energy(fr, fx) / (energy(fr, fr) * energy(fx, fx)).sqrt()


# ---- key information sufficiency (20) --------------------------------------------------------------------------------


class Rescale(Enum):
    minmax = "minmax"  # the paper's
    percentile = "percentile"  # the same, after cutting off the tails, which min and max hang on
    contrast = "contrast"  # x's mean and standard deviation instead of its range


def kis(v_k: Tensor, a: Tensor, v_k_star: Tensor, a_star: Tensor) -> Tensor:
    """S of (20), 1 - |v_k* A_L* - v_k A_L|_1 / |v_k A_L|_1, (B,) float64; NaN where the denominator is 0.

    v_k, v_k_star: (B, n) rows of the last linear layer; a, a_star: (B, n) its inputs A_L. Products elementwise, no bias.
    """
    original, star = v_k.double() * a.double(), v_k_star.double() * a_star.double()
    denominator = original.abs().sum(1)
    s = 1 - (star - original).abs().sum(1) / denominator
    return torch.where(denominator > 0, s, torch.nan)


def rescaled(r: Tensor, x: Tensor, how: Rescale, percent: float) -> Tensor:
    """R~ of (20): each map R mapped linearly to [min x, max x] over all its channels; of x's shape and type, NaN where R is constant or not finite.

    percent: what rescale=percentile cuts off at each end of R.
    """
    source, wanted = r.flatten(1).double(), x.flatten(1).double()
    n = source.shape[1]
    if how is Rescale.contrast:
        unit = (source - source.mean(1, keepdim=True)) / source.std(1, keepdim=True)
        found = unit * wanted.std(1, keepdim=True) + wanted.mean(1, keepdim=True)
    else:
        ordered = source.sort(1).values
        cut = int(percent / 100 * (n - 1)) if how is Rescale.percentile else 0
        low, high = ordered[:, cut, None], ordered[:, n - 1 - cut, None]
        bottom, top = wanted.amin(1, keepdim=True), wanted.amax(1, keepdim=True)
        found = (source.clamp(low, high) - low) / (high - low) * (top - bottom) + bottom
    usable = source.isfinite().all(1) & (source.amax(1) > source.amin(1))
    return torch.where(usable[:, None], found, torch.nan).view_as(x).to(x.dtype)


# ---- weights ---------------------------------------------------------------------------------------------------------


def isotropy(filters: Tensor) -> float:
    """(d + 2) / 3 * mean of sum u^4 - 1 over unit filters u, (n, d): 0 if directions are uniform on the sphere; -0.4 for a cube's."""
    u = filters.double()
    u = u / u.norm(dim=1, keepdim=True)
    return float((u.shape[1] + 2) / 3 * u.pow(4).sum(1).mean() - 1)


# ---- intervals -------------------------------------------------------------------------------------------------------


def crossed_interval(values: np.ndarray, draws: int = 2000, level: float = 0.95, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
