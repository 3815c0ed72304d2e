"""Condition (13), Propositions 1 to 3, and the rank-one theory, against explicit matrices."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline import api
from pipeline.engine.lrp import WPlus
from pipeline.engine.network import trace
from pipeline.engine.rules import GRAD, Activation, Gbp, RectGrad
from pipeline.engine.walk import attribute, one_hot
from pipeline.errors import UserError
from pipeline.experiments import EXPERIMENTS, nfr, rank1
from pipeline.measures.maps import alignment
from pipeline.networks.shallow import shallow
from tests.test_theorem1 import z_plus

F64 = torch.float64


# ---- condition (13) --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_condition_13_equals_explicit_matrices(bias):
    """(12), (13) literally: W M as a matrix, the filter a diagonal of zeros and ones, sums in loops."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(6, 9, bias=bias), nn.ReLU(), nn.Linear(9, 8, bias=bias), nn.ReLU(), nn.Linear(8, 3, bias=bias)
    ).double()
    network, x = trace(model), torch.randn(4, 6, dtype=F64)
    record = network.forward(x)
    weights = [module.weight.detach() for module in model if isinstance(module, nn.Linear)]
    start = one_hot(record)
    for rule in (Gbp(), RectGrad(0.5), WPlus(first_layer=z_plus().first_layer)):
        r = [row.clone() for row in start]
        for layer, sides in nfr.conditions(record, rule, start):
            for b in range(4):
                a, z, w = record.activation(layer - 1)[b], record.activation(layer)[b], weights[layer - 1]
                r[b] = r[b] / r[b].abs().max().clamp(min=1e-300)
                mask = torch.ones(len(z), dtype=F64) if layer == 3 else (z > 0).double()
                wm = w.T @ torch.diag(mask)  # the paper's W M, (in, out)
                keep = torch.ones(len(z), dtype=F64)
                if layer < 3 and isinstance(rule, Gbp):
                    keep = (r[b] > 0).double()
                if layer < 3 and isinstance(rule, RectGrad):
                    tau = np.quantile((z * r[b]).numpy(), 0.5, method="lower")
                    keep = (z * r[b] > tau).double()
                filtered = wm @ torch.diag(keep)
                removed, possible = float(((r[b] * mask != 0) & (keep == 0)).sum()), float((r[b] * mask != 0).sum())
                if isinstance(rule, WPlus):
                    filtered = wm if layer == 1 else wm * (w.T > 0)
                    pairs = [
                        (i, j) for i in range(len(a)) for j in range(len(z)) if a[i] != 0 and (r[b] * mask)[j] != 0
                    ]
                    removed, possible = (
                        (float(sum(bool(w[j, i] < 0) for i, j in pairs)), float(len(pairs)))
                        if layer > 1
                        else (0.0, 1.0)
                    )
                lhs, rhs = float(a @ (filtered @ r[b])), float(a @ (wm @ r[b]))
                assert math.isclose(float(sides["lhs"][b]), lhs, abs_tol=1e-10) and math.isclose(
                    float(sides["rhs"][b]), rhs, abs_tol=1e-10
                )
                assert math.isclose(float(sides["filtered"][b]), removed / max(possible, 1), abs_tol=1e-12), (
                    rule,
                    layer,
                )
                r[b] = filtered @ r[b]


@pytest.mark.parametrize("seed", range(5))
def test_propositions_without_biases(seed):
    """GBP and z+ without gamma meet (13) strictly wherever they filter; z+ with gamma conserves: both sides equal."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 25, 5, bias=False),
    ).double()  # fmt: skip
    record = trace(model).forward(torch.randn(6, 3, 16, 16, dtype=F64))
    options = nfr.Options(without_gamma=True, tolerance=1e-10)
    onehot = one_hot(record)
    relations = {}
    for rule in (Gbp(), z_plus()):
        for gamma, variant in nfr.variants(rule, options):
            found = relations[type(rule).__name__ + gamma] = set()
            for _, sides in nfr.conditions(record, variant, rule.start(onehot, record.logits)):
                found |= set(nfr.verdict(sides, 1e-10)["relation"])
    assert relations["Gbp"] == {"", "greater"}
    names = sorted(relations)
    kept, dropped = (next(relations[n] for n in names if n.endswith(g)) for g in ("kept", "dropped"))
    assert kept == {"", "equal"} and dropped == {"", "greater"}


def test_rectgrad_breaks_proposition_2():
    """Positive A r below tau go too: of 1 + ... + 10 only the 10 stays."""
    record = shallow(torch.eye(10, dtype=F64), torch.ones(1, 10, dtype=F64)).forward(
        torch.arange(1.0, 11, dtype=F64)[None]
    )
    (sides,) = [
        sides for layer, sides in nfr.conditions(record, RectGrad(0.9), torch.ones(1, 1, dtype=F64)) if layer == 1
    ]
    assert (float(sides["lhs"]), float(sides["rhs"]), float(sides["filtered"])) == (10, 55, 0.9) and float(
        sides["margin"]
    ) < 0


def test_biases_break_proposition_1():
    """W^T A < 0 but the unit is active by its bias: what GBP removes was positive."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
    for parameter, value in zip(model.parameters(), (1.0, 0.0, -1.0, 3.0, -1.0), strict=True):
        parameter.data.fill_(value)
    record = trace(model).forward(torch.ones(1, 1, dtype=F64))
    found = {
        layer: nfr.verdict(sides, 1e-9)["relation"][0]
        for layer, sides in nfr.conditions(record, Gbp(), torch.ones(1, 1, dtype=F64))
    }
    assert found[2] == "less"


@pytest.mark.parametrize("gamma", [0.0, 0.1, 2.0, math.inf])
def test_lrp_gamma_has_one_numerator(gamma):
    """Without biases <A_l, r_l> is the logit's relevance at every layer and for every gamma: (13) is an equality, while
    the alignment of the map changes."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 25, 5, bias=False),
    ).double()  # fmt: skip
    record = trace(model).forward(torch.randn(6, 3, 16, 16, dtype=F64))
    rule = api.rule("lrp_gamma", gamma=gamma)
    EXPERIMENTS["nfr"].refuse("nfr", "lrp_gamma", rule)
    variants = nfr.variants(rule, nfr.Options(without_gamma=True, tolerance=1e-10))
    assert [name for name, _ in variants] == (["kept", "dropped"] if gamma == math.inf else [""])
    sides = [found for _, found in nfr.conditions(record, rule, rule.start(one_hot(record), record.logits))]
    assert max(float(found["margin"].abs().max()) for found in sides) < 1e-12
    assert all((found["filtered"] > 0).any() == (gamma == math.inf) for found in sides[:-1])
    r = attribute(record, rule)
    torch.testing.assert_close((r * record.x).flatten(1).sum(1), torch.ones(6, dtype=F64), rtol=1e-10, atol=1e-10)
    assert alignment(r, record.x).std() > 1e-3


def test_nfr_table(cell):
    table = pd.read_parquet(cell("experiment=nfr", "rule=lrp", "weights=gaussian", "dtype=float64").made[-1])
    assert list(table) == nfr.COLUMNS
    assert len(table) == 5 * 3 * 2 and set(table["gamma"]) == {"kept", "dropped"}
    assert set(table[(table["gamma"] == "dropped") & (table["layer"] > 1)]["relation"]) == {"greater"}
    assert (
        set(table[(table["gamma"] == "kept") & (table["layer"] > 1)]["relation"]) == {"equal"}
        and not table[table["layer"] == 1]["filtered"].any()
    )


def test_rules_that_filter_nothing_are_refused():
    refused = {
        "activation": (Activation(), "no rule"),
        "lrp": (z_plus("zbox"), "first_layer"),
        "lrp_alphabeta": (api.rule("lrp_alphabeta"), "no filter"),
        "lrp_epsilon": (api.rule("lrp_epsilon"), "no filter"),
    }
    for name, (rule, message) in refused.items():
        with pytest.raises(UserError, match=message):
            EXPERIMENTS["nfr"].refuse("nfr", name, rule)
    for rule in (z_plus("split"), api.rule("lrp_alphabeta", alpha=1), api.rule("excitation_bp"), Gbp()):
        EXPERIMENTS["nfr"].refuse("nfr", "", rule)
    with pytest.raises(UserError, match="no class"):
        EXPERIMENTS["rank1"].refuse("rank1", "activation", Activation())


# ---- rank one --------------------------------------------------------------------------------------------------------


def test_positive_matrices_make_all_directions_one():
    """A chain of positive matrices forgets where it started; a single one does not."""
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(20, 20, bias=False), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(20, 4, bias=False)).double()
    for parameter in model.parameters():
        parameter.data = parameter.data.abs() ** 3  # far from rank one
    record = trace(model).forward(torch.rand(3, 20, dtype=F64))
    starts = [one_hot(record, torch.full((3,), k)) for k in (0, 1)]
    cosines = {layer: float(alignment(*pair).mean()) for layer, pair in rank1.descents(record, GRAD, starts)}
    assert cosines[6] < 0.9 and cosines[0] > 0.99 and list(cosines) == list(range(6, -1, -1))
    direct = [torch.autograd.functional.jacobian(model, record.x[0])[k] for k in (0, 1)]
    assert cosines[0] == pytest.approx(float(alignment(*(d[None] for d in direct))), abs=1e-3)


def test_rank1_table(cell):
    table = pd.read_parquet(cell("experiment=rank1", "rule=gbp").made[-1])
    assert list(table) == [*rank1.COLUMNS, rank1.WITH_CENTRED]
    uncentred = pd.read_parquet(cell("experiment=rank1", "rule=gbp", "rank1.centred=false", "data.limit=1").made[-1])
    assert list(uncentred) == rank1.COLUMNS
    assert len(table) == 5 * 2 * 3 and set(table["layer"]) == {0, 1, 2} and (table["target"] != table["other"]).all()
    assert table["cosine"].between(-1 - 1e-9, 1 + 1e-9).all() and "cosine_centred" in table
    again = pd.read_parquet(cell("experiment=rank1", "rule=gbp", "run.batch_size=1", "run.force=true").made[-1])
    pd.testing.assert_frame_equal(table, again, atol=1e-5)
