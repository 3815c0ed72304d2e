"""Input alignment (1): in total, by its factors, by spatial-frequency band, and wherever a map was moved to."""

from enum import Enum

import torch
from torch import Tensor

BAND_EDGES = (56, 14, 4)  # cycles per image: wavelengths of 4, 16 and 56 px at side 224
BANDS = len(BAND_EDGES) + 1  # band 0: < 4 px, 1: 4-16 px, 2: 16-56 px, 3: > 56 px with the mean


def _normalised(r: Tensor) -> Tensor:
    """(B, ...) -> (B, n) float64, scaled so that no entry exceeds 1: products can't overflow, whatever the weights'
    scale."""
    flat = r.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    return torch.where(largest > 0, flat / largest, flat).double()


def alignment(r: Tensor, x: Tensor) -> Tensor:
    """(1): the cosine of each map and its input, (B,) float64; NaN where one of them is 0 everywhere or not finite.

    r, x: (B, ...) of one shape. Safe at any scale: normalised before multiplying, accumulated in float64.
    """
    a, b = _normalised(r), _normalised(x)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


class Convention(Enum):
    """What (1) is taken of. The field has all of them; ours is the first, and none of the others is ever a default."""

    normalised = "normalised"  # R as it is and x as the network sees it
    minmax = "minmax"  # R from 0 to 1: its mean alone makes it positive
    pixels = "pixels"  # x as pixels from 0 to 1, which are positive
    centred = "centred"  # R and x less their means: Pearson's correlation


def by_convention(r: Tensor, x: Tensor, pixels: Tensor, convention: Convention) -> Tensor:
    """Alignment (B,) by one of the conventions; pixels: x in [0, 1]."""
    if convention is Convention.minmax:
        flat = r.flatten(1).double()
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        return alignment(((flat - low) / (high - low)).view_as(r), x)
    if convention is Convention.centred:
        r, x = (t.double() - t.double().mean((1, 2, 3), keepdim=True) for t in (r, x))
    return alignment(r, pixels if convention is Convention.pixels else x)


def log_norm(r: Tensor) -> Tensor:
    """log |R|, (B,) float64, at any scale; -inf of a map that is 0."""
    largest = r.flatten(1).abs().amax(1).double()
    return largest.log() + _normalised(r).norm(dim=1).log()


def log_factors(cosine: Tensor, size: Tensor, size_of_x: Tensor) -> dict[str, Tensor]:
    """The factors of an alignment <R, x> / (|R| |x|): log |<R, x>| and log |R|, from the alignment, log |R| and log
    |x|, each (B,)."""
    return {"log_numerator": cosine.abs().log() + size + size_of_x, "log_norm": size}


def registered_alignment(r: Tensor, x: Tensor, reach: int) -> Tensor:
    """The largest alignment of r with x moved by up to `reach` pixels, up or down and sideways, zeros coming in: a map
    that is displaced keeps it, one that is lost does not. (B, C, H, W) each -> (B,) float64."""
    a, b = (_normalised(t).view(t.shape) for t in (r, x))
    h, w = a.shape[-2:]
    size = (2 * h, 2 * w)  # no shift wraps around
    products = torch.fft.irfft2((torch.fft.rfft2(a, size) * torch.fft.rfft2(b, size).conj()).sum(1), size)
    down, right = (torch.arange(-min(reach, n - 1), min(reach, n - 1) + 1, device=r.device) for n in (h, w))
    best = products[:, down % size[0]][:, :, right % size[1]].flatten(1).amax(1)
    return best / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))


def naive_alignment(r: Tensor, x: Tensor) -> Tensor:
    """(1) as it is usually written, in the maps' own precision: unscaled weights overflow it, and it returns 0."""
    a, b = r.flatten(1), x.flatten(1)
    return (a * b).sum(1) / (a.pow(2).sum(1).sqrt() * b.pow(2).sum(1).sqrt())


def chroma(x: Tensor) -> Tensor:
    """What is left of (B, C, H, W) after the mean over channels: its colour."""
    return x - x.mean(1, keepdim=True)


def band_alignment(r: Tensor, x: Tensor) -> Tensor:
    """Alignment within each Fourier band, (B, BANDS) float64; NaN in bands that are empty at this size.

    r, x: (B, C, H, W). Bands are rings of wavelength, fixed at side 224 and scaled with the side: 4, 16 and 56 px
    there. Under a Hann window: without it the edges of the image, which do not meet, put the coarse bands' content into
    the fine ones of both.
    """
    b, _, h, w = x.shape
    rows, columns = (torch.hann_window(n, dtype=torch.float64, device=r.device) for n in (h, w))
    fr, fx = (torch.fft.rfft2(_normalised(t).view(t.shape) * rows[:, None] * columns) for t in (r, x))
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
