"""experiment=memory: maps from starts in the middle, against autograd."""

import pandas as pd
import torch
from torch.nn import functional as F

from pipeline.engine.network import trace
from pipeline.engine.rules import GRAD, Gbp
from pipeline.experiments import memory, midalign
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch
from pipeline.seeds import keyed, name_seed
from tests import tiny

NAMES = ("a", "b", "c")


class Given(list):
    """A batch of three images, of which the next one follows."""

    def other(self, name: str) -> torch.Tensor:
        i = (NAMES.index(name) + 1) % 3
        return self[0].x[i : i + 1]


def table(model, x, rule):
    images = Given([Batch(x, NAMES, -torch.ones(3).long())])
    network = trace(model)
    (found,) = memory.run(network, images, [rule], Target("decision", lambda: network), memory.Options(None))
    return found.table.set_index(["image", "layer", "start", "against"])


def test_the_maps_against_autograd():
    model = tiny.network().double()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    found = table(model, x.detach(), GRAD)
    assert len(found) == 3 * 2 * 2 * 4
    pooled = model[2](model[1](model[0](x)))
    values = {1: model[1](model[0](x)), 2: model[4](model[3](pooled))}
    logits, best = model(x), model(x).topk(2).indices

    def own(layer, k):
        upper = values[layer].detach().requires_grad_()
        out = model[5:](upper) if layer == 2 else model[2:](upper)
        (r,) = torch.autograd.grad(out.gather(1, best[:, k : k + 1]).sum(), upper)
        return r

    for layer, a in values.items():
        noise = [torch.randn(a.shape[1:], generator=keyed(name_seed(name), layer)).abs() for name in NAMES]
        sent = {
            "activation": a.detach(),
            "own": own(layer, 0),
            "noise": torch.stack(noise).double(),
            "other": a.detach().roll(-1, 0),
            "runner_up": own(layer, 1),
            "constant": torch.ones_like(a),
        }
        maps = {
            name: torch.autograd.grad(a, x, r, retain_graph=True)[0].flatten(1).detach() for name, r in sent.items()
        }
        flat = x.detach().flatten(1)
        for i, image in enumerate(NAMES):
            for start in memory.STARTS:
                for against in memory.AGAINST:
                    row = found.loc[(image, layer, start, against)]
                    cosine = F.cosine_similarity(maps[start][i], maps[against][i], 0)
                    assert abs(row.cosine - cosine) < 1e-12
                    assert abs(row.alignment - F.cosine_similarity(maps[start][i], flat[i], 0)) < 1e-12
                    assert abs(row.alignment_against - F.cosine_similarity(maps[against][i], flat[i], 0)) < 1e-12
    assert (found.target.groupby("image").first() == logits.argmax(1).tolist()).all()


def test_a_layer_without_a_say_has_no_memory():
    """Where all units of a layer see the same filter, whatever is sent down from it gives one map but for its sign,
    which a rule that cuts negatives does not know."""
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(48, 6, bias=False), torch.nn.ReLU(), torch.nn.Linear(6, 3)
    ).double()
    model[1].weight.data[:] = model[1].weight.data[0]
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    x *= (x.flatten(1) @ model[1].weight.data[0]).sign().view(-1, 1, 1, 1)  # its units respond
    model[3].weight.data.abs_()
    found = table(model, x, Gbp())
    assert len(found) == 24 and (found.cosine > 1 - 1e-12).all()


def test_the_table(cell):
    made = pd.read_parquet(cell("experiment=memory", "rule=lrp").made[-1])
    assert list(made) == memory.COLUMNS and set(made.layer) == {1, 2}
    first = made.loc[made.layer == 1, "name"].iloc[0]
    some = pd.read_parquet(cell("experiment=memory", "rule=lrp", f"memory.layers=['{first}']").made[-1])
    pd.testing.assert_frame_equal(some, made[made.layer == 1].reset_index(drop=True))


def test_alignment_in_the_middle(run, tmp_path):
    """r_l of the gradient by autograd; and the lowest layer is the cascade's last level."""
    own = [*tiny.OWN, "data=folder", f"data.root={tiny.images(tmp_path / 'images')}", "dtype=float64"]
    found = pd.read_parquet(run(*own, "experiment=midalign", "rule=grad").made[-1])
    assert list(found) == midalign.COLUMNS and sorted(set(found.layer)) == [0, 1, 2]
    last = pd.read_parquet(run(*own, "rule=lrp").made[-1]).query("n == 3")
    lrp = pd.read_parquet(run(*own, "experiment=midalign", "rule=lrp").made[-1]).query("layer == 0")
    torch.testing.assert_close(torch.tensor(lrp.alignment.values), torch.tensor(last.alignment.values))
    model = tiny.network().double()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    network = trace(model)
    given = [Batch(x, NAMES, -torch.ones(3).long())]
    (made,) = midalign.run(network, given, [GRAD], Target("decision", lambda: network), midalign.Options())
    a1 = model[1](model[0](x)).detach().requires_grad_()
    a2 = model[4](model[3](model[2](a1))).detach().requires_grad_()
    best = model[5:](a2).amax(1).sum()
    (r2,) = torch.autograd.grad(best, a2)
    (r1,) = torch.autograd.grad(model[2:](a1).amax(1).sum(), a1)
    for layer, r, a in ((2, r2, a2), (1, r1, a1)):  # noqa: B007 (query reads it)
        expected = F.cosine_similarity(r.flatten(1), a.detach().flatten(1))
        seen = made.table.query("layer == @layer").alignment
        torch.testing.assert_close(torch.tensor(seen.values), expected)
