"""Theorem 2: over orthogonal weights r along A is the best one; where it is exact, and where it breaks."""

import math

import numpy as np
import pytest
import torch

from pipeline.engine.rules import Gbp, RectGrad
from pipeline.experiments import theorem2
from pipeline.networks.shallow import shallow
from tests.test_theorem1 import z_plus

F64 = torch.float64


EXACT = theorem2.Options(
    nets=4, inputs=50, neurons=30, dim=40, mixing=[0.0], spread=[0.0], laws=list(theorem2.LAWS), draws=[1], seed=7
)


@pytest.mark.parametrize("rule", [Gbp(), RectGrad(0.9), RectGrad(0.0), z_plus()])
def test_theorem2_holds_over_orthogonal_weights(rule):
    """r along A is never beaten: R is confined to the span of the active neurons, where x's projection is best."""
    table = theorem2.run([rule], EXACT)[0].table
    assert list(table) == theorem2.COLUMNS
    generic = table[~table["equal"] & table["defined"]]
    assert len(generic) >= 2 * 2 * 3 * 50 and generic["holds"].all()
    normal = generic[generic["law"] == "normal"]
    assert (normal["alpha_a"] > normal["alpha_b"] + 1e-6).mean() > 0.9


def test_equality_needs_equal_a_and_a_constant_r():
    """The paper's 'equality if and only if all A are equal': true of the mean of r_b, false of a draw, and of RectGrad
    with one unit left."""
    table = theorem2.run([Gbp()], EXACT)[0].table
    equality = table.groupby(["equal", "law"])["equality"].mean()
    assert equality[True, "constant"] == 1 and equality[True, "normal"] == equality[True, "exponential"] == 0
    assert equality[False].max() == 0
    one_unit = theorem2.Options(**{**vars(EXACT), "neurons": 8})  # .9 of 8 units: one passes
    found = theorem2.run([RectGrad(0.9)], one_unit)[0].table
    assert found[~found["equal"]]["equality"].mean() > 0.1  # with A that are not equal


@pytest.mark.parametrize("rule", [Gbp(), z_plus()])
def test_the_mean_of_many_draws_reaches_equality_where_all_a_are_equal(rule):
    """1 - alpha_b / alpha_a falls as 1 / draws there, and there alone."""
    options = theorem2.Options(**{**vars(EXACT), "laws": ["exponential"], "draws": [1, 16, 256]})
    table = theorem2.run([rule], options)[0].table
    table = table[table["units"] == "active"].assign(gap=lambda t: 1 - t["alpha_b"] / t["alpha_a"])
    gap = table.groupby(["equal", "draws"])["gap"].mean()
    assert 14 < gap[True, 16] / gap[True, 256] < 18
    assert gap[False, 256] > 0.8 * gap[False, 16] > 0.02
    literal = theorem2.run([rule], EXACT)[0].table
    literal = literal[(literal["law"] == "exponential") & (literal["units"] == "active")]
    np.testing.assert_array_equal(literal["alpha_b"], table[table["draws"] == 1]["alpha_b"])


def test_exactly_equal_a_leave_rectgrad_nothing():
    network = shallow(torch.eye(12, dtype=F64), torch.ones(1, 12, dtype=F64))
    record = network.forward(torch.ones(1, 12, dtype=F64))
    assert not theorem2.walk(record, record.activation(1), lambda _: RectGrad(0.9), top=1).any()
    compared = theorem2.compared(torch.tensor([math.nan, 0.4, 0.6]), torch.tensor([0.5, 0.5, 0.5]))
    assert compared["defined"].tolist() == [False, True, True]
    assert compared["holds"].isna().tolist() == [True, False, False] and compared["holds"][1:].tolist() == [False, True]


def test_rounding_picks_no_units():
    """All A are equal but for their last bits: RectGrad passes none of them, and nothing is said of (18)."""
    table = theorem2.run([RectGrad(0.9)], EXACT)[0].table
    equal = table[table["equal"]]
    assert len(equal) > 1000 and not equal["defined"].any() and equal["holds"].isna().all()
    w = theorem2.hidden_weights(EXACT, 0, 0.0, 0.0)
    x = torch.ones(1, 30, dtype=F64) @ torch.linalg.pinv(w).T
    plain = shallow(w, torch.ones(1, 30, dtype=F64)).forward(x)
    assert plain.activation(1).unique().numel() > 1, "as they come out of the layer"
    assert theorem2.snapped(plain.network, x).activation(1).unique().numel() == 1


def test_z_plus_over_w_plus_contradicts_theorem2():
    table = theorem2.run([z_plus("plus")], EXACT)[0].table
    assert not table["holds"].all()


@pytest.mark.parametrize("mixing, spread", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.7)])
def test_the_knobs_of_theorem2(mixing, spread):
    w = theorem2.hidden_weights(EXACT, 1, mixing, spread)
    norms = w.norm(dim=1)
    cosines = (w / norms[:, None]) @ (w / norms[:, None]).T - torch.eye(len(w), dtype=F64)
    assert (cosines.abs().max() < 1e-12) == (mixing == 0) and (norms.std() < 1e-12) == (spread == 0)
    assert spread == 0 or 0.4 < float(norms.log().std()) < 1.0
