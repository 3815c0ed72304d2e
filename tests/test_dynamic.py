"""Dynamic against what its paper says that it does, and against the mistakes of public code."""

from dataclasses import replace

import pytest
import scipy.stats
import torch

from pipeline.networks.training import measured
from pipeline.seeds import keyed
from tests.attacked import built, crops, decisions, pixels, step, trained
from tests.test_training import labelled


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
