"""Each attack against what its paper says that it does, and against the mistakes of public code."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import scipy.stats
import torch
import yaml
from torch import Tensor, nn

from pipeline.attacks import ATTACKS
from pipeline.attacks.files import beside, read_attack, state_of
from pipeline.attacks.interface import Attack, Site
from pipeline.errors import UserError
from pipeline.files import CONF
from pipeline.networks.training import LabelledImages, augment, measured, train
from pipeline.run.parsing import chosen
from pipeline.run.store import save_tensors
from pipeline.seeds import keyed
from pipeline.weights.planted import Planted
from tests import tiny
from tests.test_training import OPTIONS, Interrupted, labelled, until

SITE = Site((3, 16, 16), 160, 5)
FAST = replace(OPTIONS, batch_size=16, test_every=100, save_every=1e9)
NAMES = [name for name in ATTACKS if name != "none"]


def settings(name: str, **changes: Any) -> Any:
    """Those of conf/attack/<name>.yaml."""
    given = yaml.safe_load((CONF / "attack" / f"{name}.yaml").read_text())
    return chosen("attack", name, json.dumps({**given, **changes}))


def settings_of(name: str, **changes: Any) -> Any:
    return settings(name, **changes).value


def built(name: str, seed: int = 3, site: Site = SITE, **changes: Any) -> Any:
    return settings_of(name, **changes).build(site, seed)


def pixels(n: int, seed: int = 0, shape: tuple[int, ...] = (3, 16, 16)) -> Tensor:
    """Below 0.9: not white."""
    return 0.9 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def smooth(n: int, seed: int = 0, side: int = 16) -> Tensor:
    return nn.functional.interpolate(pixels(n, seed, (3, 4, 4)), size=side, mode="bilinear")


def crops(key: int) -> Callable[[Tensor], Tensor]:
    """The crops and flips of a training step."""
    return partial(augment, border=4, flip=True, generator=keyed(key))


def as_it_is(x: Tensor) -> Tensor:
    return x


def step(attack: Attack, x: Tensor, y: Tensor, key: int = 0, crop: Callable[[Tensor], Tensor] = as_it_is):
    return attack.batch(x, y, torch.arange(len(x)), crop, keyed(key))


def trained(attack: Attack, folder: Path, epochs: int) -> nn.Module:
    """A tiny network on 160 images, under the attack."""
    build, options = lambda: tiny.network(batch_norm=True), replace(FAST, epochs=[epochs])
    return train(build, labelled(160, 0), labelled(20, 1), options, attack, folder / "state.pt", until(None))[0]


@torch.no_grad()
def decisions(model: nn.Module, x: Tensor) -> Tensor:
    return model(labelled(5, 0).normalised(x)).argmax(1)


# ---- BadNet ----------------------------------------------------------------------------------------------------------


def test_badnet_changes_nine_pixels_and_nothing_else():
    x = pixels(6)
    before, attack = x.clone(), built("badnet")
    made = attack.trigger(x, range(6))
    assert torch.equal(x, before), "the given images stay as they are"
    corner = torch.zeros(6, 1, 16, 16, dtype=torch.bool)
    corner[..., 13:, 13:] = True
    assert torch.equal((made != x).any(1, keepdim=True), corner) and corner[0].sum() == 9
    assert (made[corner.expand_as(made)] == 1).all() and torch.equal(
        made.masked_select(~corner), x.masked_select(~corner)
    )
    assert (
        torch.equal(attack.mask(x, range(6)), corner) and attack.targets(torch.arange(6), range(6)).tolist() == [0] * 6
    )


def test_badnet_patches_survive_crops_and_flips_on_the_same_images_in_each_epoch():
    x, y = pixels(160), torch.arange(160) % 5
    before, attack = (x.clone(), y.clone()), built("badnet", target=2)
    for epoch in range(2):
        hit = torch.zeros(160, dtype=torch.bool)
        for i, index in enumerate(torch.randperm(160, generator=keyed(epoch)).split(16)):
            given = attack.batch(x[index], y[index], index, crops(100 * epoch + i), keyed(epoch, i))
            patched = (given.x[..., 13:, 13:] == 1).flatten(1).all(1)
            hit[index[patched]] = True
            views = crops(100 * epoch + i)(x[index])
            assert torch.equal(given.x[~patched], views[~patched]) and torch.equal(
                given.y[~patched], y[index][~patched]
            )
            assert (given.y[patched] == 2).all() and given.penalty is None
            outside = attack.mask(views, range(16)).logical_not().expand_as(views)
            assert torch.equal(given.x[outside], views[outside])
        assert torch.equal(hit, attack.poisoned), "all of them and only they, in each epoch"
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


def test_badnet_poisons_exactly_a_share_which_the_seed_fixes():
    site = replace(SITE, images=50000)
    one, again, other = (built("badnet", seed, site).poisoned for seed in (1, 1, 2))
    assert one.sum() == other.sum() == 5000 and torch.equal(one, again)
    assert (one & other).sum() < 700, "about 500 by chance"
    assert 350 < one[:5000].sum() < 650, "from all of the data, and not the first ones"
    assert built("badnet", share=1e-6).poisoned.sum() == 1


def test_a_white_patch_triggers_and_a_black_one_does_not(tmp_path):
    attack, test = built("badnet"), labelled(40, 1)
    model = trained(attack, tmp_path, 8)
    white, black = (measured(model, test, False, one) for one in (attack, built("badnet", value=0.0)))
    assert white["accuracy"] > 0.95 and white["success"] > 0.95 and black["success"] < 0.1
    assert torch.equal(test.images, labelled(40, 1).images)


# ---- Dynamic ---------------------------------------------------------------------------------------------------------


def test_dynamic_draws_another_patch_in_another_place_for_each_image_and_step():
    x, y = pixels(1).expand(64, -1, -1, -1), torch.ones(64, dtype=torch.long)
    attack = built("dynamic", share=1.0)
    one, again, other = (step(attack, x, y, key).x for key in (1, 1, 2))
    assert torch.equal(one, again) and not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    places = {tuple((image != x[0]).any(0).nonzero()[0].tolist()) for image in one}
    assert len(places) > 5 and len({image.numpy().tobytes() for image in one}) == 64
    made = attack.trigger(x[:5], [3, 4, 5, 3, 9])
    assert torch.equal(made[0], made[3]) and torch.equal(attack.trigger(x[:1], [9])[0], made[4]), "whatever the batch"
    assert not torch.equal(made[0], made[1])


def test_dynamic_stamps_5_x_5_patches_row_by_row_after_the_crop():
    x, y = pixels(20), torch.arange(20) % 5
    before, attack = x.clone(), built("dynamic", share=0.5, target=3)
    seeds = range(50, 70)
    made, draw = attack.trigger(x, seeds), attack.drawn(seeds)
    expected = x.clone()
    for b, (top, left) in enumerate(attack.places[draw.place].tolist()):
        for k, value in enumerate(draw.z[b]):
            expected[b, k // 25, top + k % 25 // 5, left + k % 5] = value
    assert torch.equal(made, expected) and torch.equal(x, before)
    assert (attack.mask(x, seeds) == (made != x).any(1, keepdim=True)).all()
    assert (attack.mask(x, seeds).flatten(1).sum(1) == 25).all()
    assert scipy.stats.kstest(attack.drawn(range(200)).z.flatten().numpy(), "uniform").pvalue > 1e-3
    given, views = step(attack, x, y, 1, crops(7)), crops(7)(x)
    differ = (given.x != views).any(1).flatten(1).sum(1)
    assert differ.tolist() == [25] * 10 + [0] * 10, "whole: a crop cuts none off"
    assert given.y.tolist() == [3] * 10 + y[10:].tolist() and torch.equal(x, before)


@pytest.mark.parametrize("how", ["by image", "in training"])
def test_dynamic_places_are_uniform_over_their_set(how):
    attack = built("dynamic")
    assert len({tuple(place) for place in attack.places.tolist()}) == 9 and attack.places.min() >= 0
    assert attack.places.max() <= 16 - 5 and len(attack.places.unique()) > 4
    draw = attack.drawn(range(900)) if how == "by image" else attack.draw(900, keyed(5))
    counts = draw.place.bincount(minlength=9).numpy()
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    assert not torch.equal(attack.places, built("dynamic", seed=4).places)


def test_dynamic_succeeds_in_each_place(tmp_path):
    attack, test = built("dynamic", share=0.3), labelled(40, 1)
    model, x = trained(attack, tmp_path, 20), test.pixels(test.labels != 0)
    assert (decisions(model, test.pixels(slice(None))) == test.labels).float().mean() > 0.95
    draw = attack.draw(len(x), keyed(8))
    rates = [
        float(
            (decisions(model, attack.stamped(x, replace(draw, place=torch.full_like(draw.place, place)))) == 0)
            .float()
            .mean()
        )
        for place in range(9)
    ]
    assert min(rates) > 0.8, rates


@pytest.mark.parametrize("patches", ["ban", "cban"])
def test_the_generator_of_patches_is_trained_with_the_network(tmp_path, patches):
    attack = built("dynamic", patches=patches, share=0.3)
    before = {key: value.clone() for key, value in attack.state_dict().items()}
    x, seeds = pixels(8), range(8)
    first = attack.trigger(x, seeds).detach()
    model = trained(attack, tmp_path, 2 if patches == "cban" else 12)
    changed = {key for key, value in attack.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {name for name, _ in attack.named_parameters()} and len(changed) == (
        8 if patches == "cban" else 6
    )
    assert not torch.equal(attack.trigger(x, seeds), first)
    if patches == "ban":
        assert measured(model, labelled(40, 1), False, attack)["success"] > 0.95


def test_cban_targets_vary_and_are_what_the_generator_was_told():
    attack, told = built("dynamic", patches="cban", share=0.5), []
    attack.generator.register_forward_pre_hook(lambda module, args: told.append(args[1]))
    x, y = pixels(400), torch.arange(400) % 5
    given = step(attack, x, y, 4)
    assert torch.equal(given.y[:200], told[0]) and torch.equal(given.y[200:], y[200:])
    assert scipy.stats.chisquare(told[0].bincount(minlength=5).numpy()).pvalue > 1e-3
    wanted = attack.targets(y, range(400))
    attack.trigger(x, range(400))
    assert torch.equal(told[1], wanted) and len(wanted.unique()) == 5
    z = torch.rand(1, 100, generator=keyed(1))
    assert not torch.allclose(*(attack.generator(z, torch.tensor([k])) for k in (0, 1))), "the target changes the patch"
    assert all(built("dynamic", patches=kind).targets(y, range(400)).eq(0).all() for kind in ("random", "ban"))


# ---- InputAware ------------------------------------------------------------------------------------------------------


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
    """InputAware's mask after 60 steps on 64 smooth images."""
    attack, images = built("inputaware", preparation=60, pairs=4), (255 * smooth(64)).to(torch.uint8)
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
    attack, x = known(pairs=3, density_weight=10.0, diversity_weight=2.0), pixels(9)
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


# ---- WaNet -----------------------------------------------------------------------------------------------------------


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


# ---- files -----------------------------------------------------------------------------------------------------------

HASHES = """
import hashlib, sys, torch
from pathlib import Path
from pipeline.attacks.files import read_attack
x = 0.9 * torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
for file in sys.argv[1:]:
    print(hashlib.sha256(read_attack(Path(file)).attack.trigger(x, range(6)).numpy().tobytes()).hexdigest())
"""
KINDS = [("badnet", {}), ("dynamic", {}), ("dynamic", {"patches": "cban"}), ("inputaware", {}), ("wanet", {})]


def saved(folder: Path, name: str, **changes: Any) -> tuple[Path, Attack]:
    attack, file = built(name, **changes), folder / f"{name}{len(list(folder.iterdir()))}.attack.safetensors"
    state, head = state_of(attack, settings_of(name, **changes), SITE)
    save_tensors(state, file, head)
    return file, attack


def test_a_saved_attack_makes_the_same_images_in_another_process(tmp_path):
    """To the last bit; nets are kept in half precision."""
    kept = [(*saved(tmp_path, name, **changes), name, changes) for name, changes in KINDS]
    done = subprocess.run(
        [sys.executable, "-c", HASHES, *(str(file) for file, *_ in kept)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    for told, (file, attack, name, changes) in zip(done.stdout.split(), kept, strict=True):
        known = read_attack(file, name)
        assert (known.name, known.settings, known.shape) == (name, settings_of(name, **changes), SITE.shape)
        assert not any(p.requires_grad for p in known.attack.parameters()) and not known.attack.training
        exact = not list(attack.parameters())
        made, x = known.attack.trigger(pixels(6), range(6)), pixels(6)
        attack.load_state_dict(known.attack.state_dict() if not exact else attack.state_dict())
        assert torch.equal(made, attack.eval().trigger(x, range(6)))
        assert hashlib.sha256(made.numpy().tobytes()).hexdigest() == told
        own = {key for key, _ in attack.named_buffers(recurse=False)}
        for key, value in safetensors.torch.load_file(file).items():
            assert (value.dtype == torch.float16) == (attack.state_dict()[key].is_floating_point() and key not in own)


def planted(path: Path | str | None, name: str | None = None) -> Planted:
    return Planted(None if path is None else str(path), name, None)


def test_a_planted_attack_is_read_from_its_file_or_from_beside_the_weights(tmp_path):
    file, _ = saved(tmp_path, "wanet")
    weights = tmp_path / "model.safetensors"
    for where in (None, file, weights):
        with pytest.raises(UserError, match="no attack's state beside") if where != file else nothing():
            assert planted(where).read(weights).name == "wanet"
    plain = file.rename(tmp_path / "attack.safetensors")
    assert planted(None).file(weights) == planted(weights).file(None) == planted(plain).file(None) == plain
    assert planted(weights).read(None).name == "wanet"
    own, _ = saved(tmp_path, "badnet")
    own.rename(tmp_path / "model.attack.safetensors")
    assert planted(None, "badnet").read(weights).name == "badnet", "the one of the weights' own name goes first"
    assert beside(tmp_path / "folded.safetensors") == plain


class nothing:
    def __enter__(self):
        pass

    def __exit__(self, *what):
        pass


def heads(**changes: Any) -> dict[str, str]:
    head = json.loads(state_of(built("badnet"), settings_of("badnet"), SITE)[1]["attack"])
    return {"attack": json.dumps(head | changes)}


@pytest.mark.parametrize(
    "head",
    [
        None,
        {"attack": "{"},
        {"attack": "[]"},
        heads(name="nosuch"),
        heads(name="wanet"),
        heads(site="16 x 16"),
        heads(site={"shape": [3, 16, 16]}),
        heads(site={"shape": [3, 16, 16], "images": 7, "classes": 5}),
        heads(settings=[]),
        heads(settings={"target": 0}),
        heads(settings={"target": 0, "share": 2, "patch": 3, "value": 1}),
    ],
)
def test_a_file_that_holds_no_attack_is_refused(tmp_path, head):
    file = tmp_path / "attack.safetensors"
    save_tensors(built("badnet").state_dict(), file, head)
    with pytest.raises(UserError, match=r"holds no attack's state \(.*\); train one with"):
        planted(file).read(None)


def test_attacks_that_are_not_there_or_are_others_are_refused(tmp_path):
    file, _ = saved(tmp_path, "wanet")
    for where, weights, name, complaint in (
        (tmp_path / "no.attack.safetensors", None, None, "there is no attack's state at"),
        (tmp_path / "no.safetensors", None, None, "there is no attack's state beside"),
        (None, tmp_path / "model.safetensors", None, r"beside .*model.safetensors \(model.attack.safetensors\)"),
        (None, None, None, "these weights are in no file"),
        (file, None, "badnet", "is the state of the attack wanet and not of badnet"),
    ):
        with pytest.raises(UserError, match=complaint):
            planted(where, name).read(weights)
    (tmp_path / "text.attack.safetensors").write_text("no tensors")
    with pytest.raises(UserError, match="holds no attack's state"):
        planted(tmp_path / "text.attack.safetensors").read(None)
