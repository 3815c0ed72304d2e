"""Rules by name and their names in tables."""

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import attribute, cascade, explained_by_filter, rule, trace
from pipeline.api import labels
from pipeline.engine.interface import Rule
from pipeline.engine.lrp import Add, AlphaBeta, FirstLayer, Start
from pipeline.engine.rules import RULES, Activation, External, Gbp, Grad, RectGrad, rational
from pipeline.errors import UserError
from tests.models import images, plain, seeded


@pytest.fixture
def network():
    return trace(seeded(plain))


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantile", [np.float64(0.9), np.float32(0.5), torch.tensor(0.5), "0.9", 0])
def test_numbers_of_any_library_are_numbers(network, quantile):
    by = rule("rectgrad", quantile=quantile)
    assert type(by.quantile) is float and by == RectGrad(float(quantile))
    assert torch.equal(attribute(network, images(), by), attribute(network, images(), RectGrad(float(quantile))))


def test_a_rule_made_by_hand_takes_them_too(network):
    x = images()
    assert torch.equal(attribute(network, x, RectGrad(np.float64(0.9))), attribute(network, x, RectGrad(0.9)))
    assert rational(np.float64(0.29)) == rational(0.29) and str(rational(0.29)) == "29/100"


def test_flags_and_choices():
    assert rule("lrp_epsilon", bias=np.False_).bias is False
    assert rule("lrp", first_layer="plus") == rule("lrp", first_layer=FirstLayer.plus)
    assert rule("grad", times_input=1).times_input is True


@pytest.mark.parametrize("name, settings, words", [
    ("rectgrad", {"quantile": "much"}, "rectgrad.quantile must be of type float, not 'much'"),
    ("rectgrad", {"quantile": None}, "of type float"),
    ("rectgrad", {"quantile": True}, "of type float"),
    ("rectgrad", {"quantile": [0.9]}, "of type float"),
    ("lrp_epsilon", {"bias": "no"}, "lrp_epsilon.bias must be of type bool"),
    ("lrp", {"first_layer": "none"}, "one of plain, split, plus, zbox"),
    ("lrp", {"first_layr": "plain"}, "no setting 'first_layr'"),
    ("external", {}, "lacks the setting 'call'"),
    ("nosuch", {}, "there is no rule 'nosuch'"),
])  # fmt: skip
def test_what_can_not_be_a_setting_is_refused_in_a_sentence(name, settings, words):
    with pytest.raises(UserError) as error:
        rule(name, **settings)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name, setting", [("rectgrad", "quantile"), ("lrp", "alpha"), ("lrp_epsilon", "epsilon")])
def test_nan_is_out_of_range(name, setting):
    with pytest.raises(ValueError, match=setting):
        rule(name, **{setting: float("nan")})


# ---- names -----------------------------------------------------------------------------------------------------------


def test_two_settings_of_a_rule_are_two_rows_of_a_groupby(network):
    table = cascade(network, images(), [RectGrad(0.5), RectGrad(0.9), "rectgrad", "gbp", Gbp()])
    assert list(table) == ["rule", "image", "n", "alignment"]
    assert set(table["rule"]) == {"rectgrad quantile=0.5", "rectgrad (2)", "rectgrad", "gbp", "gbp (2)"}
    assert not table.duplicated(["rule", "image", "n"]).any()
    found = table.groupby(["rule", "n"])["alignment"].mean()
    pd.testing.assert_series_equal(found["rectgrad"], found["rectgrad (2)"])
    alone = cascade(network, images(), [RectGrad(0.5)]).groupby("n")["alignment"].mean()
    pd.testing.assert_series_equal(found["rectgrad quantile=0.5"], alone)


def test_names_say_what_differs_from_the_defaults():
    class Mine(Rule):
        pass

    made = [
        *(rule(name) for name in RULES if name != "external"),
        rule("lrp", add_by="zplus"),
        rule("dtd", alpha=3, first_layer="zbox"),
        Grad(times_input=False),
        Activation(),
        Mine(),
    ]
    own = [name for name in RULES if name != "external"]
    assert labels(made) == [
        *own,
        "lrp add_by=zplus",
        "dtd first_layer=zbox alpha=3.0",
        "grad times_input=False",
        "activation (2)",
        "Mine",
    ]
    assert labels([Gbp(), "gbp"]) == ["gbp (2)", "gbp"]  # a str keeps its own
    by_hand = AlphaBeta(
        alpha=1.0, first_layer=FirstLayer.split, bottom=FirstLayer.zbox, start_at=Start.logit, add_by=Add.proportional
    )
    assert labels([by_hand]) == ["dtd first_layer=split start_at=logit"]


# ---- what can't be explained -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [[0], [0, 1, 2], [0, 5], [-1, 0], [0.5, 1], [[0, 1]], 1, "cat", [[0], [0, 1]]])
@pytest.mark.parametrize("what", [attribute, cascade, explained_by_filter])
def test_targets_that_are_no_classes_are_refused_in_a_sentence(network, target, what):
    tensors = [torch.tensor(target)] if target in ([0], [0, 5], [0.5, 1], 1) else []
    for given in (target, *tensors):
        with pytest.raises(UserError, match="target must be a class from 0 to 4 for each of the 2 images") as error:
            what(network, images(), target=given)
        assert "\n" not in str(error.value)


def test_targets_may_be_a_list_or_an_array(network):
    expected = attribute(network, images(), target=torch.tensor([3, 0]))
    for target in ([3, 0], np.array([3, 0])):
        assert torch.equal(attribute(network, images(), target=target), expected)
        assert len(cascade(network, images(), ["gbp"], target=target)) == 2 * (network.depth + 1)


# ---- what is no rule -------------------------------------------------------------------------------------------------


def test_the_activation_and_external_attributions(network):
    x = images()
    assert torch.equal(attribute(network, x, Activation(), layer=2), attribute(network, x, "activation", layer=2))
    for by in ("activation", Activation()):
        with pytest.raises(UserError, match="from 1 to 4"):
            attribute(network, x, by)
    external = External("tests.tiny:mean_gradient")
    for refused in (lambda: attribute(network, x, external), lambda: cascade(network, x, ["gbp", external])):
        with pytest.raises(UserError, match="map at the input"):
            refused()
    assert cascade(network, x, []).empty
