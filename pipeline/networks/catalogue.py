"""Networks by name. To add one: write a frozen dataclass on Model, enter it in MODELS at the foot, add
conf/model/<name>.yaml."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torchvision
from torch import Tensor, nn

from pipeline.engine.network import Network, trace
from pipeline.errors import UserError
from pipeline.files import import_callable
from pipeline.images.batches import Preprocessing
from pipeline.images.sets import CIFAR10_MEAN, CIFAR10_STD
from pipeline.networks.cifar import ResNet18CifarModule, Vgg16CifarModule
from pipeline.networks.efficientnet import EfficientNetLite0Module, packaged_state, without_underscores
from pipeline.networks.weight_files import download, read_checkpoint

# Pretrained, they turn ImageNet's normalisation into (pixel - .5) / .5 themselves, which is done to the images here.
OWN_INPUTS = ("googlenet", "inception_v3")
CIFAR10_CATEGORIES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _torchvision_builder(name: str):
    try:
        return torchvision.models.get_model_builder(name)
    except ValueError:
        raise UserError(
            f"torchvision has no model '{name}'; set model.name to one of "
            "torchvision.models.list_models(torchvision.models)"
        ) from None


class Model(ABC):
    """A network by name, as a frozen dataclass of its settings. units: module paths whose layers share a unit l
    (engine.network.trace), where the graph alone would make several of them."""

    units: Sequence[str] = ()

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, with whatever weights its author starts from."""

    @abstractmethod
    def preprocessing(self, enum: str = "DEFAULT") -> Preprocessing:
        """What its images go through; enum: where sets of trained weights differ in it, which of them."""

    def layer_names(self, module: nn.Module) -> list[str] | None:
        """A name for each conv and linear layer of `module`, in order; None: their module paths."""
        return None

    def categories(self) -> list[str] | None:
        """The classes' names, None where they are not known."""
        return None

    def pretrained_state(self, enum: str, path: str | None) -> dict[str, Tensor]:
        """The model's own trained weights, or what the file `path` holds of them. Raises UserError if it has none."""
        raise UserError(
            "weights=pretrained are torchvision's, or EfficientNet-Lite0's; choose model=efficientnet_lite0, a "
            "torchvision "
            "model such as model=vgg16, or weights=checkpoint"
        )


@dataclass(frozen=True)
class Torchvision(Model):
    """A torchvision classifier in its ImageNet form, named as in `torchvision.models.list_models()`."""

    name: str
    units: list[str]

    def build(self) -> nn.Module:
        return _torchvision_builder(self.name)(
            weights=None, **({"init_weights": False} if self.name in OWN_INPUTS else {})
        )

    def weights_enum(self):
        _torchvision_builder(self.name)
        return torchvision.models.get_model_weights(self.name)

    def preprocessing(self, enum: str = "DEFAULT") -> Preprocessing:
        """The transform that torchvision's weights `enum` of this model were trained for. Raises UserError if they
        are not a classifier's."""
        preset = self.member(enum).transforms()
        if not hasattr(preset, "crop_size"):
            raise UserError(
                f"{self.name} is no image classifier; set model.name to one of "
                "torchvision.models.list_models(torchvision.models)"
            )
        half = (0.5,) * 3
        mean, std = (half, half) if self.name in OWN_INPUTS else (tuple(preset.mean), tuple(preset.std))
        return Preprocessing(preset.resize_size[0], preset.crop_size[0], mean, std, preset.interpolation.value)

    def member(self, enum: str):
        """One member of the model's weights enum. Raises UserError if there is none of this name."""
        members = self.weights_enum().__members__
        if enum not in members:
            raise UserError(
                f"torchvision has no weights {enum} for {self.name}; set weights.enum to one of {', '.join(members)}"
            )
        return members[enum]

    def layer_names(self, module: nn.Module) -> list[str] | None:
        return vgg_layer_names(module) if self.name.startswith("vgg") else None

    def categories(self) -> list[str] | None:
        return self.weights_enum().DEFAULT.meta.get("categories")  # type: ignore[attr-defined]

    def pretrained_state(self, enum: str, path: str | None) -> dict[str, Tensor]:
        """The weights `enum` of torchvision, from its cache, downloaded into it, or from the file `path`."""
        member = self.member(enum)
        return read_checkpoint(path) if path else download(member)


@dataclass(frozen=True)
class EfficientNetLite0(Model):
    """EfficientNet-Lite0 for ImageNet, whose trained weights a package ships: nothing is downloaded. Input (B, 3,
    224, 224)."""

    units: list[str]

    def build(self) -> nn.Module:
        return EfficientNetLite0Module()

    def preprocessing(self, enum: str = "DEFAULT") -> Preprocessing:
        """(pixel - 127) / 128 for pixels from 0 to 255."""
        return Preprocessing(256, 224, (127 / 255,) * 3, (128 / 255,) * 3, "bilinear")

    def categories(self) -> list[str] | None:
        return Torchvision("resnet18", []).categories()  # the same 1000

    def pretrained_state(self, enum: str, path: str | None) -> dict[str, Tensor]:
        """The package's weights, or a file with the same names."""
        if enum not in ("DEFAULT", "IMAGENET1K_V1"):
            raise UserError(
                f"EfficientNet-Lite0 has one set of weights, and {enum} is not its name; set weights.enum to DEFAULT"
            )
        return without_underscores(read_checkpoint(path)) if path else packaged_state()


@dataclass(frozen=True)
class Vgg16Cifar(Model):
    """VGG16 for 32 px: the 13 convolutions of torchvision's vgg16 under a classifier of three 512-wide linear layers.

    With `batch_norm` (for training) every layer but the last is normalised, without it the folded network fits.
    Input (B, 3, 32, 32), output (B, classes).
    """

    classes: int
    batch_norm: bool
    dropout: float

    def build(self) -> nn.Module:
        return Vgg16CifarModule(self.classes, self.batch_norm, self.dropout)

    def preprocessing(self, enum: str = "DEFAULT") -> Preprocessing:
        return Preprocessing(32, 32, CIFAR10_MEAN, CIFAR10_STD, "bilinear")

    def layer_names(self, module: nn.Module) -> list[str] | None:
        return vgg_layer_names(module)

    def categories(self) -> list[str] | None:
        return cifar10_categories(self.classes)


@dataclass(frozen=True)
class ResNet18Cifar(Model):
    """ResNet18 for 32 px: a 3 x 3 stem, no max-pool, `width` channels (64: the paper's) in the first stage.

    With `batch_norm` (for training) every convolution is normalised, without it the folded network fits.
    Input (B, 3, 32, 32), output (B, classes).
    """

    classes: int
    width: int
    batch_norm: bool

    def __post_init__(self):
        # PyTorch's backward pass of a strided 1 x 1 convolution of fewer channels corrupts memory (channels last, CPU)
        if self.width < 8:
            raise ValueError(f"width must be at least 8, not {self.width}")

    def build(self) -> nn.Module:
        return ResNet18CifarModule(self.classes, self.width, self.batch_norm)

    def preprocessing(self, enum: str = "DEFAULT") -> Preprocessing:
        return Preprocessing(32, 32, CIFAR10_MEAN, CIFAR10_STD, "bilinear")

    def categories(self) -> list[str] | None:
        return cifar10_categories(self.classes)


@dataclass(frozen=True)
class Own(Model):
    """The user's own network: `call` is `package.module:function`, a callable without arguments that returns an
    nn.Module."""

    call: str
    resize: int
    crop: int
    mean: list[float]
    std: list[float]
    units: list[str]

    def build(self) -> nn.Module:
        module = import_callable(self.call, "model.call")()
        if not isinstance(module, nn.Module):
            raise UserError(
                f"model.call={self.call} returned a {type(module).__name__}; it must return a torch.nn.Module"
            )
        return module

    def preprocessing(self, enum: str = "DEFAULT") -> Preprocessing:
        return Preprocessing(self.resize, self.crop, tuple(self.mean), tuple(self.std), "bilinear")

    def pretrained_state(self, enum: str, path: str | None) -> dict[str, Tensor]:
        """The weights with which `call` returns the network, or a file with the same names."""
        return read_checkpoint(path) if path else self.build().state_dict()


def class_name(k: int, names: Sequence[str] | None) -> str:
    """The class's name, else its number; nothing for -1."""
    return "" if k < 0 else names[k] if names and k < len(names) else str(k)


def cifar10_categories(classes: int) -> list[str] | None:
    return list(CIFAR10_CATEGORIES) if classes == len(CIFAR10_CATEGORIES) else None


def traced(model: Model, module: nn.Module, batch_norm: str = "fold", keep: bool = True) -> Network:
    """Trace a model's module with its layer names and pixel bounds; keep: as in trace."""
    pre, names = model.preprocessing(), model.layer_names(module)
    more = {"names": names, "mean": pre.mean, "std": pre.std, "units": model.units}
    return trace(module, batch_norm=batch_norm, keep=keep, **more)


def vgg_layer_names(module: nn.Module) -> list[str]:
    """conv1_1 ... conv5_3, fc6, fc7, fc8 for a network with VGG's `features` and `classifier`, in layer order."""
    names, block, index = [], 1, 1
    for layer in module.features:  # type: ignore[union-attr]
        if isinstance(layer, nn.Conv2d):
            names.append(f"conv{block}_{index}")
            index += 1
        elif isinstance(layer, nn.MaxPool2d):
            block, index = block + 1, 1
    linear = sum(isinstance(layer, nn.Linear) for layer in module.classifier)  # type: ignore[union-attr]
    return names + [f"fc{block + i}" for i in range(linear)]


MODELS: dict[str, type[Model]] = {
    "vgg16": Torchvision,
    "vgg16_bn": Torchvision,
    "vgg11_bn": Torchvision,
    "alexnet": Torchvision,
    "resnet18": Torchvision,
    "efficientnet_lite0": EfficientNetLite0,
    "vgg16_cifar": Vgg16Cifar,
    "resnet18_cifar": ResNet18Cifar,
    "own": Own,
}
