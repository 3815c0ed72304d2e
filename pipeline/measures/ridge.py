"""The best fixed linear filter of the image for given maps: ridge regression on patches, held out image by image.

Only sums over the pixels of an image are kept, so that memory does not grow with the images' size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

STRIP = 2**22  # numbers of a strip of patches, so that those of a large image need not stand side by side


@dataclass(frozen=True)
class Moments:
    """Of one image x with its maps, each scaled to norm 1, in float64. p = C size^2 numbers in a patch (zeros beyond
    the border); T maps of C channels each.

    patches: sum over pixels of patch patch^T (p, p); with_maps: of patch R^T (T, p, C); with_image: of patch x^T
    (p, C); among_maps: <R_s, R_t> (T, T); map_image: <R_t, x> (T,); image_norm: |x|. NaN where a map is 0 everywhere or
    not finite.
    """

    patches: Tensor
    with_maps: Tensor
    with_image: Tensor
    among_maps: Tensor
    map_image: Tensor
    image_norm: Tensor


def moments(x: Tensor, maps: Tensor, size: int) -> Moments:
    """x (C, H, W), on the scale that counts in a fit over several; maps (T, C, H, W); size: of the patch, odd."""
    channels, height, width = x.shape
    maps = unit_norm(maps)
    padded = F.pad(x, [size // 2] * 4)
    targets = torch.cat([x[None], maps]).transpose(0, 1).flatten(0, 1)  # (C (T + 1), H, W), by channel
    p, few = channels * size**2, max(1, STRIP // (channels * size**2 * width))
    patches, products = x.new_zeros(p, p, dtype=torch.float64), x.new_zeros(p, len(targets), dtype=torch.float64)
    for top in range(0, height, few):
        strip = F.unfold(padded[None, :, top : top + few + size - 1], size)[0]  # (p, pixels)
        patches += (strip @ strip.T).double()
        products += (strip @ targets[:, top : top + few].flatten(1).T).double()
    by_map = products.view(p, channels, -1).permute(2, 0, 1)
    flat = maps.flatten(1).double()
    return Moments(patches, by_map[1:], by_map[0], flat @ flat.T, flat @ x.flatten().double(), x.double().norm())


def unit_norm(maps: Tensor) -> Tensor:
    """(T, ...), each of Euclidean norm 1, whatever its scale; NaN where it is 0 everywhere."""
    flat = maps.flatten(1)
    flat = flat / flat.abs().amax(1, keepdim=True)
    return (flat / flat.norm(dim=1, keepdim=True)).view_as(maps)


@dataclass(frozen=True)
class Held:
    """What the filter that was fitted without an image makes of it; each (T,) but for residuals.

    share: 1 - |R - F x|^2 / |R|^2 of its map; cosine: of R and F x; alignment: of the residual R - F x with x;
    residuals: cosines between the residuals of its maps (T, T).
    """

    share: Tensor
    cosine: Tensor
    alignment: Tensor
    residuals: Tensor


def held_out(found: Sequence[Moments], weight: float) -> list[tuple[Held, Tensor]]:
    """For each image with the filters F (T, p, C) that fit the maps of all others best; NaN if there are none.

    weight: of the penalty |F|^2, relative to the mean square of a patch's entry. An image whose map is NaN is left out
    of that map's fit.
    """
    parts = [entering(one) for one in found]
    patches, with_maps = (torch.stack(each).sum(0) for each in zip(*parts, strict=True))
    results = []
    for one, (own_patches, own_maps) in zip(found, parts, strict=True):
        filters = solved(patches - own_patches, with_maps - own_maps, weight)
        if len(found) == 1:
            filters = torch.full_like(filters, torch.nan)
        results.append((seen(one, filters), filters))
    return results


def entering(one: Moments) -> tuple[Tensor, Tensor]:
    """What of an image enters the fit of each of its maps: patches (T, p, p) and with_maps, 0 of a map that is NaN."""
    there = one.with_maps.isfinite().flatten(1).all(1)[:, None, None]
    return torch.where(there, one.patches, 0), torch.where(there, one.with_maps, 0)


def solved(patches: Tensor, with_maps: Tensor, weight: float) -> Tensor:
    """The filters (T, p, C) of the normal equations of each map, patches (T, p, p)."""
    mean_square = patches.diagonal(dim1=1, dim2=2).mean(1)
    penalty = (weight * mean_square).clamp(min=1e-300)[:, None, None] * torch.eye(patches.shape[1]).to(patches)
    return torch.linalg.solve(patches + penalty, with_maps)


def seen(one: Moments, filters: Tensor) -> Held:
    """The image, by inner products alone."""
    maps_predicted = torch.einsum("tpc,spc->ts", one.with_maps, filters)  # <R_t, F_s x>
    among_predicted = torch.einsum("tpc,pq,sqc->ts", filters, one.patches, filters)  # <F_t x, F_s x>
    predicted_image = torch.einsum("tpc,pc->t", filters, one.with_image)
    energy, explained = among_predicted.diagonal().clamp(min=0), maps_predicted.diagonal()
    residual = one.among_maps - maps_predicted - maps_predicted.T + among_predicted
    norms = residual.diagonal().clamp(min=0).sqrt()
    return Held(
        1 - residual.diagonal(),
        explained / energy.sqrt(),
        (one.map_image - predicted_image) / (norms * one.image_norm),
        residual / (norms[:, None] * norms),
    )


def filtered(x: Tensor, filters: Tensor, size: int) -> Tensor:
    """F x (T, C, H, W) of one image (C, H, W)."""
    kernels = filters.permute(0, 2, 1).reshape(-1, x.shape[0], size, size).to(x)
    return F.conv2d(x[None], kernels, padding=size // 2).view(len(filters), *x.shape)
