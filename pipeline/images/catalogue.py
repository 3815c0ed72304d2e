"""All data sets by name."""

from pipeline.images.objects import BoxedImageNet, Composites
from pipeline.images.sets import Cifar10, Digits, Folder, ImageNet, PackagedSamples, Selection

DATA: dict[str, type[Selection]] = {
    "imagenet": ImageNet,
    "imagenet_boxes": BoxedImageNet,
    "imagenet_samples": PackagedSamples,
    "imagenet_composites": Composites,
    "cifar10_samples": PackagedSamples,
    "cifar10_composites": Composites,
    "cifar10": Cifar10,
    "digits": Digits,
    "folder": Folder,
}
