"""Laws of random weights, and removal: a frozen dataclass each, with the layers that it touches.

A law says how one layer's weights are drawn, `draw(shape, seed, layer)`, with a stream of its own derived from (seed,
layer) and drawn on the CPU: the same weights on any device, whichever other layers are drawn. Biases are zero then, and
BatchNorm is reset to the identity. Removal says which weights of a layer stay, `keeps(shape, seed, layer)`.

To add a law: write such a dataclass on Law, enter it in WEIGHTS (weights.py), add conf/weights/<name>.yaml.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.engine.network import Network
from pipeline.errors import UserError
from pipeline.weights.draw import EXTRA, fan_in, he, standard_normal, stream, unit_interval


class BatchNormReset(Enum):
    identity = "identity"  # dropped, exactly
    calibrated = "calibrated"  # mean 0, variance 1 per channel over the first 64 images, folded


SHARES: Mapping[str, Callable[[int], int]] = {  # a depth in words -> of L layers; thirds and halves round up
    "third": lambda layers: -(-layers // 3),
    "half": lambda layers: -(-layers // 2),
    "all_but_one": lambda layers: layers - 1,
}


class Part(Enum):
    top = "top"  # the layers nearest the output, as in the cascading randomisation of Adebayo et al. [2]
    bottom = "bottom"
    single = "single"  # layer `depth` alone


@dataclass(frozen=True, kw_only=True)
class Law:
    """base: the weights elsewhere: a checkpoint (file or shipped name), `pretrained` or `pretrained.<member of
    torchvision's enum>`; null: Gaussian ones of the same seed. depth: how many of the layers l = 1..L the law
    touches, from the top or as `part` says; null: all of them."""

    DRAWS: ClassVar = True  # whether the law's weights owe nothing to those that were there

    base: str | None
    depth: int | None
    part: Part
    batchnorm: BatchNormReset

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        """Weights of a conv or linear layer."""
        raise NotImplementedError

    def weight(self, old: Tensor, seed: int, layer: int) -> Tensor:
        return self.draw(old.shape, seed, layer)

    def bias(self, old: Tensor, shape: torch.Size, seed: int, layer: int) -> Tensor:
        """shape: that of the layer's weights."""
        return torch.zeros(shape[0])

    def deviations(self, inputs: int) -> Tensor:
        """(inputs,): relative standard deviations of a neuron's weights by input, of mean square 1."""
        return torch.ones(inputs)

    @property
    def effective_width(self) -> float:
        """(E|w|)^2 / E|w|^2 over the Gaussian's, in many dimensions: the share of K neurons that counts in Theorem 1.
        NaN of a law that is not centred."""
        return 1.0

    @property
    def seeded(self) -> bool:
        return self.base is None or self.depth != 0

    def touched(self, network: Network) -> list[int]:
        """Numbers of the conv and linear layers that the law touches. Raises UserError for a depth that there is
        not."""
        depth, top = self.depth, network.depth
        if depth is None and self.part is Part.single:
            raise UserError("weights.part=single touches layer l = weights.depth alone; set weights.depth")
        if depth is None:
            depth = top
        if not (self.part is Part.single) <= depth <= top:
            raise UserError(
                f"weights.depth={depth} is no number of layers of this model, which has L = {top}; choose one up to "
                f"{top}"
            )
        first = {Part.top: top - depth + 1, Part.bottom: 1, Part.single: depth}[self.part]
        last = top if self.part is Part.top else depth
        return [number for number, op in enumerate(network.layers, start=1) if first <= op.unit <= last]


def drawing_law(weights: object, experiment: str) -> Law:
    """The weights, if a law draws them. Raises UserError else."""
    if not isinstance(weights, Law) or not weights.DRAWS:
        raise UserError(
            f"experiment={experiment} draws from a law; choose weights=gaussian, ring, uniform or another one"
        )
    return weights


class Scale(Enum):
    he = "he"  # second moment 2 / fan_in
    mean = "mean"  # mean 1 / fan_in: keeps a constant image's scale where all weights are positive
    none = "none"  # the law as written


@dataclass(frozen=True)
class Gaussian(Law):
    """i.i.d. normal, He scale."""

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        return standard_normal(shape, seed, layer).mul_(he(shape))


@dataclass(frozen=True)
class Ring(Law):
    """Directions of the Gaussian of the same seed, norms uniform in the annulus sqrt(2) * [1 - width, 1 + width]:
    isotropic, not Gaussian."""

    width: float

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        w = standard_normal(shape, seed, layer).flatten(1)
        u = torch.rand(len(w), 1, generator=stream(seed, layer, EXTRA))
        norm = math.sqrt(2) * (1 + self.width * (2 * u - 1))
        return (w / w.norm(dim=1, keepdim=True) * norm).view(shape)


@dataclass(frozen=True)
class Uniform(Law):
    """i.i.d. entries on [-1, 1]: `scale: none` is the paper's text, and leaves float32's range in a deep network."""

    scale: Scale

    def __post_init__(self):
        if self.scale is Scale.mean:
            raise ValueError("scale must be he or none for uniform: its mean is 0")

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        w = 2 * unit_interval(shape, seed, layer) - 1
        return w * (math.sqrt(3) * he(shape)) if self.scale is Scale.he else w


@dataclass(frozen=True)
class Uniform01(Law):
    """i.i.d. entries on [0, 1]: a reading of "uniform" that is not isotropic, for its mean is not 0."""

    scale: Scale

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        factor = {Scale.he: math.sqrt(3) * he(shape), Scale.mean: 2 / fan_in(shape), Scale.none: 1.0}[self.scale]
        return unit_interval(shape, seed, layer) * factor

    @property
    def effective_width(self) -> float:
        return math.nan


@dataclass(frozen=True)
class KaimingUniform(Law):
    """PyTorch's own reset: weights, and with `biases` the biases too, uniform on +- 1 / sqrt(fan_in)."""

    biases: bool

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        return (2 * unit_interval(shape, seed, layer) - 1) / math.sqrt(fan_in(shape))

    def bias(self, old: Tensor, shape: torch.Size, seed: int, layer: int) -> Tensor:
        u = torch.rand(shape[0], generator=stream(seed, layer, EXTRA))
        return (2 * u - 1) / math.sqrt(fan_in(shape)) * self.biases


@dataclass(frozen=True)
class KaimingNormal(KaimingUniform):
    """Normal weights of the variance of PyTorch's reset, and its uniform biases: what of KaimingUniform comes from the
    law of the weights, and what from biases and scale?"""

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        return standard_normal(shape, seed, layer) / math.sqrt(3 * fan_in(shape))


@dataclass(frozen=True)
class TruncatedNormal(Law):
    """Normal, redrawn beyond two standard deviations (Nie et al. [22]), He scale."""

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        cut = math.erf(2 / math.sqrt(2))
        z = torch.special.ndtri(0.5 + (unit_interval(shape, seed, layer).double() - 0.5) * cut)
        variance = 1 - 2 * 2 * math.exp(-2) / math.sqrt(2 * math.pi) / cut
        return (z / math.sqrt(variance) * he(shape)).float()


@dataclass(frozen=True)
class Anisotropic(Law):
    """Gaussian, the standard deviations of the input channels log-spaced from 1 to `ratio`, He scale on average."""

    ratio: float

    def __post_init__(self):
        if self.ratio <= 0:
            raise ValueError(f"ratio is one deviation over another and positive, not {self.ratio}")

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        deviation = self.deviations(shape[1]).view(1, -1, *[1] * (len(shape) - 2))
        return standard_normal(shape, seed, layer) * deviation * he(shape)

    def deviations(self, inputs: int) -> Tensor:
        deviation = torch.logspace(0, math.log10(self.ratio), inputs)
        return deviation / deviation.pow(2).mean().sqrt()


@dataclass(frozen=True)
class HeavyTailed(Law):
    """Multivariate t: isotropic, with a norm that varies widely between neurons. He scale (degrees of freedom > 2)."""

    degrees: int

    def __post_init__(self):
        if self.degrees < 3:
            raise ValueError("degrees must be at least 3: below, the law has no variance to scale")

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        chi2 = torch.randn(shape[0], self.degrees, generator=stream(seed, layer, EXTRA)).pow(2).sum(1)
        spread = torch.sqrt(self.degrees / chi2) * math.sqrt((self.degrees - 2) / self.degrees)
        return standard_normal(shape, seed, layer) * he(shape) * spread.view(-1, *[1] * (len(shape) - 1))

    @property
    def effective_width(self) -> float:
        """(E s)^2 of the factor s of a Gaussian, E s^2 = 1: .64 at three degrees of freedom."""
        half = self.degrees / 2
        return (half - 1) * math.exp(2 * (math.lgamma(half - 0.5) - math.lgamma(half)))


@dataclass(frozen=True)
class Unbiased(Law):
    """The weights that are there, biases zero: what does a trained network owe to its biases?"""

    DRAWS: ClassVar = False

    def weight(self, old: Tensor, seed: int, layer: int) -> Tensor:
        return old

    @property
    def seeded(self) -> bool:
        return self.base is None


# ---- removal (Section IV-B, Fig. 5): weights set to zero, not drawn anew ------------------------------------------


class Kernel(Enum):
    first = "first"  # the first row and the first column
    middle = "middle"  # the middle ones: maps are not displaced
    last = "last"
    shared_random = "shared_random"  # as many places, anywhere, the same in all kernels of a layer
    corner = "corner"  # where the first ones meet alone, the sentence's other reading


class Touched(Enum):
    all = "all"
    linear = "linear"
    conv = "conv"

    def has(self, shape: Sequence[int]) -> bool:
        """Whether weights of this shape are touched."""
        return self is Touched.all or (len(shape) == 2) == (self is Touched.linear)


class Places(Enum):
    pattern = "pattern"  # as the paper says
    random = "random"  # as many weights, anywhere: a loss that shows here too comes from sparsity


@dataclass(frozen=True)
class Removal(Law):
    """A linear layer keeps max(1, round(inputs n)) of its n inputs, shared by all outputs; a kernel keeps its first
    row and column, or others, 1 x 1 is left alone. Biases are zero, or stay with `keep_biases`. layers: all, or those
    of one kind; the others stay as they are."""

    DRAWS: ClassVar = False

    inputs: float
    kernel: Kernel
    keep_biases: bool
    places: Places
    layers: Touched

    def __post_init__(self):
        if not 0 < self.inputs <= 1:
            raise ValueError(f"inputs is a share in (0, 1], not {self.inputs}")

    def weight(self, old: Tensor, seed: int, layer: int) -> Tensor:
        return old * self.keeps(old.shape, seed, layer)

    def bias(self, old: Tensor, shape: torch.Size, seed: int, layer: int) -> Tensor:
        stays = self.keep_biases or not self.layers.has(shape)
        return old if stays else super().bias(old, shape, seed, layer)

    def keeps(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        """bool, of the weights' shape."""
        if not self.layers.has(shape):
            return torch.ones(shape, dtype=torch.bool)
        kept, generator = torch.zeros(shape, dtype=torch.bool), stream(seed, layer, EXTRA)
        if len(shape) == 2:
            kept[:, torch.randperm(shape[1], generator=generator)[: max(1, round(self.inputs * shape[1]))]] = True
        else:
            kept[...] = kept_of_kernel(self.kernel, shape[2], shape[3], generator)
        if self.places is Places.random:
            return anywhere(int(kept.sum()), shape, generator)
        return kept


def kept_of_kernel(kernel: Kernel, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(height, width), bool."""
    if kernel is Kernel.shared_random:
        return anywhere(height + width - 1, torch.Size((height, width)), generator)
    kept = torch.zeros(height, width, dtype=torch.bool)
    if kernel is Kernel.corner:
        kept[0, 0] = True
    else:
        row, column = {
            Kernel.first: (0, 0), Kernel.middle: (height // 2, width // 2), Kernel.last: (height - 1, width - 1),
        }[kernel]  # fmt: skip
        kept[row] = kept[:, column] = True
    return kept


def anywhere(count: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """bool, True at so many places drawn without replacement."""
    chosen = torch.randperm(shape.numel(), generator=generator)[:count]
    return torch.zeros(shape.numel(), dtype=torch.bool).index_fill(0, chosen, True).view(shape)
