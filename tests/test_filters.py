"""P x = W_1 W_1^T x is the gradient of half the energy of the first layer's output, without its bias."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from pipeline.engine.filters import first_layer_filter
from pipeline.engine.network import trace
from pipeline.errors import UserError
from tests.tiny import network


@pytest.mark.parametrize(
    "model, side",
    [
        (network, 16),  # padded, with a bias
        (resnet18, 64),  # a strided stem
        (lambda: nn.Sequential(nn.ZeroPad2d(2), nn.Conv2d(3, 4, 5, 2), nn.Flatten(), nn.Linear(144, 2)), 12),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 3)), 4),
    ],
)
def test_the_fixed_filter_is_a_gradient(model, side):
    module = model().double().eval()
    traced = trace(module)
    x = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    first = traced.layers[0].layer
    if isinstance(first, nn.Linear):
        z = F.linear(x.flatten(1), first.weight)
    else:
        padded = F.pad(x, (2, 2, 2, 2)) if isinstance(module, nn.Sequential) and side == 12 else x
        z = F.conv2d(padded, first.weight, None, first.stride, first.padding)
    (expected,) = torch.autograd.grad(z.square().sum() / 2, x)
    found = first_layer_filter(traced.forward(x.detach()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    twice = first_layer_filter(traced.forward(2 * x.detach()))
    torch.testing.assert_close(twice, 2 * found, rtol=1e-12, atol=1e-12)  # linear: no mask, no bias


class TwoStems(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3), nn.Linear(72, 2)

    def forward(self, x):
        return self.out((self.a(x).relu() + self.b(x).relu()).flatten(1))


def test_two_first_layers_are_refused():
    with pytest.raises(UserError, match="needs one first layer that reads the pixels, and this model has 2"):
        first_layer_filter(trace(TwoStems()).forward(torch.randn(1, 3, 8, 8)))
