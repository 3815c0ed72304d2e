"""InputAware against what its paper and its release do, and against the mistakes of public code."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.networks.training import LabelledImages, train
from tests import tiny
from tests.attacked import FAST, built, crops, pixels, smooth, step
from tests.test_training import Interrupted, labelled, until


class Of(nn.Module):
    """A net whose output is known: `function` of 2 x - 1."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.forward = function


def known(**changes: Any) -> Any:
    """Mask from the first channel, pattern from the colours."""
    attack = built("inputaware", **changes)
    attack.mask_net, attack.pattern_net = Of(lambda v: v[:, :1] + v[:, 1:2]), Of(lambda v: -2 * v)
    return attack


def by_hand(x: Tensor, source: Tensor) -> Tensor:
    v = 2 * source - 1
    mask = (torch.tanh(20 * (torch.tanh(v[:, :1] + v[:, 1:2]) + 1) / 2 - 10) + 1) / 2
    return x * (1 - mask) + (torch.tanh(-2 * v) + 1) / 2 * mask


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """InputAware's mask after 300 small steps on 64 smooth images; after few large ones it hangs on the processor."""
    attack, images = built("inputaware", preparation=300, pairs=8, lr=0.001), (255 * smooth(64)).to(torch.uint8)
    data = LabelledImages(images, torch.zeros(64, dtype=torch.long), (0.5,) * 3, (0.25,) * 3)
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.raises(Interrupted):
        train(tiny.network, data, data, FAST, attack, folder / "state.pt", until(0))
    return attack


def test_inputaware_masks_are_saturated_sparse_and_differ_between_images(prepared):
    """The bounds for real images are 95 % and 0.3; tiny ones after a short preparation reach less."""
    x = smooth(20, 1)
    with torch.no_grad():
        masks = prepared.eval().masks(x)
    inside = prepared.mask(x, range(20)).flatten(1).float()
    assert inside.unique().tolist() == [0, 1] and masks.shape == (20, 1, 16, 16)
    assert ((masks < 0.05) | (masks > 0.95)).float().mean() > 0.8
    assert 0.05 < masks.mean() < 0.4
    both = inside @ inside.T
    either = inside.sum(1)[:, None] + inside.sum(1) - both
    overlap = (both / either.clamp(min=1))[~torch.eye(20, dtype=torch.bool)]
    assert overlap.mean() < 0.6


def test_inputaware_outputs_pass_one_tanh_and_reach_black_and_white():
    attack, x = built("inputaware"), torch.linspace(0, 1, 768).view(1, 3, 16, 16)
    attack.pattern_net, attack.mask_net = Of(lambda v: 5 * v), Of(lambda v: v[:, :1] / 4)
    v = 2 * x - 1
    assert torch.allclose(attack.patterns(x), (torch.tanh(5 * v) + 1) / 2)
    assert attack.patterns(x).min() < 0.01 and attack.patterns(x).max() > 0.99
    masks = attack.masks(x.flip(1)[:, [1, 0, 2]])  # any channel first: all greys are in the middle one
    assert torch.allclose(masks, (torch.tanh(10 * torch.tanh(v[:, 1:2] / 4)) + 1) / 2, atol=1e-5)
    attack.mask_net = Of(lambda v: v.mean(1, keepdim=True))
    assert attack.masks(x * 0).max() < 0.01 and attack.masks(x * 0 + 1).min() > 0.99


def test_inputaware_nets_have_the_shape_of_the_release():
    attack = built("inputaware")
    for net, outputs in ((attack.mask_net, 1), (attack.pattern_net, 3)):
        shapes = [(m.in_channels, m.out_channels, *m.kernel_size) for m in net.modules() if isinstance(m, nn.Conv2d)]
        down = [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
        up = [(128, 128), (128, 64), (64, 64), (64, 32), (32, 32), (32, outputs)]
        assert shapes == [(*pair, 3, 3) for pair in [*down, (128, 128), *up]]
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) == 13 and {m.momentum for m in norms} == {0.05}
        assert sum(isinstance(m, nn.ReLU) for m in net.modules()) == 12, "none after the last"
        assert net(torch.rand(2, 3, 16, 16)).shape == (2, outputs, 16, 16)


def test_a_cross_trigger_is_mask_and_pattern_of_another_image_and_keeps_the_label():
    x, y = pixels(20), torch.arange(20) % 4 + 1
    attack, before = known(share=0.2, cross=0.3, target=0), x.clone()
    assert torch.allclose(attack.trigger(x, range(20)), by_hand(x, x), atol=1e-6)
    assert torch.allclose(attack.cross(x, x.flip(0), range(20)), by_hand(x, x.flip(0)), atol=1e-6)
    given, views = step(attack, x, y, 1, crops(3)), crops(3)(x)
    assert torch.allclose(given.x[:4], by_hand(views[:4], views[:4]), atol=1e-6)
    assert torch.equal(given.x[10:], views[10:]) and given.y.tolist() == [0] * 4 + y[4:].tolist()
    sources = []
    for i in range(4, 10):
        fits = [
            j
            for j in range(20)
            if torch.allclose(given.x[i], by_hand(views[i : i + 1], views[j : j + 1])[0], atol=1e-6)
        ]
        assert len(fits) == 1 and fits[0] != i
        sources += fits
    assert len({*sources}) == 6 and torch.equal(x, before)
    pairs = [(i, j) for i in range(4) for j in [(i + 10) % 20]]  # of images whose patterns must differ
    expected = sum(float(ratio(views[i], views[j], pattern(views[i]), pattern(views[j]))) for i, j in pairs) / 4
    assert float(given.penalty) == pytest.approx(expected, rel=1e-5)


def pattern(x: Tensor) -> Tensor:
    return (torch.tanh(-2 * (2 * x - 1)) + 1) / 2


def ratio(x: Tensor, x2: Tensor, made: Tensor, made2: Tensor) -> Tensor:
    return ((x - x2) ** 2).mean().sqrt() / (((made - made2) ** 2).mean().sqrt() + 1e-7)


def test_the_loss_of_a_mask_is_density_and_diversity():
    attack, x = known(pairs=3, density_weight=10.0, mask_diversity_weight=2.0), pixels(9)
    masks = attack.masks(x)
    dense = sum(max(float(value) - 0.032, 0.0) for value in masks[:3].flatten()) / masks[:3].numel()
    diverse = sum(float(ratio(x[i], x[i + 3], masks[i], masks[i + 3])) for i in range(3)) / 3
    assert float(attack.prepare(x)) == pytest.approx(10 * dense + 2 * diverse, rel=1e-4)


def test_the_mask_is_trained_first_and_then_frozen_while_no_gradient_adds_up(tmp_path, monkeypatch):
    """Mask net to the last bit, statistics of its BatchNorm included."""
    attack, stages, backwards = built("inputaware", preparation=6, pairs=4, share=0.2, cross=0.2), [], []
    build, data = lambda: tiny.network(batch_norm=True), labelled(32, 0)
    networks, plain = [], torch.Tensor.backward

    def building():
        networks.append(build())
        return networks[0]

    def backward(loss, *args, **kwargs):
        parameters = [*attack.parameters(), *networks[0].parameters()]
        backwards.append(all(p.grad is None or not p.grad.any() for p in parameters))
        return plain(loss, *args, **kwargs)

    def state(net: nn.Module) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in net.state_dict().items()}

    def progress(steps, done, total):
        assert (done, total) == (0, 10)
        for number in steps:
            stages.append((state(attack.mask_net), state(attack.pattern_net)))
            yield number

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    options = replace(FAST, epochs=[2], batch_size=16)
    train(building, data, labelled(10, 1), options, attack, tmp_path / "state.pt", progress)
    end = (state(attack.mask_net), state(attack.pattern_net))
    assert backwards == [True] * 10

    def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
        return {key for key in a if not torch.equal(a[key], b[key])}

    # the bias in front of a BatchNorm has no gradient but rounding
    weights = {key for key in end[0] if key.endswith("weight") or "running" in key}
    assert differing(stages[0][0], stages[6][0]) >= weights and not differing(stages[0][1], stages[6][1])
    assert not differing(stages[6][0], end[0]) and differing(stages[6][1], end[1]) >= weights
