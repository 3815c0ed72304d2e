"""experiment=specific and experiment=noisy_start: against loops, autograd and maps whose answer is known."""

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from pipeline.api import attribute
from pipeline.engine.network import trace
from pipeline.engine.rules import GRAD, Gbp
from pipeline.experiments import memory, noisy_start, specific
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch
from tests import tiny
from tests.test_memory import Given

NAMES = ("a", "b", "c", "d", "e")


def batches(x: torch.Tensor) -> list[Batch]:
    """Three images and two."""
    return [Batch(x[s], NAMES[s], -torch.ones(len(x[s])).long()) for s in (slice(0, 3), slice(3, 5))]


def specific_table(network, x, rule=None) -> pd.DataFrame:
    target = Target("decision", lambda: network)
    (found,) = specific.run(network, batches(x), [rule or Gbp()], target, specific.Options())
    return found.table


def test_each_map_against_each_image():
    x = torch.randn(5, 3, 16, 16, dtype=torch.float64)
    network = trace(tiny.network().double())
    found = specific_table(network, x)
    r = attribute(network, x, "gbp")
    for i, row in found.iterrows():
        cosines = [float(F.cosine_similarity(r[i].flatten(), x[j].flatten(), dim=0)) for j in range(5)]
        others = [c for j, c in enumerate(cosines) if j != i]
        assert row["image"] == NAMES[i] and np.isclose(row["alignment"], cosines[i])
        assert np.isclose(row["others"], np.mean(others)) and np.isclose(
            row["ahead"], np.mean([cosines[i] > c for c in others])
        )
        assert row["rank"] == sorted(cosines, reverse=True).index(cosines[i]) + 1
        low, below = x[i].clamp(max=0).flatten(), r[i].clamp(max=0).flatten()
        assert np.isclose(row["negative"], float(F.cosine_similarity(low, below, dim=0)))
    drawn = specific.shuffled(r, NAMES)
    assert torch.equal(drawn.flatten(1).sort().values, r.flatten(1).sort().values) and not torch.equal(drawn, r)
    assert torch.equal(specific.shuffled(r[3:], NAMES[3:]), drawn[3:]), "keyed by the image, not by its place"


def test_a_map_that_is_the_image_finds_it_and_one_that_is_another_does_not(monkeypatch):
    x = torch.randn(5, 3, 16, 16)
    network = trace(tiny.network())
    monkeypatch.setattr(specific, "map_of", lambda record, rule, classes: 3 * record.x)
    own = specific_table(network, x)
    assert (own["rank"] == 1).all() and (own["ahead"] == 1).all() and np.allclose(own["negative"], 1)
    assert (own["negative_shuffled"] < 0.7).all()
    monkeypatch.setattr(specific, "map_of", lambda record, rule, classes: x[:1].expand_as(record.x))
    other = specific_table(network, x)
    assert other["rank"].tolist()[0] == 1 and (other["rank"][1:] > 1).all() and np.isclose(other["alignment"][0], 1)


def test_mixtures_against_autograd():
    model = tiny.network().double()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    network = trace(model)
    images = Given([Batch(x.detach(), ("a", "b", "c"), -torch.ones(3).long())])
    target = Target("decision", lambda: network)
    (found,) = noisy_start.run(network, images, [GRAD], target, noisy_start.Options(None, [0.0, 0.25, 1.0]))
    (starts,) = memory.run(network, images, [GRAD], target, memory.Options(None))
    (fewer,) = noisy_start.run(network, images, [GRAD], target, noisy_start.Options(None, [0.0, 0.25, 1.0], 2))
    odd = found.table[found.table["layer"] % 2 == 1].reset_index(drop=True)
    assert 0 < len(odd) < len(found.table) and fewer.table.equals(odd)
    table = found.table.set_index(["image", "layer", "share"])
    ends = starts.table[(starts.table["start"] == "activation") & (starts.table["against"] == "noise")]
    for row in ends.itertuples():
        assert np.isclose(table.loc[(row.image, row.layer, 0.0), "alignment"], row.alignment)
        assert np.isclose(table.loc[(row.image, row.layer, 1.0), "alignment"], row.alignment_against)
        assert np.isclose(table.loc[(row.image, row.layer, 0.0), "alignment_layer"], 1)
    first = model[1](model[0](x))
    noise = memory.noise(first, ("a", "b", "c"), 1).double()
    unit = [t / t.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for t in (first.detach(), noise)]
    r = 0.75 * unit[0] + 0.25 * unit[1]
    (map_,) = torch.autograd.grad(first, x, r)
    expected = F.cosine_similarity(map_.flatten(1), x.detach().flatten(1))
    layer = F.cosine_similarity(r.flatten(1), first.detach().flatten(1))
    for b, name in enumerate("abc"):
        assert np.isclose(table.loc[(name, 1, 0.25), "alignment"], float(expected[b]))
        assert np.isclose(table.loc[(name, 1, 0.25), "alignment_layer"], float(layer[b]))
