"""One step of a rule, literally: every product w_ij a_i around one place of a conv or linear layer of any network, by
im2col.

Everything is for one sample, in float64, and from z and A alone. r is the gradient form, R = A r the relevance.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 2**19  # products at once: they stay in the cache

Contribution = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # w_ij, a_i, l_i, h_i -> z_ij


@dataclass(frozen=True)
class Term:
    """factor * sum_j z_ij / (z_j + epsilon sign z_j) R_j, where z_j = sum_i z_ij + bias(b_j); 0 where z_j is 0."""

    contribution: Contribution
    factor: float = 1.0
    epsilon: float = 0.0
    bias: Callable[[Tensor], Tensor] | None = None


def whole(w, a, low, high):
    return w * a


def positive(w, a, low, high):
    return (w * a).clamp_(min=0)


def negative(w, a, low, high):
    return (w * a).clamp_(max=0)


def positive_weights(w, a, low, high):
    return w.clamp(min=0) * a


def z_box(w, a, low, high):
    return w * a - low * w.clamp(min=0) - high * w.clamp(max=0)


@dataclass(frozen=True)
class Favoured:
    """z_ij + gamma z_ij+."""

    gamma: float

    def __call__(self, w, a, low, high):
        return w * a + self.gamma * (w * a).clamp(min=0)


@dataclass(frozen=True)
class Layer:
    """A conv or linear layer as a convolution on (C, H, W), in G groups: weight (G, O/G, C/G, K), K places a window."""

    weight: Tensor
    bias: Tensor  # (G, O/G)
    window: dict[str, Any]
    padding: list[int]  # left, right, top, bottom

    @property
    def groups(self) -> int:
        return len(self.weight)

    def windows(self, a: Tensor) -> Tensor:
        """(C, H, W) -> (G, C/G, K, P): what each of the P places of the output sees, 0 in padding."""
        seen = F.unfold(F.pad(a[None], self.padding), **self.window)[0]
        return seen.view(self.groups, a.shape[0] // self.groups, -1, seen.shape[1])

    def seen_from(self, side: tuple[int, int], place: int) -> list[tuple[int, int]]:
        """(k, p): the input's `place` (of H x W) is the k-th of the window of the output's p."""
        number = torch.arange(1, prod(side) + 1, dtype=torch.float64).view(1, 1, *side)
        seen = F.unfold(F.pad(number, self.padding), **self.window)[0]
        return [(int(k), int(p)) for k, p in (seen == place + 1).nonzero()]


def layer_of(m: nn.Conv2d | nn.Linear) -> Layer:
    weight = m.weight.detach().double().cpu()
    bias = torch.zeros(len(weight), dtype=torch.float64) if m.bias is None else m.bias.detach().double().cpu()
    if isinstance(m, nn.Linear):
        return Layer(weight[None, :, :, None], bias[None], {"kernel_size": 1}, [0] * 4)
    if not isinstance(m.padding, str):
        height, width = m.padding
        padding = [width, width, height, height]
    elif m.padding == "same":
        total = [d * (k - 1) for d, k in zip(m.dilation, m.kernel_size, strict=True)]
        padding = [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2]
    else:
        padding = [0] * 4
    window = {"kernel_size": m.kernel_size, "dilation": m.dilation, "stride": m.stride}
    weight = weight.contiguous().view(m.groups, -1, weight.shape[1], prod(m.kernel_size))
    return Layer(weight, bias.view(m.groups, -1), window, padding)


def as_image(value: Tensor) -> Tensor:
    """One sample of a layer's input or output as (C, H, W): a vector (C,) and a sequence (T, C) too."""
    return value if value.ndim == 3 else value.reshape(-1, value.shape[-1]).T[:, :, None]


def plain_step(layer: Layer, side: tuple[int, int], place: int, r: Tensor, kept: Tensor | None = None) -> Tensor:
    """r_i = sum_j w_ij r_j for each channel i of the place, of `kept` (C, H, W) only the w_ij with w_ij kept_i > 0.
    r: (O, ...) at z. Returns (C,)."""
    r = r.reshape(layer.groups, -1, r[0].numel())
    below = layer.weight.new_zeros(layer.groups, layer.weight.shape[2])
    a = None if kept is None else kept.flatten(1)[:, place].view(layer.groups, 1, -1)
    for k, p in layer.seen_from(side, place):
        w = layer.weight[..., k]
        below += ((w if a is None else torch.where(w * a > 0, w, 0)) * r[:, :, None, p]).sum(1)
    return below.flatten()


def shared_step(
    layer: Layer, a: Tensor, place: int, relevance: Tensor, terms: list[Term], box: Sequence[Tensor] | None
) -> Tensor:
    """R_i of each channel of the place, from R_j at z, (O, ...). a, low, high: (C, H, W). Returns (C,)."""
    relevance = relevance.reshape(layer.groups, -1, relevance[0].numel())
    low, high = box or (torch.zeros_like(a), torch.zeros_like(a))
    seen = [layer.windows(v) for v in (a, low, high)]
    below = layer.weight.new_zeros(layer.groups, layer.weight.shape[2])
    for k, p in layer.seen_from((a.shape[1], a.shape[2]), place):
        for w, b, above in blocks(layer, relevance[..., p]):
            for term in terms:
                z = term.contribution(w, *(v[:, None, :, :, p] for v in seen))  # (G, o, C/G, K)
                total = z.sum((2, 3)) + (term.bias(b) if term.bias else 0)
                total = total + term.epsilon * total.sign()
                below += term.factor * (z[..., k] * torch.where(total == 0, 0, above / total)[:, :, None]).sum(1)
    return below.flatten()


def blocks(layer: Layer, relevance: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Weights, biases and relevance of some outputs of each group at a time."""
    size = max(1, BLOCK // (layer.weight.numel() // layer.weight.shape[1]))
    return zip(layer.weight.split(size, 1), layer.bias.split(size, 1), relevance.split(size, 1), strict=True)


# ---- ReLU and sum ----------------------------------------------------------------------------------------------------


def activation(z: Tensor, kind: str) -> Tensor:
    a = torch.where(z > 0, z, 0)
    return torch.where(a > 6, 6, a) if kind == "relu6" else a


def sloped(z: Tensor, kind: str) -> Tensor:
    """Where the activation's slope is 1."""
    return (z > 0) & (z < 6) if kind == "relu6" else z > 0


def relu_step(rule: str, r: Tensor, z: Tensor, kind: str, quantile: float = 0) -> Tensor:
    """(5), (6), (7), and DeconvNet's: r at the output -> r at z."""
    if rule in ("grad", "wplus"):
        return torch.where(sloped(z, kind), r, 0)
    if rule == "gbp":
        return torch.where(sloped(z, kind) & (r > 0), r, 0)
    if rule == "deconvnet":
        return torch.where(r > 0, r, 0)
    products = activation(z, kind) * r
    tau = products.flatten().sort().values[floor(Fraction(str(quantile)) * (products.numel() - 1))]
    return torch.where(products > tau, r, 0)


def positive_sum_step(summands: list[Tensor], relevance: Tensor) -> list[Tensor]:
    """Relevance of each summand, by its positive part."""
    positive = [torch.where(a > 0, a, 0) for a in summands]
    total = torch.stack(positive).sum(0)
    return [a / torch.where(total == 0, 1, total) * relevance for a in positive]
