"""The balanced gauge: the same function and the same maps, other norms."""

import pytest
import torch

from pipeline.api import attribute, rule
from pipeline.engine.lrp import Gamma
from pipeline.engine.network import Network, trace
from pipeline.errors import UserError
from pipeline.weights.gauge import balance, balanced
from tests.models import NETS, images, plain, seeded

RULES = {
    name: rule(name) for name in ("grad", "gbp", "rectgrad", "lrp", "dtd", "lrp_gamma", "excitation_bp", "deconvnet")
}


def traced(name: str) -> Network:
    return trace(seeded(NETS[name]), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def norms(network: Network) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of `plain`, by hand: each hidden channel's incoming and outgoing norm."""
    a, b, c, d = (op.weight for op in network.layers)
    after = c.view(7, 8, -1)  # a feature map of 3 x 2, flattened
    return [
        (a.flatten(1).norm(dim=1), b.transpose(0, 1).flatten(1).norm(dim=1)),
        (b.flatten(1).norm(dim=1), after.transpose(0, 1).flatten(1).norm(dim=1)),
        (c.norm(dim=1), d.norm(dim=0)),
    ]


def largest(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("name", NETS)
def test_function_and_maps_stay(name):
    before, after, x = traced(name), traced(name), images(3)
    balance(after)
    moved = max(largest(a.weight, b.weight) for a, b in zip(after.layers, before.layers, strict=True))
    assert moved > 0.01
    assert largest(after.forward(x).logits, before.forward(x).logits) < 1e-12
    for bottom in (False, True):
        for one in RULES.values():
            found, wanted = (attribute(network, x, one, bottom=bottom) for network in (after, before))
            assert largest(found, wanted) < (1e-10 if isinstance(one, Gamma) else 1e-12), (
                one
            )  # Gamma divides by about 0


def test_incoming_norms_are_outgoing_ones():
    network = traced("plain")
    assert any(largest(i, o) > 0.1 for i, o in norms(network))
    balance(network)
    assert all(largest(i, o) < 1e-10 for i, o in norms(network))


def test_any_rescaled_network_has_the_same_gauge():
    """Neurons scaled at will, and their outgoing weights back."""
    one, model = traced("plain"), seeded(NETS["plain"])
    factors = torch.tensor([0.01, 100, 3, 1, 0.2, 7], dtype=torch.float64)
    with torch.no_grad():
        first, second = model[0], model[3]
        first.weight.mul_(factors.view(-1, 1, 1, 1))
        first.bias.mul_(factors)
        second.weight.div_(factors.view(1, -1, 1, 1))
    for (w, b), (v, c) in zip(balanced(one), balanced(trace(model)), strict=True):
        assert largest(w, v) < 1e-10 and b is not None and c is not None and largest(b, c) < 1e-10


def test_dead_channels_stay_and_a_relu6_keeps_its_scale():
    model = seeded(lambda: plain(bias=False))
    with torch.no_grad():
        model[0].weight[2] = 0  # nothing comes in
        model[3].weight[:, 4] = 0  # nothing goes out
    network = trace(model)
    found = balanced(network)[0][0]
    assert (found[2] == 0).all() and torch.equal(found[4], network.layers[0].weight[4])
    capped = traced("saturated")
    followed = [op.inputs[0] for op in capped.ops if op.kind == "relu6"]
    assert followed
    for op, (_, bias) in zip(capped.layers, balanced(capped), strict=True):
        if op.output in followed:
            assert torch.equal(bias, op.layer.bias)  # type: ignore[arg-type]


class Mean(torch.nn.Module):
    def __init__(self, *dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self.dim)


@pytest.mark.parametrize(("dim", "width"), [((1,), 36), ((-3, 3), 6)])
def test_a_mean_over_channels_has_no_gauge(dim: tuple[int, ...], width: int):
    """Refused, and not balanced wrongly; a mean over pixels is."""

    def network(*dim: int, width: int) -> Network:
        nn = torch.nn
        return trace(
            seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Mean(*dim), nn.Flatten(), nn.Linear(width, 4)))
        )

    with pytest.raises(UserError, match=r"no balanced gauge across a mean over channels.*weight_stats.gauge=stored"):
        balance(network(*dim, width=width))
    assert len(balanced(network(2, 3, width=8))) == 2


def test_the_network_is_left_as_it_is():
    network = traced("residual")
    before = [op.weight.clone() for op in network.layers]
    balanced(network)
    assert all(torch.equal(op.weight, w) for op, w in zip(network.layers, before, strict=True))
