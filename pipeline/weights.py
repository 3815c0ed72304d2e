"""Weight states by name: a frozen dataclass each.

A state from a file has `network(model, seed, dtype)`. A random law only says how one layer's weights are drawn,
`draw(shape, seed, layer)`, with a stream of its own derived from (seed, layer) and drawn on the CPU: the same weights on
any device, whichever other layers are drawn. Biases are zero then, and BatchNorm is reset to the identity.

To add a law: write such a dataclass, enter it in WEIGHTS at the foot, add conf/weights/<name>.yaml.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.drawing import EXTRA, calibrate, fan_in, he, randomise, standard_normal, stream, unit_interval
from pipeline.errors import UserError
from pipeline.loading import download, file_hash, load_complete, read_checkpoint
from pipeline.models import Torchvision
from pipeline.network import Network, trace
from pipeline.paths import CHECKPOINTS

# ---- random laws: shape (out, in / groups[, kh, kw]) -> float32 weights ------------------------------------------------


class BatchNormReset(Enum):
    identity = "identity"  # dropped, exactly
    calibrated = "calibrated"  # mean 0, variance 1 per channel over the first 64 images, folded


class Scale(Enum):
    he = "he"  # second moment 2 / fan_in
    mean = "mean"  # mean 1 / fan_in: keeps a constant image's scale where all weights are positive
    none = "none"  # the law as written


@dataclass(frozen=True)
class Gaussian:
    """i.i.d. normal, He scale."""

    batchnorm: BatchNormReset

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        return standard_normal(shape, seed, layer) * he(shape)


@dataclass(frozen=True)
class Ring:
    """Directions of the Gaussian of the same seed, norms uniform in the annulus sqrt(2) * [1 - width, 1 + width]: isotropic, not Gaussian."""

    width: float
    batchnorm: BatchNormReset

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        w = standard_normal(shape, seed, layer).flatten(1)
        u = torch.rand(len(w), 1, generator=stream(seed, layer, EXTRA))
        norm = math.sqrt(2) * (1 + self.width * (2 * u - 1))
        return (w / w.norm(dim=1, keepdim=True) * norm).view(shape)


@dataclass(frozen=True)
class Uniform:
    """i.i.d. entries on [-1, 1]: `scale: none` is the paper's text, and leaves float32's range in a deep network."""

    scale: Scale
    batchnorm: BatchNormReset

    def __post_init__(self):
        if self.scale is Scale.mean:
            raise ValueError("scale must be he or none for uniform: its mean is 0")

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        w = 2 * unit_interval(shape, seed, layer) - 1
        return w * (math.sqrt(3) * he(shape)) if self.scale is Scale.he else w


@dataclass(frozen=True)
class Uniform01:
    """i.i.d. entries on [0, 1]: a reading of "uniform" that is not isotropic, for its mean is not 0."""

    scale: Scale
    batchnorm: BatchNormReset

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        factor = {Scale.he: math.sqrt(3) * he(shape), Scale.mean: 2 / fan_in(shape), Scale.none: 1.0}[self.scale]
        return unit_interval(shape, seed, layer) * factor


@dataclass(frozen=True)
class KaimingUniform:
    """PyTorch's own reset: weights, and with `biases` the biases too, uniform on +- 1 / sqrt(fan_in)."""

    biases: bool
    batchnorm: BatchNormReset

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        return (2 * unit_interval(shape, seed, layer) - 1) / math.sqrt(fan_in(shape))

    def draw_bias(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        u = torch.rand(shape[0], generator=stream(seed, layer, EXTRA))
        return (2 * u - 1) / math.sqrt(fan_in(shape)) * self.biases


@dataclass(frozen=True)
class TruncatedNormal:
    """Normal, redrawn beyond two standard deviations (Nie et al. [22]), He scale."""

    batchnorm: BatchNormReset

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        cut = math.erf(2 / math.sqrt(2))
        z = torch.special.ndtri(0.5 + (unit_interval(shape, seed, layer).double() - 0.5) * cut)
        variance = 1 - 2 * 2 * math.exp(-2) / math.sqrt(2 * math.pi) / cut
        return (z / math.sqrt(variance) * he(shape)).float()


@dataclass(frozen=True)
class Anisotropic:
    """Gaussian, the standard deviations of the input channels log-spaced from 1 to `ratio`, He scale on average."""

    ratio: float
    batchnorm: BatchNormReset

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        deviation = torch.logspace(0, math.log10(self.ratio), shape[1]).view(1, -1, *[1] * (len(shape) - 2))
        deviation = deviation / deviation.pow(2).mean().sqrt()
        return standard_normal(shape, seed, layer) * deviation * he(shape)


@dataclass(frozen=True)
class HeavyTailed:
    """Multivariate t: isotropic, with a norm that varies widely between neurons. He scale (degrees of freedom > 2)."""

    degrees: int
    batchnorm: BatchNormReset

    def __post_init__(self):
        if self.degrees < 3:
            raise ValueError("degrees must be at least 3: below, the law has no variance to scale")

    def draw(self, shape: torch.Size, seed: int, layer: int) -> Tensor:
        chi2 = torch.randn(shape[0], self.degrees, generator=stream(seed, layer, EXTRA)).pow(2).sum(1)
        spread = torch.sqrt(self.degrees / chi2) * math.sqrt((self.degrees - 2) / self.degrees)
        return standard_normal(shape, seed, layer) * he(shape) * spread.view(-1, *[1] * (len(shape) - 1))


# ---- states: (model, seed) -> Network ---------------------------------------------------------------------


def traced(model, module: nn.Module, batch_norm: str = "fold") -> Network:
    """Trace a model's module with its layer names and pixel bounds."""
    preprocessing = model.preprocessing()
    return trace(module, names=model.layer_names(module), mean=preprocessing.mean, std=preprocessing.std, batch_norm=batch_norm)


def network_of(weights: Any, model: Any, seed: int, dtype: torch.dtype, first_images: Callable[[], Tensor]) -> Network:
    """The network of a model in a weight state, on the CPU. `first_images()`: (B, 3, H, W), asked for to calibrate BatchNorm."""
    if not hasattr(weights, "draw"):
        return weights.network(model, seed, dtype)
    network = traced(model, model.build().to(dtype), batch_norm="drop")
    randomise(network, weights, seed)
    if weights.batchnorm is BatchNormReset.calibrated:
        calibrate(network, first_images().to(dtype))
    return network


@dataclass(frozen=True)
class Pretrained:
    """torchvision's weights: `enum` names a member of the model's weights enum (DEFAULT: the newest). Read from torchvision's
    cache, downloaded into it, or read from a local file `path`."""

    enum: str
    path: str | None

    @property
    def seeded(self) -> bool:
        return False

    def identity(self) -> dict[str, Any]:
        return {"enum": self.enum}

    def fingerprint(self) -> str | None:
        return file_hash(Path(self.path).expanduser()) if self.path else None

    def network(self, model, seed: int, dtype: torch.dtype) -> Network:
        if not isinstance(model, Torchvision):
            raise UserError("weights=pretrained are torchvision's; choose a torchvision model such as model=vgg16, or weights=checkpoint")
        members = model.weights_enum().__members__
        if self.enum not in members:
            raise UserError(f"torchvision has no weights {self.enum} for {model.name}; set weights.enum to one of {', '.join(members)}")
        module = model.build()
        load_complete(module, read_checkpoint(self.path) if self.path else download(members[self.enum]), self.path or self.enum)
        return traced(model, module.to(dtype))


@dataclass(frozen=True)
class Checkpoint:
    """A local file, safetensors or a torch state dict, with the model's parameter names. `path` may also be the name of a
    checkpoint that the package ships. Layers named in `randomised` (conv5_3, or classifier.0) may be missing: Gaussian by `seed`."""

    path: str
    randomised: list[str]

    @property
    def seeded(self) -> bool:
        return bool(self.randomised)

    def identity(self) -> dict[str, Any]:
        return asdict(self)

    def file(self) -> Path:
        shipped = CHECKPOINTS / f"{self.path}.safetensors"
        return shipped if shipped.is_file() else Path(self.path).expanduser()

    def fingerprint(self) -> str | None:
        return file_hash(self.file())

    def network(self, model, seed: int, dtype: torch.dtype) -> Network:
        state = read_checkpoint(str(self.file()))
        module = model.build()
        skeleton = traced(model, module) if self.randomised else None
        numbers = named_layers(skeleton, self.randomised) if skeleton else []
        chosen = [skeleton.layers[n - 1] for n in numbers] if skeleton else []
        prefixes = tuple(f"{name}." for op in chosen for name in (op.where, op.norm) if name)
        load_complete(module, {k: v for k, v in state.items() if not k.startswith(prefixes or ("\0",))}, self.path, missing_is_fine=prefixes)
        network = traced(model, module.to(dtype))
        randomise(network, Gaussian(BatchNormReset.identity), seed, numbers)
        return network


def named_layers(network: Network, wanted: Iterable[str]) -> list[int]:
    """Numbers of the layers with these names or module paths. Raises UserError for a name that is none."""
    numbers = {name: n for n, op in enumerate(network.layers, start=1) for name in (op.where, network.names[n - 1])}
    for name in wanted:
        if name not in numbers:
            raise UserError(f"the model has no layer {name}; its layers are {', '.join(network.names)}")
    return sorted({numbers[name] for name in wanted})


WEIGHTS: dict[str, Callable[..., Any]] = {
    "pretrained": Pretrained,
    "checkpoint": Checkpoint,
    "gaussian": Gaussian,
    "ring": Ring,
    "uniform": Uniform,
    "uniform01": Uniform01,
    "kaiming_uniform": KaimingUniform,
    "truncated_normal": TruncatedNormal,
    "anisotropic": Anisotropic,
    "heavy_tailed": HeavyTailed,
}
