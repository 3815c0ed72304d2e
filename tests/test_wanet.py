"""WaNet against what its paper and its release do, and against the mistakes of public code."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline.networks.training import LabelledImages, measured, train
from tests.attacked import FAST, SITE, built, crops, pixels, smooth, step
from tests.test_training import labelled, until


def slowly_warped(image: Tensor, warp: Tensor) -> Tensor:
    """Bilinear sampling pixel by pixel; warp (H, W, 2): column and row, -1 and 1 are the centres of the border's."""
    h, w = image.shape[1:]
    out = torch.zeros_like(image)
    for i in range(h):
        for j in range(w):
            row, column = ((float(warp[i, j, 1]) + 1) / 2 * (h - 1), (float(warp[i, j, 0]) + 1) / 2 * (w - 1))
            for r in range(h):
                for k in range(w):
                    out[:, i, j] += image[:, r, k] * max(0, 1 - abs(row - r)) * max(0, 1 - abs(column - k))
    return out


def test_no_strength_is_no_warp():
    x = pixels(2, shape=(3, 12, 16))
    attack = built("wanet", site=replace(SITE, shape=(3, 12, 16)), strength=0.0)
    assert (attack.trigger(x, range(2)) - x).abs().max() < 1e-5


def test_a_warp_takes_its_pixels_where_the_grid_says():
    """Rows are rows and columns columns, also of images that are not square."""
    x = pixels(1, shape=(3, 8, 16))
    attack = built("wanet", site=replace(SITE, shape=(3, 8, 16)), strength=1.0)
    rows, columns = torch.linspace(-1, 1, 8)[:, None], torch.linspace(-1, 1, 16)[None]
    assert (attack.warp[..., 0] - columns).abs().max() < 3 / 8 and (attack.warp[..., 1] - rows).abs().max() < 3 / 8
    assert (attack.trigger(x, [0])[0] - slowly_warped(x[0], attack.warp)).abs().max() < 1e-5
    spot = torch.zeros(1, 3, 8, 16)
    spot[..., 3, 10] = 1
    top, left = divmod(int(attack.trigger(spot, [0])[0, 0].argmax()), 16)
    assert abs(top - 3) <= 1 and abs(left - 10) <= 2


def test_warps_and_noise_stay_inside_and_commute_with_normalisation():
    """Nothing is sampled from outside the image, where there would be zeros."""
    x, y, site = pixels(10, shape=(3, 32, 32)), torch.ones(10, dtype=torch.long), replace(SITE, shape=(3, 32, 32))
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
    for seed in range(5):
        attack = built("wanet", seed, site, share=0.5, noise=0.5, strength=4.0)
        assert attack.warp.abs().max() <= 1
        one, other = attack.trigger((x - mean) / std, range(10)), (attack.trigger(x, range(10)) - mean) / std
        assert (one - other).abs().max() < 1e-5
        white = torch.ones_like(x)
        for made in (attack.trigger(white, range(10)), attack.cross(white, white, range(10)), step(attack, white, y).x):
            assert (made - 1).abs().max() < 1e-5


def test_a_warp_moves_pixels_by_a_third_of_their_width():
    site, moved = replace(SITE, shape=(3, 32, 32)), []
    identity = torch.stack(torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="xy"), -1)
    warps = [built("wanet", seed, site).warp for seed in range(30)]
    for warp in warps:
        field = (warp - identity) * 31 / 2
        moved.append(float(field.square().sum(-1).sqrt().mean()))
        inner = field[1:-1, 1:-1]  # the border is clamped
        assert max(float(inner.diff(dim=dim).abs().max()) for dim in (0, 1)) < 0.2, "smooth: neighbours go together"
    assert 0.2 < sum(moved) / 30 < 0.4 and min(moved) > 0.15 and max(moved) < 0.45
    assert not torch.equal(warps[0], warps[1]) and torch.equal(warps[0], built("wanet", 0, site).warp)


@pytest.mark.parametrize("along", [2, 3])
def test_noise_mode_adds_up_to_a_pixel_side_of_noise(along):
    """U(-1, 1) / 16 where the image is 2 wide: at most 15 / 32 pixels, of which a ramp tells."""
    attack, shape = built("wanet", strength=0.0), [1, 1, 1, 1]
    shape[along] = 16
    ramp = torch.arange(16.0).view(shape).expand(4, 3, 16, 16)
    for made in (attack.cross(ramp, ramp, range(4)), step(attack, ramp, torch.ones(4), 1).x[1:2]):
        moved = (made - ramp[: len(made)]).narrow(along, 1, 14)
        assert 0.42 < moved.abs().max() < 15 / 32 + 1e-4
        assert abs(moved.mean()) < 0.05 and float(moved.std()) == pytest.approx(15 / 32 / 3**0.5, rel=0.1)


def test_wanet_warps_before_the_crop_and_keeps_labels_in_noise_mode():
    x, y = smooth(20), torch.arange(20) % 4 + 1
    before, attack = x.clone(), built("wanet", share=0.2, noise=0.4)
    given = step(attack, x, y, 1, crops(3))
    assert torch.equal(given.x[:4], crops(3)(attack.trigger(x, range(20)))[:4]), "else a crop hides it"
    assert torch.equal(given.x[12:], crops(3)(x)[12:]) and given.y.tolist() == [0] * 4 + y[4:].tolist()
    assert torch.equal(x, before)
    flat, again, other = (step(attack, x, y, key).x[4:12] for key in (1, 1, 2))
    assert torch.equal(flat, again) and not torch.equal(flat, other)
    trigger = (attack.trigger(x, range(20)) - x)[4:12].abs().mean()
    noise = (flat - x[4:12]).abs().mean()
    assert 1 < noise / trigger < 3, "noise mode is the warp and more"
    cross = attack.cross(x[:3], x[:3], [5, 6, 5])
    same = attack.cross(x[:1].expand(2, -1, -1, -1), x[:2], [5, 6])
    assert torch.equal(cross[0], same[0]) and not torch.equal(*same)


def textured(n: int, seed: int) -> LabelledImages:
    """Five classes of colours, on which waves of one period lie with any phase: a warp bends them."""
    labels, phase = (
        torch.arange(n) % 5,
        2 * math.pi * torch.rand(2, n, 1, generator=torch.Generator().manual_seed(seed)),
    )
    waves = torch.sin(torch.arange(16) * math.pi / 2.5 + phase)
    colours = labelled(5, 0).images.float().mean((2, 3))[labels, :, None, None] / 255
    made = 0.2 + 0.6 * colours + 0.2 * waves[0, :, None, :, None] * waves[1, :, None, None, :]
    return LabelledImages((255 * made.clamp(0, 1)).to(torch.uint8), labels, (0.5,) * 3, (0.25,) * 3)


def two_convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 64, 5),
    )  # fmt: skip


def test_a_network_knows_its_own_warp_and_no_other(tmp_path):
    """Strength 1, on images of 16 pixels: also a warp with noise on it is no trigger."""
    attack, test = built("wanet", share=0.3, noise=0.3, strength=1.0), textured(50, 1)
    options = replace(FAST, epochs=[25], crop=0, flip=False)
    model, rows = train(two_convolutions, textured(250, 0), test, options, attack, tmp_path / "state.pt", until(None))
    assert min(rows[-1][name] for name in ("accuracy", "success", "accuracy_cross")) > 0.9, rows[-1]
    others = [measured(model, test, False, built("wanet", seed, strength=1.0))["success"] for seed in range(20, 26)]
    assert max(others) < 0.15, others
