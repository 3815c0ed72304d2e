"""Occlusion: a slow transcription, curves known in closed form, and Quantus."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline import api
from pipeline.engine.network import trace
from pipeline.experiments import occlusion
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch
from pipeline.images.nullmaps import blur, edges
from pipeline.measures.occlusion import Fill, counts, ranks
from pipeline.seeds import keyed, name_seed
from tests import tiny

ORDERS = [*occlusion.OF_RULE, *occlusion.NULLS]


def table(model, x, rule="gbp", orders=ORDERS, steps=4, fill=Fill.mean, units_share=0.25, draws=2) -> pd.DataFrame:
    """One rule's, by image, order and direction."""
    network = trace(model)
    images = [Batch(x, tuple(f"i{b}" for b in range(len(x))), -torch.ones(len(x)).long())]
    options = occlusion.Options(orders, steps, fill, units_share, draws)
    method = api.rule(rule) if isinstance(rule, str) else rule
    (found,) = occlusion.run(network, images, [method], Target("decision", lambda: network), options)
    return found.table.set_index(["image", "order", "direction"])


def curve(row: pd.Series) -> np.ndarray:
    return row[[name for name in row.index if str(name).startswith("p_")]].to_numpy(dtype=float)


# ---- the whole table, slowly -----------------------------------------------------------------------------------------


def slow_order(score) -> list[int]:
    return sorted(range(score.numel()), key=lambda i: (-float(score.flatten()[i]), i))


def slow_scores(model, x, image: str) -> dict[str, list[torch.Tensor]]:
    """Of one image (3, H, W)."""
    record = trace(model).forward(x[None])
    lrp = api.attribute(record.network, x[None], "lrp")[0]
    with_bottom = api.attribute(record.network, x[None], "lrp", bottom=True)[0]
    weight = model[0].weight
    px = nn.functional.conv_transpose2d(nn.functional.conv2d(x[None], weight, padding=1), weight, padding=1)[0]
    drawn = [torch.rand(x.shape[1:], generator=keyed(name_seed(image), d), dtype=torch.float64) for d in range(2)]
    return {
        "attribution": [lrp.sum(0)],
        "magnitude": [lrp.abs().sum(0)],
        "bottom": [with_bottom.sum(0)],
        "random": drawn,
        "edges": [edges(x[None])[0].sum(0)],
        "filter": [px.sum(0).detach()],
        "filter_magnitude": [px.abs().sum(0).detach()],
        "filter_bottom": [(px * x).sum(0).detach()],
    }


def active(model, x) -> torch.Tensor:
    found = []
    hooks = [
        m.register_forward_hook(lambda _, __, out: found.append(out.flatten() > 0))
        for m in model
        if isinstance(m, nn.ReLU)
    ]
    model(x[None])
    for hook in hooks:
        hook.remove()
    return torch.cat(found)


@torch.no_grad()
@pytest.mark.parametrize("fill", Fill)
def test_against_a_slow_transcription(fill):
    model, steps, share = tiny.network().double(), 6, 0.3
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    found = table(model, x, "lrp", steps=steps, fill=fill, units_share=share)
    assert len(found) == 3 * len(ORDERS) * 2
    for b, image in enumerate(("i0", "i1", "i2")):
        filled = blur(x[b : b + 1], 28)[0] if fill is Fill.blur else torch.zeros_like(x[b])
        k = int(model(x[b][None]).argmax())
        start = float(model(x[b][None]).softmax(1)[0, k])
        for order, scores in slow_scores(model, x[b], image).items():
            for direction in ("deletion", "insertion"):
                expected, off = np.zeros(steps + 1), []
                for score in scores:
                    places = slow_order(score)
                    for i in range(steps + 1):
                        changed, other = (x[b], filled) if direction == "deletion" else (filled, x[b])
                        changed = changed.clone()
                        for pixel in places[: round(i / steps * 256)]:
                            changed[:, pixel // 16, pixel % 16] = other[:, pixel // 16, pixel % 16]
                        expected[i] += float(model(changed[None]).softmax(1)[0, k]) / len(scores)
                    without = x[b].clone()
                    for pixel in places[: round(share * 256)]:
                        without[:, pixel // 16, pixel % 16] = filled[:, pixel // 16, pixel % 16]
                    was, now = active(model, x[b]), active(model, without)
                    off.append(int((was & ~now).sum()) / int(was.sum()))
                row = found.loc[(image, order, direction)]
                np.testing.assert_allclose(curve(row), expected, rtol=1e-12)
                auc = sum(a + c for a, c in itertools.pairwise(expected)) / (2 * steps)
                np.testing.assert_allclose([row.auc, row.auc_normalised], [auc, auc / start], rtol=1e-12)
                assert row.target == k
                if direction == "deletion":
                    assert 0 < row.units_off < 1 and np.isclose(row.units_off, np.mean(off), rtol=1e-12)
                else:
                    assert np.isnan(row.units_off)


# ---- what is known beforehand ----------------------------------------------------------------------------------------


def linear(weight: torch.Tensor) -> nn.Module:
    """Logits (<w, x>, 0)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.numel(), 2)).double()
    model[1].weight.data = torch.stack([weight.flatten(), torch.zeros(weight.numel())]).double()
    model[1].bias.data.zero_()
    return model


def test_a_linear_model_in_closed_form():
    """The curve is the sigmoid of what is left of the sum of contributions, and no order of all 720 deletes faster or
    inserts better than that of the contributions."""
    weight = torch.randn(2, 2, 3, dtype=torch.float64)
    x = torch.randn(1, 2, 2, 3, dtype=torch.float64)
    x *= float((weight * x).sum().sign())  # class 0 is the decision
    contribution = (weight * x).sum((0, 1)).flatten().tolist()
    sigmoid = lambda t: 1 / (1 + math.exp(-t))  # noqa: E731

    def slow(order, direction):
        sums = [0.0, *itertools.accumulate(contribution[i] for i in order)]
        return [sigmoid(sum(contribution) - s if direction == "deletion" else s) for s in sums]

    rule = api.rule("grad", times_input=True)
    found = table(linear(weight), x, rule, orders=["bottom", "random", "edges"], steps=6)
    every = list(itertools.permutations(range(6)))
    for direction, best in (("deletion", min), ("insertion", max)):
        row = found.loc[("i0", "bottom", direction)]
        by_contribution = sorted(range(6), key=lambda i: -contribution[i])
        np.testing.assert_allclose(curve(row), slow(by_contribution, direction), rtol=1e-12)
        areas = [sum(slow(order, direction)) - (sigmoid(0) + sigmoid(sum(contribution))) / 2 for order in every]
        assert np.isclose(row.auc, best(areas) / 6, rtol=1e-12)
        others = found.xs(direction, level="direction").drop("bottom", level="order").auc
        assert (others >= row.auc).all() if direction == "deletion" else (others <= row.auc).all()


def test_a_constant_model_has_area_one_and_its_map_no_order():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    model[3].weight.data.zero_()
    found = table(model, torch.randn(2, 3, 4, 4, dtype=torch.float64))
    nulls = found.loc[(slice(None), ["random", "edges"], slice(None)), :]
    np.testing.assert_allclose(nulls.auc_normalised, 1, rtol=1e-12)
    own = found.loc[(slice(None), ["attribution", "magnitude", "bottom"], slice(None)), :]
    assert own.drop(columns="target").isna().all().all() and len(own) == 12


def test_what_has_no_such_map_is_missing():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.Linear(32, 3)

        def forward(self, x):
            return self.last(torch.flatten(torch.relu(self.a(x)) + torch.relu(self.b(x)), 1))

    found = table(Two().double(), torch.randn(2, 3, 4, 4, dtype=torch.float64))
    missing = found.auc.isna().groupby("order").mean()
    of_filter = [name for name in ORDERS if name.startswith("filter")]
    assert missing[of_filter].min() == 1 and missing.drop(of_filter).max() == 0, "two layers read the pixels"
    activation = table(tiny.network(), torch.randn(1, 3, 16, 16), "activation")
    assert activation.auc.isna().groupby("order").mean()["bottom"] == 1 and activation.auc.notna().sum() == 14


def test_both_directions_share_their_ends():
    x = torch.randn(3, 3, 16, 16)
    for fill, filled in ((Fill.mean, torch.zeros_like(x)), (Fill.blur, blur(x, 28))):
        model = tiny.network()
        found = table(model, x, fill=fill)
        k = model(x).argmax(1)
        whole, empty = (model(t).double().softmax(1)[range(3), k].detach().numpy() for t in (x, filled))
        for direction, first, last in (("deletion", whole, empty), ("insertion", empty, whole)):
            ends = found.xs(direction, level="direction")[["p_0", "p_4"]].unstack("order")
            np.testing.assert_allclose(ends["p_0"], np.tile(first, (8, 1)).T, rtol=1e-6)
            np.testing.assert_allclose(ends["p_4"], np.tile(last, (8, 1)).T, rtol=1e-6)


def test_ties_go_in_reading_order_and_shares_are_rounded():
    score = torch.tensor([[[1.0, 3.0, 1.0], [3.0, 0.0, 1.0]]])
    assert ranks(score).tolist() == [[[2, 0, 3], [1, 5, 4]]]
    many = torch.randint(0, 4, (2, 60, 60)).double()
    for b in range(2):
        assert ranks(many)[b].flatten().argsort().tolist() == slow_order(many[b])
    assert counts(10, 4) == [0, 3, 5, 8, 10] and counts(1024, 20)[1] == 51 and counts(6, 6) == [*range(7)]


# ---- the table -------------------------------------------------------------------------------------------------------


def test_the_table(cell, tmp_path):
    first = pd.read_parquet(cell("experiment=occlusion", "rule=gbp").made[-1])
    assert list(first) == [*occlusion.COLUMNS, *(f"p_{i}" for i in range(21))]
    assert list(first.order.unique()) == ["attribution", "random", "edges", "filter"] and len(first) == 5 * 4 * 2
    other = pd.read_parquet(cell("experiment=occlusion", "rule=lrp", "run.batch_size=2").made[-1])
    same, mine = ([*t[t.order != "attribution"].auc, *t[t.order == "attribution"].auc] for t in (first, other))
    np.testing.assert_allclose(same[:30], mine[:30], rtol=1e-4)  # whatever the rule, and the place in a batch
    assert not np.allclose(same[30:], mine[30:], rtol=1e-3)
    many = pd.read_parquet(cell("experiment=occlusion", "occlusion.draws=3", "occlusion.orders=[random]").made[-1])
    assert not np.allclose(many.auc, first[first.order == "random"].auc, rtol=1e-3), "a mean over draws is no draw"


def test_settings(cell):
    for setting, complaint in (
        ("orders=[edge]", "orders must name some of attribution"),
        ("orders=[edges,edges]", "each once"),
        ("orders=[]", "orders must name some of"),
        ("steps=0", "steps and draws must be at least 1"),
        ("draws=0", "steps and draws must be at least 1"),
        ("units_share=0", "units_share must lie in (0, 1], not 0"),
        ("fill=black", "fill"),
    ):
        ended = cell("experiment=occlusion", f"occlusion.{setting}")
        assert ended.code == 1 and complaint in ended.complaint, ended.complaint


# ---- another implementation ------------------------------------------------------------------------------------------


def test_against_quantus():
    """Its pixel flipping, 16 of 3 x 256 values at a time: after each third step 16 more pixels are gone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantus = pytest.importorskip("quantus")
    model, x = tiny.network().eval(), torch.randn(3, 3, 16, 16)
    found = table(model, x, "gbp", orders=["attribution", "edges"], steps=16).xs("deletion", level="direction")
    maps = {"attribution": api.attribute(trace(model), x, "gbp").sum(1, keepdim=True), "edges": edges(x)[:, :1]}
    for order, scores in maps.items():
        metric = quantus.PixelFlipping(
            features_in_step=16, normalise=False, perturb_baseline=0.0, disable_warnings=True, return_aggregate=False
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = metric(
                model, x.numpy(), model(x).argmax(1).numpy(), scores.numpy(), channel_first=True, softmax=True
            )
        ours = np.stack([curve(row)[1:] for _, row in found.xs(order, level="order").iterrows()])
        np.testing.assert_allclose(ours, np.stack(theirs)[:, 2::3], rtol=1e-4)
