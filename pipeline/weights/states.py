"""Weight states by name: from a file, or by a law (laws.py) that touches all layers or some of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipeline.engine.network import Network, memory_format
from pipeline.errors import UserError
from pipeline.files import CHECKPOINTS
from pipeline.images.batches import Preprocessing
from pipeline.networks.catalogue import Model, Own, traced
from pipeline.networks.weight_files import load_complete, read_checkpoint
from pipeline.weights.draw import calibrate, randomise
from pipeline.weights.laws import (
    Anisotropic,
    BatchNormReset,
    Gaussian,
    HeavyTailed,
    KaimingNormal,
    KaimingUniform,
    Law,
    Part,
    Removal,
    Ring,
    TruncatedNormal,
    Unbiased,
    Uniform,
    Uniform01,
)


@dataclass(frozen=True)
class Pretrained:
    """The model's own trained weights: `enum` names one set of them, for torchvision a member of the model's weights
    enum (DEFAULT: the newest). From torchvision's cache, downloaded into it, from an installed package, or from a
    local file `path`. All but the last are pinned by the hash in their names, so only that is looked at for changes."""

    enum: str
    path: str | None

    seeded: ClassVar = False

    def identity(self) -> dict[str, Any]:
        return {"enum": self.enum} | ({"path": self.path} if self.path else {})

    def file(self) -> Path | None:
        return Path(self.path).expanduser() if self.path else None

    def network(self, model: Model, seed: int, dtype: torch.dtype) -> Network:
        module = unfilled(model)
        load_complete(module, model.pretrained_state(self.enum, self.path), self.path or self.enum)
        return traced(model, module.to(dtype), keep=isinstance(model, Own))


@dataclass(frozen=True)
class Checkpoint:
    """A local file, safetensors or a torch state dict, with the model's parameter names. `path` may also be the name
    of a checkpoint that the package ships. Layers named in `randomised` (conv5_3, or classifier.0) may be missing:
    Gaussian by `seed`."""

    path: str
    randomised: list[str]

    @property
    def seeded(self) -> bool:
        return bool(self.randomised)

    def file(self) -> Path | None:
        shipped = CHECKPOINTS / f"{self.path}.safetensors"
        return shipped if shipped.is_file() else Path(self.path).expanduser()

    def network(self, model: Model, seed: int, dtype: torch.dtype) -> Network:
        state = read_checkpoint(str(self.file()))
        module = unfilled(model)
        numbers, prefixes = [], ()
        if self.randomised:
            skeleton = traced(model, module if isinstance(model, Own) else on_meta(model))  # only for its names
            numbers = named_layers(skeleton, self.randomised)
            chosen = [skeleton.layers[n - 1] for n in numbers]
            prefixes = tuple(f"{name}." for op in chosen for name in (op.where, op.norm) if name)
        given = {k: v for k, v in state.items() if not k.startswith(prefixes)} if prefixes else state
        load_complete(module, given, self.path, missing_is_fine=prefixes)
        network = traced(model, module.to(dtype), keep=isinstance(model, Own))
        randomise(network, HE_GAUSSIAN, seed, numbers)
        return network


@dataclass(frozen=True)
class Trained:
    """Weights that this program trains first. training: the settings of experiment=train for this model, `data` (the
    name of a data set) and by name settings of that and of train: {data: digits, train: {epochs: [30]}}."""

    training: dict[str, Any]


@dataclass(frozen=True)
class TrainedBy:
    """The same with the cell (run.cell.Cell) that trains, what tells it from others in words, and the file that it
    leaves: the runner sees to it that it is there."""

    training: str
    cell: Any
    path: Path | None = None

    seeded: ClassVar = False

    def identity(self) -> dict[str, Any]:
        return {"training": self.cell.key}

    def describe(self) -> dict[str, Any]:
        return {"training": self.training, "cell": self.cell.describe()}

    def file(self) -> Path | None:
        return self.path

    def network(self, model: Model, seed: int, dtype: torch.dtype) -> Network:
        as_trained = self.cell.model.value  # with its BatchNorm, which is folded here
        return Checkpoint(str(self.path), []).network(as_trained, seed, dtype)


State = Pretrained | Checkpoint | TrainedBy
HE_GAUSSIAN = Gaussian(base=None, depth=None, part=Part.top, batchnorm=BatchNormReset.identity)


def unfilled(model: Model) -> nn.Module:
    """The model's module for weights that come: initialising them would take longer than reading them. The user's own
    is as it is built, for it may hold more than its state dict."""
    return model.build() if isinstance(model, Own) else on_meta(model).to_empty(device="cpu")


def on_meta(model: Model) -> nn.Module:
    """Its module without any numbers."""
    with torch.device("meta"):
        return model.build()


def network_of(
    weights: State | Law, model: Model, seed: int, dtype: torch.dtype, first_images: Callable[[], Tensor]
) -> Network:
    """The network of a model in a weight state, on the CPU. `first_images()`: (B, 3, H, W), asked for to calibrate
    BatchNorm."""
    if not isinstance(weights, Law):
        return weights.network(model, seed, dtype)
    if weights.base is None:
        module = (model.build() if isinstance(model, Own) else on_meta(model)).to(dtype)  # weights are drawn below
        network = traced(model, module, batch_norm="drop", keep=isinstance(model, Own))
        if not isinstance(model, Own):
            network.module.to_empty(device="cpu").to(memory_format=memory_format(torch.device("cpu")))
        touched = weights.touched(network)
        drawn = set(touched) if weights.DRAWS else set()
        randomise(network, HE_GAUSSIAN, seed, set(range(1, len(network.layers) + 1)) - drawn)
    else:
        network = state_of(weights.base).network(model, seed, dtype)
        touched = weights.touched(network)
    randomise(network, weights, seed, touched)
    if weights.batchnorm is BatchNormReset.calibrated:
        calibrate(network, first_images().to(dtype), None if weights.base is None else touched)
    return network


def layers_of(model: Model) -> int:
    """L, of the model without weights."""
    own = isinstance(model, Own)  # whose module is its author's, and stays as it is
    return traced(model, model.build() if own else on_meta(model), keep=own).depth


def state_of(base: str) -> Pretrained | Checkpoint:
    """`base` of a law as a state of its own."""
    kind, _, member = base.partition(".")
    return Pretrained(member or "DEFAULT", None) if kind == "pretrained" else Checkpoint(base, [])


def from_files(weights: State | Law) -> State | None:
    """The state that is read from files: the weights themselves, or a law's base; None if all weights are drawn."""
    if isinstance(weights, Law):
        return state_of(weights.base) if weights.base else None
    return weights


def weights_file(weights: State | Law) -> Path | None:
    """The file whose changes change the network."""
    state = from_files(weights)
    return state.file() if state else None


def preprocessing_of(weights: State | Law, model: Model) -> Preprocessing:
    """What a network in this state takes: torchvision's sets of weights of one model differ in their transforms."""
    state = from_files(weights)
    return model.preprocessing(state.enum) if isinstance(state, Pretrained) else model.preprocessing()


def original(weights: State | Law) -> State | Law:
    """The state without what the law does to its layers: for comparisons, which explain the unmodified network's
    decision."""
    return replace(weights, depth=0, part=Part.top) if isinstance(weights, Law) else weights


def named_layers(network: Network, wanted: Iterable[str]) -> list[int]:
    """Numbers of the layers with these names or module paths. Raises UserError for a name that is none."""
    numbers = {name: n for n, op in enumerate(network.layers, start=1) for name in (op.where, network.names[n - 1])}
    for name in wanted:
        if name not in numbers:
            raise UserError(f"the model has no layer {name}; its layers are {', '.join(network.names)}")
    return sorted({numbers[name] for name in wanted})


WEIGHTS: dict[str, type] = {
    "pretrained": Pretrained,
    "checkpoint": Checkpoint,
    "trained": Trained,
    "gaussian": Gaussian,
    "ring": Ring,
    "uniform": Uniform,
    "uniform01": Uniform01,
    "kaiming_uniform": KaimingUniform,
    "kaiming_normal": KaimingNormal,
    "truncated_normal": TruncatedNormal,
    "anisotropic": Anisotropic,
    "heavy_tailed": HeavyTailed,
    "removal": Removal,
    "thinned": Removal,
    "unbiased": Unbiased,
}
