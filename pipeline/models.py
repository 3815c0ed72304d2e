"""Networks by name: a frozen dataclass each, with `build()`, `preprocessing()` and `layer_names()`.

To add one: write such a dataclass, enter it in MODELS at the foot, add conf/model/<name>.yaml.
"""

import importlib
from collections import OrderedDict
from dataclasses import dataclass

import torchvision
from torch import nn

from pipeline.data import CIFAR10_MEAN, CIFAR10_STD, Preprocessing
from pipeline.errors import UserError

VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _torchvision_builder(name: str):
    try:
        return torchvision.models.get_model_builder(name)
    except ValueError:
        raise UserError(f"torchvision has no model '{name}'; set model.name to one of torchvision.models.list_models()") from None


@dataclass(frozen=True)
class Torchvision:
    """A torchvision classifier in its ImageNet form, named as in `torchvision.models.list_models()`."""

    name: str

    def build(self) -> nn.Module:
        return _torchvision_builder(self.name)(weights=None)

    def weights_enum(self):
        _torchvision_builder(self.name)
        return torchvision.models.get_model_weights(self.name)

    def preprocessing(self) -> Preprocessing:
        """The transform that torchvision's default weights of this model were trained for."""
        preset = self.weights_enum().DEFAULT.transforms()  # type: ignore[attr-defined]
        return Preprocessing(preset.resize_size[0], preset.crop_size[0], tuple(preset.mean), tuple(preset.std), preset.interpolation.value)

    def layer_names(self, module: nn.Module) -> list[str] | None:
        return vgg_layer_names(module) if self.name.startswith("vgg") else None


@dataclass(frozen=True)
class Vgg16Cifar:
    """VGG16 for 32 px: the 13 convolutions of torchvision's vgg16 under a classifier of three 512-wide linear layers.

    With `batch_norm` (for training) every layer but the last is normalised; the convolutions keep the same
    parameter names either way, so that a folded network fits the plain one. Input (B, 3, 32, 32), output (B, classes).
    """

    classes: int
    batch_norm: bool
    dropout: float

    def build(self) -> nn.Module:
        return Vgg16CifarModule(self.classes, self.batch_norm, self.dropout)

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(32, 32, CIFAR10_MEAN, CIFAR10_STD, "bilinear")

    def layer_names(self, module: nn.Module) -> list[str] | None:
        return vgg_layer_names(module)


class Vgg16CifarModule(nn.Module):
    def __init__(self, classes: int, batch_norm: bool, dropout: float):
        super().__init__()
        features: OrderedDict[str, nn.Module] = OrderedDict()
        channels, position = 3, 0  # position: torchvision's index in vgg16.features
        for block in VGG16_BLOCKS:
            for width in block:
                features[str(position)] = nn.Conv2d(channels, width, 3, padding=1)
                if batch_norm:
                    features[f"{position}_bn"] = nn.BatchNorm2d(width)
                features[str(position + 1)] = nn.ReLU(inplace=True)
                channels, position = width, position + 2
            features[str(position)] = nn.MaxPool2d(2, ceil_mode=True)  # ceil: training may use smaller images
            position += 1
        classifier: OrderedDict[str, nn.Module] = OrderedDict()
        for position in (0, 3):  # torchvision's indices in vgg16.classifier
            classifier[str(position)] = nn.Linear(512, 512)
            if batch_norm:
                classifier[f"{position}_bn"] = nn.BatchNorm1d(512)
            classifier[str(position + 1)] = nn.ReLU(inplace=True)
            classifier[str(position + 2)] = nn.Dropout(dropout)
        classifier["6"] = nn.Linear(512, classes)
        self.features = nn.Sequential(features)
        self.classifier = nn.Sequential(classifier)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x):  # (B, 3, 32, 32)
        return self.classifier(self.features(x).flatten(1))


@dataclass(frozen=True)
class Own:
    """The user's own network: `call` is `package.module:function`, a callable without arguments that returns an nn.Module."""

    call: str
    resize: int
    crop: int
    mean: list[float]
    std: list[float]

    def build(self) -> nn.Module:
        module = import_callable(self.call, "model.call")()
        if not isinstance(module, nn.Module):
            raise UserError(f"model.call={self.call} returned a {type(module).__name__}; it must return a torch.nn.Module")
        return module

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.resize, self.crop, tuple(self.mean), tuple(self.std), "bilinear")

    def layer_names(self, module: nn.Module) -> list[str] | None:
        return None


def import_callable(path: str, field: str):
    """`package.module:function` -> the function. Raises UserError, naming the config field, if there is none."""
    module_name, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{field}={path} can't be imported ({error}); write it as package.module:function") from None
    if not callable(found):
        raise UserError(f"{field}={path} is not callable; write it as package.module:function")
    return found


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


MODELS = {
    "vgg16": Torchvision,
    "vgg16_bn": Torchvision,
    "vgg11_bn": Torchvision,
    "alexnet": Torchvision,
    "vgg16_cifar": Vgg16Cifar,
    "own": Own,
}
