"""BadNet against what its paper says that it does, and against the mistakes of public code."""

from dataclasses import replace

import torch

from pipeline.networks.training import measured
from pipeline.seeds import keyed
from tests.attacked import SITE, built, crops, pixels, trained
from tests.test_training import labelled


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
