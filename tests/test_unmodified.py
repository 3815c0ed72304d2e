"""The network without what a law changed: what is kept of it is what it makes anew."""

import gc
import weakref

import pandas as pd
import pytest
import torch

from pipeline.engine.network import Network, trace
from pipeline.engine.rules import GRAD, DeconvNet, Gbp, RectGrad
from pipeline.experiments.external import map_of
from pipeline.experiments.targets import Target
from pipeline.experiments.unmodified import OriginalCache
from tests import tiny


@pytest.fixture
def forwards(monkeypatch) -> list[Network]:
    """The networks that were run."""
    plain, ran = Network.forward, []

    def forward(self, x):
        ran.append(self)
        return plain(self, x)

    monkeypatch.setattr(Network, "forward", forward)
    return ran


def test_what_comes_again_is_computed_once(forwards):
    network = trace(tiny.network())
    x, y = torch.randn(2, 2, 3, 16, 16)
    first, second = torch.tensor([0, 1]), torch.tensor([1, 1])
    target = Target("original", lambda: network)
    asked = [(x, Gbp(), first), (x, GRAD, first), (x, DeconvNet(), first), (x, Gbp(), second), (y, Gbp(), first)]
    expected = [map_of(network.forward(images), rule, classes) for images, rule, classes in asked]
    made = [target.unmodified(images).map(rule, classes) for images, rule, classes in asked]
    forwards.clear()
    again = [target.unmodified(images.clone()).map(rule, classes) for images, rule, classes in asked]
    assert not forwards
    for one, other, plain in zip(made, again, expected, strict=True):
        assert torch.equal(one, plain) and torch.equal(other, plain)
    assert not any(torch.equal(a, b) for i, a in enumerate(made) for b in made[:i])
    assert torch.equal(target.unmodified(x).logits, network.forward(x).logits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_of_any_precision(dtype):
    network, x = trace(tiny.network().to(dtype)), torch.randn(2, 3, 16, 16).to(dtype)
    target = Target("original", lambda: network)
    assert torch.equal(target.unmodified(x).logits, network.forward(x).logits)
    assert torch.equal(target.unmodified(-x).logits, network.forward(-x).logits)


def test_another_network_takes_its_place():
    networks, x = [trace(tiny.network()) for _ in range(2)], torch.randn(2, 3, 16, 16)
    cache = OriginalCache()
    for network in [*networks, networks[0]]:
        found = Target("original", lambda network=network: network, cache).unmodified(x).logits
        assert torch.equal(found, network.forward(x).logits)
    gone = weakref.ref(networks[1])
    del networks, network
    gc.collect()
    assert gone() is None, "what is kept does not keep the network"


def test_what_has_no_room_is_computed_again(forwards):
    network, x = trace(tiny.network()), torch.randn(2, 3, 16, 16)
    target = Target("original", lambda: network, OriginalCache(room=2 * 3 * 16 * 16 * 4))
    classes = torch.tensor([0, 1])
    maps = [target.unmodified(x).map(rule, classes) for rule in (Gbp(), RectGrad(0.9)) * 2]
    assert len(forwards) == 3 and torch.equal(maps[0], maps[2]) and torch.equal(maps[1], maps[3])


@pytest.mark.parametrize(
    "args",
    [
        ["experiment=likeness", "likeness.against=[original]", "rule=gbp"],
        ["experiment=attribute", "attribute.original=true", "rule=activation"],
        ["experiment=filter", "filter.original=true", "filter.size=3", "rule=lrp"],
    ],
    ids=lambda args: args[0],
)
def test_tables_do_not_hang_on_what_was_kept(cell, checkpoint, tmp_path, forwards, args):
    """Draws one after the other, beside one alone."""
    args = [*args, "weights=gaussian", f"weights.base={checkpoint}", "weights.depth=1", "target=original"]
    several = [
        path for path in cell("-m", *args, "seed=1,2", output=tmp_path / "several").made if path.suffix == ".parquet"
    ]
    ran = len(forwards)
    alone = cell(*args, "seed=2", output=tmp_path / "alone").made[-1]
    pd.testing.assert_frame_equal(pd.read_parquet(several[-1]), pd.read_parquet(alone), check_exact=True)
    assert ran < 2 * (len(forwards) - ran), "the second draw used what the first left"
