"""Random small networks for property tests: what a layer may be, and a hypothesis strategy for (model, x)."""

from dataclasses import dataclass

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.models import images, seeded

CHANNELS = 4

RELUS = {
    "module": lambda m, i, x: m.relus[i](x),
    "module, in place": lambda m, i, x: m.in_place(x),
    "module, reused": lambda m, i, x: m.reused(x),
    "module, result ignored": lambda m, i, x: (m.in_place(x), x)[1],
    "function": lambda m, i, x: F.relu(x),
    "function, in place": lambda m, i, x: F.relu(x, inplace=True),
    "function, result ignored": lambda m, i, x: (F.relu(x, inplace=True), x)[1],
    "method": lambda m, i, x: x.relu(),
    "method, in place": lambda m, i, x: x.relu_(),
    "relu6": lambda m, i, x: F.relu6(x),
    "none": lambda m, i, x: x,
}
POOLS = {
    "max": lambda x: F.max_pool2d(x, 2),
    "max, overlapping": lambda x: F.max_pool2d(x, 3, 2, padding=1),
    "max, ceil": lambda x: F.max_pool2d(x, (2, 3), ceil_mode=True),
    "max, dilated": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
    "average": lambda x: F.avg_pool2d(x, (2, 1)),
    "average, overlapping": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "none": lambda x: x,
}


@dataclass(frozen=True)
class Layer:
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    bias: bool
    norm: bool
    skip: bool
    relu: str
    pool: str


class Drawn(nn.Module):
    def __init__(self, layers: list[Layer], size: tuple[int, int], view: bool):
        super().__init__()
        self.layers, self.view, self.skips = layers, view, []
        self.convs = nn.ModuleList(
            nn.Conv2d(CHANNELS, CHANNELS, s.kernel, s.stride, s.padding, s.dilation, s.groups, s.bias) for s in layers
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) if s.norm else nn.Sequential() for s in layers)
        self.relus = nn.ModuleList(nn.ReLU() for _ in layers)
        self.reused, self.in_place = nn.ReLU(), nn.ReLU(inplace=True)
        self.eval()
        x = torch.zeros(1, CHANNELS, *size)
        for i, s in enumerate(layers):
            self.skips.append(s.skip and self.convs[i](x).shape == x.shape)
            x = self.block(i, x)
        self.last = nn.Linear(x.numel(), 3)

    def block(self, i: int, x):
        s = self.layers[i]
        y = self.norms[i](self.convs[i](x))
        y = y + x if self.skips[i] else y
        return POOLS[s.pool](RELUS[s.relu](self, i, y))

    def forward(self, x):
        for i in range(len(self.layers)):
            x = self.block(i, x)
        return self.last(x.view(x.size(0), -1) if self.view else torch.flatten(x, 1))


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


LAYERS = st.builds(
    Layer, kernel=pairs(1, 3), stride=pairs(1, 2), padding=pairs(0, 2), dilation=pairs(1, 2),
    groups=st.sampled_from([1, 2, 4]), bias=st.booleans(), norm=st.booleans(), skip=st.booleans(),
    relu=st.sampled_from(list(RELUS)), pool=st.sampled_from(list(POOLS)),
)  # fmt: skip


@st.composite
def drawn_nets(draw) -> tuple[nn.Module, torch.Tensor]:
    layers, size, view = draw(st.lists(LAYERS, min_size=1, max_size=4)), draw(pairs(6, 13)), draw(st.booleans())
    batch, seed = draw(st.integers(1, 3)), draw(st.integers(0, 99))
    try:
        model = seeded(lambda: Drawn(layers, size, view), seed)
    except RuntimeError:  # nothing is left of the map
        assume(False)
    return model, 3 * images(batch, (CHANNELS, *size), seed)
