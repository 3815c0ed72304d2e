"""Weight states by name: from a file, or by a law (laws.py) that touches all layers or some of them."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.engine.network import Network, memory_format
from pipeline.errors import UserError
from pipeline.files import CHECKPOINTS, file_hash
from pipeline.images.batches import Preprocessing
from pipeline.networks.catalogue import Own, traced
from pipeline.networks.weight_files import load_complete, read_checkpoint
from pipeline.weights.draw import calibrate, randomise
from pipeline.weights.laws import (
    Anisotropic,
    BatchNormReset,
    Gaussian,
    HeavyTailed,
    KaimingUniform,
    Law,
    Part,
    Removal,
    Ring,
    TruncatedNormal,
    Uniform,
    Uniform01,
)

# ---- states: (model, seed) -> Network ---------------------------------------------------------------------


def preprocessing_of(weights: Any, model: Any) -> Preprocessing:
    """What a network in this state takes: torchvision's sets of weights of one model differ in their transforms."""
    state = state_of(weights.base) if isinstance(weights, Law) and weights.base else weights
    return (
        model.preprocessing(state.enum)
        if isinstance(state, Pretrained) and hasattr(model, "weights_enum")
        else model.preprocessing()
    )


HE_GAUSSIAN = Gaussian(base=None, depth=None, part=Part.top, batchnorm=BatchNormReset.identity)


def network_of(weights: Any, model: Any, seed: int, dtype: torch.dtype, first_images: Callable[[], Tensor]) -> Network:
    """The network of a model in a weight state, on the CPU. `first_images()`: (B, 3, H, W), asked for to calibrate BatchNorm."""
    if not isinstance(weights, Law):
        return weights.network(model, seed, dtype)
    if weights.base is None:
        with torch.device("cpu" if isinstance(model, Own) else "meta"):  # no weights in it yet: they are drawn below
            module = model.build().to(dtype)
        network = traced(model, module, batch_norm="drop")
        if not isinstance(model, Own):
            network.module.to_empty(device="cpu").to(memory_format=memory_format(torch.device("cpu")))
        touched = weights.touched(network)
        redrawn = set(touched) if hasattr(weights, "draw") else set()
        randomise(network, HE_GAUSSIAN, seed, set(range(1, len(network.layers) + 1)) - redrawn)
    else:
        network = state_of(weights.base).network(model, seed, dtype)
        touched = weights.touched(network)
    randomise(network, weights, seed, touched)
    if weights.batchnorm is BatchNormReset.calibrated:
        calibrate(network, first_images().to(dtype), None if weights.base is None else touched)
    return network


def original(weights: Any) -> Any:
    """The state without what the law does to its layers: for comparisons, which explain the unmodified network's decision."""
    return replace(weights, depth=0, part=Part.top) if isinstance(weights, Law) else weights


def state_of(base: str) -> "Pretrained | Checkpoint":
    """`base` of a law as a state of its own."""
    kind, _, member = base.partition(".")
    return Pretrained(member or "DEFAULT", None) if kind == "pretrained" else Checkpoint(base, [])


def fingerprint(weights: Any) -> str | None:
    """A hash of the file that a state reads; None if it reads none."""
    if isinstance(weights, Law):
        return fingerprint(state_of(weights.base)) if weights.base else None
    return weights.fingerprint()


@dataclass(frozen=True)
class Pretrained:
    """The model's own trained weights: `enum` names one set of them, for torchvision a member of the model's weights enum (DEFAULT: the
    newest). From torchvision's cache, downloaded into it, from an installed package, or from a local file `path`. All but the last are pinned
    by the hash in their names, so only that has a fingerprint."""

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
        if not hasattr(model, "pretrained_state"):
            raise UserError(
                "weights=pretrained are torchvision's, or EfficientNet-Lite0's; choose model=efficientnet_lite0, a torchvision model such as model=vgg16, or weights=checkpoint"
            )
        module = model.build()
        load_complete(module, model.pretrained_state(self.enum, self.path), self.path or self.enum)
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
        load_complete(
            module,
            {k: v for k, v in state.items() if not k.startswith(prefixes or ("\0",))},
            self.path,
            missing_is_fine=prefixes,
        )
        network = traced(model, module.to(dtype))
        randomise(network, HE_GAUSSIAN, seed, numbers)
        return network


@dataclass(frozen=True)
class Trained:
    """Weights that this program trains first: `training` holds the settings of experiment=train for this model, as on the command line."""

    training: str


@dataclass(frozen=True)
class TrainedBy(Trained):
    """The same with the cell (cell.Cell) that trains, and the file that it leaves: the runner sees to it that it is there."""

    cell: Any
    file: Path | None = None

    @property
    def seeded(self) -> bool:
        return False

    def identity(self) -> dict[str, Any]:
        return {"training": self.cell.key}

    def describe(self) -> dict[str, Any]:
        return {"training": self.training, "cell": self.cell.describe()}

    def fingerprint(self) -> str | None:
        return file_hash(self.file) if self.file else None

    def network(self, model, seed: int, dtype: torch.dtype) -> Network:
        return Checkpoint(str(self.file), []).network(
            self.cell.model.value, seed, dtype
        )  # as it was trained: BatchNorm is folded here


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
    "trained": Trained,
    "gaussian": Gaussian,
    "ring": Ring,
    "uniform": Uniform,
    "uniform01": Uniform01,
    "kaiming_uniform": KaimingUniform,
    "truncated_normal": TruncatedNormal,
    "anisotropic": Anisotropic,
    "heavy_tailed": HeavyTailed,
    "removal": Removal,
    "thinned": Removal,
}
