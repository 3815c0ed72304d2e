"""Networks for images of 32 px: torchvision's VGG16 and ResNet18 in their CIFAR forms, with torchvision's parameter
names.

With `batch_norm` (for training) layers are normalised; without it, they have biases instead and the same names, so
that a trained and folded network fits the plain one.
"""

from collections import OrderedDict

from torch import nn
from torchvision.models.resnet import BasicBlock

VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


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


def stage(inputs: int, outputs: int, stride: int, normalise: type[nn.Module]) -> nn.Sequential:
    """Two blocks of a ResNet; with a stride, the first one's shortcut is a convolution."""
    shortcut = (
        nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), normalise(outputs)) if stride > 1 else None
    )
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, shortcut, norm_layer=normalise),
        BasicBlock(outputs, outputs, norm_layer=normalise),
    )


class ResNet18CifarModule(nn.Module):
    """torchvision's resnet18 with a 3 x 3 stem of stride 1 and no max-pool; `width` channels in the stem and the
    first stage."""

    def __init__(self, classes: int, width: int, batch_norm: bool):
        super().__init__()
        normalise = nn.BatchNorm2d if batch_norm else nn.Identity
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = normalise(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(width, width, 1, normalise)
        self.layer2 = stage(width, 2 * width, 2, normalise)
        self.layer3 = stage(2 * width, 4 * width, 2, normalise)
        self.layer4 = stage(4 * width, 8 * width, 2, normalise)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if not batch_norm:
                    module.bias = nn.Parameter(module.weight.new_zeros(module.out_channels))

    def forward(self, x):  # (B, 3, 32, 32)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))
