import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline.api import rule
from pipeline.engine.interface import Rule
from pipeline.engine.lrp import AlphaBeta
from pipeline.engine.network import Network, trace
from pipeline.engine.walk import attribute, one_hot, walk
from pipeline.errors import UserError
from pipeline.experiments import EXPERIMENTS
from pipeline.experiments.extremes import COLUMNS, Options, SeedWith, run, select
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch
from pipeline.measures.maps import alignment
from pipeline.seeds import keyed, name_seed
from tests.models import NETS, images, seeded

NAMES = ("a.png", "b.png")
RULES = ("grad", "gbp", "rectgrad", "lrp")
PARTS = ["all", "max", "min", "random", "constant_max", "constant_min", "noise", "other"]
DECISION = Target("decision", lambda: pytest.fail("not asked for"))


def network(name: str) -> Network:
    return trace(seeded(NETS[name]))


def table(
    net: Network,
    rules: list[Rule],
    share: float = 0.1,
    seed_with: SeedWith = SeedWith.activation,
    x: torch.Tensor | None = None,
) -> list[pd.DataFrame]:
    x = images() if x is None else x
    batch = Batch(x, NAMES[: len(x)], torch.zeros(len(x), dtype=torch.long))
    return [result.table for result in run(net, Two([batch]), rules, DECISION, Options(share, seed_with))]  # type: ignore[arg-type]


class Two(list):
    """Batches of two images, each the other's other."""

    alone = False

    def other(self, name: str) -> torch.Tensor:
        return self[0].x[[1 - NAMES.index(name)]]


def slow_places(a: list[float], part: str, share: float, image: str, layer: int) -> set[int]:
    """Which units of one sample, literally: rank them as (key, index)."""
    active = [i for i, value in enumerate(a) if value != 0]
    count = min(len(active), max(1, math.ceil(Fraction(str(share)) * len(active))))
    lots = torch.rand(len(a), generator=keyed(name_seed(image), layer)).tolist()
    keys = {"max": lambda i: (-abs(a[i]), i), "min": lambda i: (abs(a[i]), i), "random": lambda i: (lots[i], i)}
    return set(active) if part == "all" else set(sorted(active, key=keys[part.removeprefix("constant_")])[:count])


def slow_maps(
    x: torch.Tensor, image: str, net: Network, r: Rule, layer: int, share: float, seed_with: SeedWith
) -> dict[str, torch.Tensor]:
    """Each part of one layer of one image: an explicit r_l, walked down alone."""
    record, found = net.forward(x[None]), {}
    a = record.activation(layer)
    other = net.forward(images()[[1 - NAMES.index(image)]]).activation(layer).flatten().tolist()
    drawn = torch.randn(a.shape[1:], generator=keyed(name_seed(image), layer)).abs().double().flatten().tolist()
    own = walk(record, r.start(one_hot(record), record.logits), lambda _: r, net.depth, layer)
    reads_a = seed_with in (SeedWith.activation, SeedWith.gradient)
    for part in PARTS if reads_a else PARTS[:4]:
        whole = "all" if part in ("noise", "other") else part
        places, start = slow_places(a.flatten().tolist(), whole, share, image, layer), [0.0] * a.numel()
        for i, (ai, ri) in enumerate(zip(a.flatten().tolist(), own.flatten().tolist(), strict=True)):
            if i in places:
                value = {SeedWith.relevance: ri, SeedWith.product: ai * ri}.get(seed_with, ai)
                if part.startswith("constant"):
                    value = math.copysign(1, ai)
                elif part in ("noise", "other"):
                    value = {"noise": drawn, "other": other}[part][i]
                lrp = seed_with is SeedWith.activation and isinstance(r, AlphaBeta)
                start[i] = value / ai if lrp else value  # the value is LRP's relevance A r
        masked = not (part == "all" and seed_with is SeedWith.relevance)
        found[part] = walk(
            record, torch.tensor(start, dtype=a.dtype).view(a.shape) if masked else own, lambda _: r, layer
        )
    return found


@pytest.mark.parametrize("seed_with", list(SeedWith))
@pytest.mark.parametrize("name", ["plain", "residual", "bottleneck"])
def test_each_part_equals_a_walk_from_its_own_seed(name, seed_with):
    net, share = network(name), 0.3
    rules = [rule(r) for r in RULES]
    for r, found in zip(rules, table(net, rules, share, seed_with), strict=True):
        expected = []
        for image, x in zip(NAMES, images(), strict=True):
            original = attribute(net.forward(x[None]), r)
            for layer in range(1, net.depth):
                maps = slow_maps(x, image, net, r, layer, share, seed_with)
                expected += [
                    [
                        image,
                        layer,
                        net.unit_name(layer),
                        part,
                        seed_with.value,
                        *(float(alignment(got, other)) for other in (x[None], maps["all"], original)),
                    ]
                    for part, got in maps.items()
                ]
        columns = ["image", "layer", "name", "part", "seed_with", "alignment", "sim_all", "sim_original"]
        pd.testing.assert_frame_equal(found[columns], pd.DataFrame(expected, columns=columns), atol=1e-9)


def test_the_bottleneck_net_has_negative_activations():
    """Else |A| and A could not be told apart above."""
    net = network("bottleneck")
    record = net.forward(images())
    assert any(bool((record.activation(layer) < 0).any()) for layer in range(1, net.depth))


def test_all_of_the_rules_own_r_is_its_attribution():
    for found in table(network("plain"), [rule("gbp"), rule("lrp")], seed_with=SeedWith.relevance):
        whole = found[found["part"] == "all"]
        assert whole.groupby("image")["alignment"].nunique().eq(1).all() and np.allclose(whole["sim_original"], 1)


@pytest.mark.parametrize(
    "share, count", [(0.1, 10), (0.07, 7), (0.001, 1), (1.0, 100)]
)  # .07 x 100 is 7.000000000000001 in floats
def test_how_many_units(share, count):
    a = torch.cat([torch.zeros(1, 30), torch.rand(1, 100) + 0.5], 1)
    chosen = select(a, [keyed(0)], share)
    assert {part: int(mask.sum()) for part, mask in chosen.items()} == {
        "all": 100,
        "max": count,
        "min": count,
        "random": count,
    }
    assert all(not mask[0, :30].any() for mask in chosen.values())


def test_ties_go_to_the_lower_index_and_signs_do_not_count():
    a = torch.tensor([[[0.0, 2, -3], [1, -1, 3], [2, 3, 1]]])  # eight active units; two of each part
    chosen = select(a, [keyed(0)], 0.25)
    assert chosen["max"].flatten().nonzero().flatten().tolist() == [2, 5] and chosen[
        "min"
    ].flatten().nonzero().flatten().tolist() == [3, 4]


def test_random_units_are_keyed_by_image_and_layer():
    a = torch.rand(2, 4, 5, 5) + 0.1
    both = select(a, [keyed(name_seed(n), 1) for n in NAMES], 0.1)["random"]
    alone = select(a[1:], [keyed(name_seed(NAMES[1]), 1)], 0.1)["random"]
    assert torch.equal(both[1:], alone) and not torch.equal(both[0], both[1])
    assert not torch.equal(alone, select(a[1:], [keyed(name_seed(NAMES[1]), 2)], 0.1)["random"])
    assert torch.equal(alone, select(a[1:], [keyed(name_seed(NAMES[1]), 1)], np.float64(0.1))["random"])
    counts = sum(select(a[:1], [keyed(i)], 0.1)["random"].int() for i in range(300))
    assert counts.float().std() < 2 * math.sqrt(300 * 0.1 * 0.9)  # every unit has the same chance


def test_a_layer_without_active_units_is_missing():
    model = seeded(NETS["plain"])
    nn.init.constant_(model[3].bias, -1e3)  # A_2 = 0
    (found,) = table(trace(model), [rule("gbp")])
    silent = found[found["layer"] == 2]
    assert silent[["alignment", "sim_all", "sim_original"]].isna().all(axis=None) and (silent["units"] == 0).all()
    assert found[found["layer"] == 1]["alignment"].notna().all()


def test_rules_together_and_alone_agree():
    net, rules = network("plain"), [rule(r) for r in RULES]
    for together, r in zip(table(net, rules), rules, strict=True):
        pd.testing.assert_frame_equal(together, table(net, [r])[0])


@pytest.mark.parametrize("seed_with", list(SeedWith))
def test_the_scale_of_the_weights_does_not_matter(seed_with):
    """Weights that carry r out of float32's range, were it not rescaled."""
    model = seeded(NETS["no_bias"]).float()
    small = table(trace(model), [rule(r) for r in RULES], seed_with=seed_with, x=images().float())
    for layer in model:
        if hasattr(layer, "weight"):
            layer.weight.data *= 2.0**24
    large = table(trace(model), [rule(r) for r in RULES], seed_with=seed_with, x=images().float())
    for a, b in zip(small, large, strict=True):
        assert b["alignment"].notna().any()
        pd.testing.assert_frame_equal(a, b, rtol=1e-4, atol=1e-4)


def test_the_activation_is_no_rule():
    with pytest.raises(UserError, match="no rule that runs through the layers"):
        EXPERIMENTS["extremes"].refuse("extremes", "activation", rule("activation"))
    with pytest.raises(UserError):
        table(network("plain"), [rule("activation")])


def test_command_line(cell, tmp_path):
    tables = [
        pd.read_parquet(
            cell("experiment=extremes", "rule=lrp", f"run.batch_size={b}", output=tmp_path / str(b)).made[-1]
        )
        for b in (1, 5)
    ]
    pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-5)
    assert list(tables[0]) == COLUMNS
    assert len(tables[0]) == 5 * 2 * 8 and list(tables[0]["part"][:8]) == PARTS
    one = pd.read_parquet(cell("experiment=extremes", "rule=lrp", "data.limit=1", output=tmp_path / "one").made[-1])
    assert (
        one[one["part"] == "other"]["alignment"].isna().all() and one[one["part"] == "noise"]["alignment"].notna().all()
    )
    ended = cell("experiment=extremes", "experiment.share=0")
    assert ended.code == 1 and "share must lie in (0, 1]" in ended.complaint
