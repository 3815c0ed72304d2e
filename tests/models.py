"""Small networks, one per construction that the walk has to survive: (B, 3, 13, 11) to (B, 5), in float64."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHAPE = (3, 13, 11)  # odd and not square: swapped sides and dropped rows show


class Net(nn.Module):
    """`run(self, x)` over named submodules."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor], **modules: nn.Module):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.run(self, x)


def conv(inputs: int, outputs: int, kernel: int = 3, padding: int | str = 1, **settings) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, **settings)


def plain(bias: bool = True) -> nn.Module:
    """L = 4; A_1 and A_2 come before a pool."""
    return nn.Sequential(
        conv(3, 6, bias=bias), nn.ReLU(), nn.MaxPool2d(2),
        conv(6, 8, bias=bias), nn.ReLU(inplace=True), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(8 * 3 * 2, 7, bias=bias), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 5, bias=bias),
    )  # fmt: skip


def functional() -> nn.Module:
    def run(m, x):
        x = F.max_pool2d(F.relu(m.a(x)), 2)
        x = F.avg_pool2d(torch.relu(m.b(x)), 2, stride=1, padding=1)
        x = F.max_pool2d(m.c(x).relu(), kernel_size=3, stride=2, padding=1, ceil_mode=True)
        x = F.adaptive_avg_pool2d(x, (2, 2))
        return m.d(F.dropout(torch.flatten(x, 1), training=m.training))

    return Net(run, a=conv(3, 4), b=conv(4, 4), c=conv(4, 4), d=nn.Linear(16, 5))


def in_place() -> nn.Module:
    def run(m, x):
        x = F.relu_(m.a(x))
        x = m.relu(m.b(x))
        x = torch.relu_(m.c(x))
        x = F.relu(m.d(x), inplace=True)
        return m.e(x.flatten(1))

    return Net(
        run,
        a=conv(3, 4),
        b=conv(4, 4),
        c=conv(4, 4),
        d=conv(4, 4),
        e=nn.Linear(4 * 13 * 11, 5),
        relu=nn.ReLU(inplace=True),
    )


def ignored_result() -> nn.Module:
    def run(m, x):
        x = m.a(x)
        F.relu(x, inplace=True)
        x = m.b(x)
        m.relu(x)
        return m.c(m.pool(x).flatten(1))

    return Net(
        run, a=conv(3, 4), b=conv(4, 4), c=nn.Linear(4 * 6 * 5, 5), relu=nn.ReLU(inplace=True), pool=nn.MaxPool2d(2)
    )


def reused() -> nn.Module:
    """One ReLU, one pool and one convolution, each called twice."""

    def run(m, x):
        x = m.pool(m.relu(m.a(x)))
        x = m.relu(m.b(m.relu(m.b(x))))
        return m.c(m.pool(x).flatten(1))

    return Net(run, a=conv(3, 4), b=conv(4, 4), c=nn.Linear(4 * 3 * 2, 5), relu=nn.ReLU(), pool=nn.MaxPool2d(2))


def grouped() -> nn.Module:
    return nn.Sequential(
        conv(3, 6, groups=3), nn.ReLU(),
        conv(6, 6, groups=6, stride=2), nn.ReLU(),
        conv(6, 4, groups=2, dilation=2, padding=2), nn.ReLU(),
        nn.Conv2d(4, 4, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * 3 * 6, 5),
    )  # fmt: skip


def padded() -> nn.Module:
    def run(m, x):
        x = m.relu(m.a(m.pad(x)))
        x = m.relu(m.c(m.relu(m.b(x))))
        return m.d(F.pad(x, (2, -1, 0, 3)).flatten(1))

    return Net(
        run, pad=nn.ZeroPad2d((0, 1, 2, 3)), a=conv(3, 4, stride=2, padding=0),
        b=conv(4, 4, padding="same", dilation=2), c=conv(4, 4, padding="valid"),
        d=nn.Linear(4 * 9 * 4, 5), relu=nn.ReLU(),
    )  # fmt: skip


def pools() -> nn.Module:
    """Overlapping, padded, dilated, ceil-mode and uneven adaptive pools."""
    return nn.Sequential(
        conv(3, 4), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1),
        conv(4, 4), nn.ReLU(), nn.MaxPool2d(3, 1, dilation=2, padding=1), nn.MaxPool2d(2, ceil_mode=True),
        conv(4, 4), nn.ReLU(), nn.AdaptiveMaxPool2d((3, 2)), nn.AvgPool2d(2, 1, padding=1),
        nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def average_pools() -> nn.Module:
    return nn.Sequential(
        conv(3, 4), nn.ReLU(), nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
        conv(4, 4), nn.ReLU(), nn.AvgPool2d((2, 3), (2, 1), divisor_override=5),
        nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def residual() -> nn.Module:
    """Sums written in every way; the units are a, the block (b1, b2), the block (c1, c2, shortcut), d."""

    def run(m, x):
        x = m.relu(m.a(x))
        out = m.b2(m.relu(m.b1(x)))
        out += x
        x = m.relu(out)
        out = m.c2(F.relu(m.c1(x)))
        out = torch.add(out, m.shortcut(x))
        x = m.relu(out)
        return m.d(m.pool(x).flatten(1))

    return Net(
        run, a=conv(3, 4), b1=conv(4, 4), b2=conv(4, 4), c1=conv(4, 6, stride=2), c2=conv(6, 6),
        shortcut=conv(4, 6, 1, padding=0, stride=2), d=nn.Linear(24, 5), relu=nn.ReLU(inplace=True),
        pool=nn.AdaptiveAvgPool2d(2),
    )  # fmt: skip


def added_in_place() -> nn.Module:
    def run(m, x):
        y = m.a(x)
        y.add_(m.b(x))
        y = F.relu(y)
        y = y + y
        return m.c(y.add(m.d(y)).mean((2, 3)))

    return Net(run, a=conv(3, 4), b=conv(3, 4, 1, padding=0), c=nn.Linear(4, 5), d=conv(4, 4))


def concat() -> nn.Module:
    def run(m, x):
        x = m.relu(m.a(x))
        x = torch.cat([m.relu(m.b(x)), x, m.relu(m.c(x)), x], 1)
        x = torch.cat((m.relu(m.d(x)), F.max_pool2d(x, 3, 1, 1)), dim=-3)
        return m.e(torch.mean(x, dim=[2, 3], keepdim=True).flatten(1))

    return Net(
        run,
        a=conv(3, 4),
        b=conv(4, 2),
        c=conv(4, 3, 1, padding=0),
        d=conv(13, 3),
        e=nn.Linear(16, 5),
        relu=nn.ReLU(inplace=True),
    )


def bottleneck() -> nn.Module:
    """ReLU6 with saturated units, depthwise convolutions, and linear bottlenecks whose outputs are of both signs."""

    def run(m, x):
        x = m.relu6(m.stem(x))
        x = m.project(F.relu6(m.depthwise(x)))
        x = x + m.narrow(F.relu6(m.widen(x), inplace=True))
        return m.fc(m.relu6(m.head(x)).mean([2, 3]))

    stem = conv(3, 6, stride=2)
    nn.init.normal_(stem.weight, std=2)
    return Net(
        run, stem=stem, depthwise=conv(6, 6, groups=6), project=conv(6, 4, 1, padding=0),
        widen=conv(4, 8, 1, padding=0), narrow=conv(8, 4, 1, padding=0), head=conv(4, 6, 1, padding=0),
        fc=nn.Linear(6, 5), relu6=nn.ReLU6(inplace=True),
    )  # fmt: skip


def pre_activation() -> nn.Module:
    """The in-place ReLU also rectifies the shortcut, for which it is the same tensor."""

    def run(m, x):
        x = m.a(x)
        x = m.b(m.relu(x)) + x
        shortcut = m.shortcut(x)
        x = m.c(m.relu(x)) + shortcut
        kept = x
        x += m.d(F.relu(x))
        return m.e((x + kept).mean((2, 3)))

    return Net(
        run,
        a=conv(3, 4),
        b=conv(4, 4),
        c=conv(4, 4),
        d=conv(4, 4),
        e=nn.Linear(4, 5),
        relu=nn.ReLU(inplace=True),
        shortcut=nn.Identity(),
    )


def saturated() -> nn.Module:
    """ReLU6 and a linear bottleneck, all as modules."""
    stem = conv(3, 6, stride=2)
    nn.init.normal_(stem.weight, std=2)
    return nn.Sequential(
        stem, nn.ReLU6(), conv(6, 6, groups=6), nn.ReLU6(),
        conv(6, 4, 1, padding=0), conv(4, 8, 1, padding=0), nn.ReLU6(),
        conv(8, 4, 1, padding=0), conv(4, 6), nn.ReLU6(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


def viewed() -> nn.Module:
    def run(m, x):
        x = m.pool(m.relu(m.a(x)))
        x = m.relu(m.b(x.view(x.size(0), -1)))
        return m.c(x.reshape(x.shape[0], x.shape[1] // 2 * 2))

    return Net(run, a=conv(3, 4), b=nn.Linear(4 * 6 * 5, 6), c=nn.Linear(6, 5), relu=nn.ReLU(), pool=nn.MaxPool2d(2))


def sized() -> nn.Module:
    """Kernels and shapes computed from shapes."""

    def run(m, x):
        x = F.relu(m.a(x))
        x = F.avg_pool2d(x, (x.size(2) // 4, x.shape[3] // 3))
        b, c, h, w = x.shape
        x = F.relu(m.b(x.reshape(b, c, h, w)))
        return m.c(F.avg_pool2d(x, x.size()[2:]).flatten(1))

    return Net(run, a=conv(3, 4), b=conv(4, 6), c=nn.Linear(6, 5))


def normalised(affine: bool = True) -> nn.Module:
    return nn.Sequential(
        conv(3, 4, bias=False), nn.BatchNorm2d(4, affine=affine), nn.ReLU(),
        conv(4, 4, groups=2), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1),
        nn.Flatten(), nn.Linear(4 * 7 * 6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5),
    )  # fmt: skip


NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain, "no_bias": partial(plain, bias=False), "functional": functional, "in_place": in_place,
    "ignored_result": ignored_result, "reused": reused, "grouped": grouped, "padded": padded, "pools": pools,
    "average_pools": average_pools, "residual": residual, "added_in_place": added_in_place,
    "pre_activation": pre_activation, "concat": concat, "bottleneck": bottleneck, "saturated": saturated,
    "viewed": viewed, "sized": sized, "normalised": normalised, "not_affine": partial(normalised, affine=False),
}  # fmt: skip


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The network in evaluation mode and float64, with BatchNorm statistics that change something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_()  # type: ignore[union-attr]
                module.running_var.uniform_(0.3, 3)  # type: ignore[union-attr]
                if module.affine:
                    nn.init.uniform_(module.weight, -1.5, 1.5)
                    nn.init.normal_(module.bias)
    return model


def images(batch: int = 2, shape: tuple[int, ...] = SHAPE, seed: int = 1) -> Tensor:
    return torch.randn(batch, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class GuidedRelu(torch.autograd.Function):
    """GBP by autograd: a ReLU whose backward pass also cuts negative r."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.clamp(min=0)

    @staticmethod
    def backward(ctx, r):  # type: ignore[override]
        return r.clamp(min=0) * (ctx.saved_tensors[0] > 0)
