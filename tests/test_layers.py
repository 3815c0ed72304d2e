"""Layers of overrides: root < profile < figure < user, and what goes when the user chooses another option."""

import re

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from pipeline.files import CONF
from pipeline.run.cell import Cell
from pipeline.run.parsing import parse
from pipeline.run.sweeps import Sweeps, figure_cells, layered, user_of
from tests import tiny

CHOICES = {"data": "imagenet_samples", "weights": "gaussian", "rule": "gbp", "model": "vgg16"}


def test_the_last_layer_wins():
    lent, figure, user = {"seed": 1, "dtype": "float64"}, {"seed": 2, "target": "label"}, {"target": "decision"}
    found = {"seed": 2, "dtype": "float64", "target": "decision"}
    assert layered(CHOICES, lent, figure, user) == found


@pytest.mark.parametrize(
    "lent, figure, user, found",
    [  # what the profile lends was made for its own data; a figure's limit is for any
        ({"data.only": "[a]"}, {"data.limit": 2}, {"data": "folder"}, {"data.limit": 2, "data": "folder"}),
        ({"data": "digits", "data.training": 9}, {}, {"data": "digits"}, {"data": "digits", "data.training": 9}),
        ({"data.only": "[a]"}, {}, {"data": "imagenet_samples"}, {"data.only": "[a]", "data": "imagenet_samples"}),
        ({}, {"weights": "uniform", "weights.scale": "none"}, {"weights": "ring"}, {"weights": "ring"}),
        ({}, {"rule": "lrp", "rule.first_layer": "plus"}, {"rule": "gbp"}, {"rule": "gbp"}),
        ({}, {"rule": "lrp", "rule.first_layer": "plus"}, {"rule": "dtd"}, {"rule": "dtd", "rule.first_layer": "plus"}),
        ({"data.limit": 2}, {}, {"data": "folder", "data.limit": "7"}, {"data": "folder", "data.limit": "7"}),
        ({"weights.base": "b"}, {"weights": "removal"}, {}, {"weights.base": "b", "weights": "removal"}),
    ],
)
def test_what_belongs_to_a_choice_goes_with_it(lent, figure, user, found):
    assert layered(CHOICES, lent, figure, user) == found


@pytest.fixture
def sweeps():
    """{sweep: cells} of a figure: sweeps("fig4", "model=vgg16_cifar", profile="demo")."""

    def call(figure: str, *user: str, profile: str = "demo") -> dict[str, list[Cell]]:
        cfg = compose("config", overrides=[f"figure={figure}", f"profile={profile}", *user])
        return figure_cells(parse(cfg.figure, Sweeps, "figure"), profile, user_of([f"figure={figure}", *user]))

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield call


def test_other_data_keep_the_figures_limit(sweeps):
    limits = {cell.data.value.limit for cell in sweeps("theory", "data=cifar10")["theorem1"]}
    assert limits == {8}
    assert {cell.data.value.limit for cell in sweeps("fig4", "data=cifar10")["overflow"]} == {2}
    assert {cell.data.value.limit for cell in sweeps("fig5", "data=cifar10")["original"]} == {1}


def test_an_override_equal_to_the_profiles_value_counts(sweeps):
    assert {cell.model.name for cell in sweeps("fig4")["overflow"]} == {"vgg16"}
    assert {cell.model.name for cell in sweeps("fig4", "model=vgg16_cifar")["overflow"]} == {"vgg16_cifar"}


def test_a_profiles_settings_stay_with_its_own_choice(sweeps):
    (cell,) = {cell.data for cell in sweeps("fig2", "data.root=/val", profile="paper")["nulls"]}
    assert (cell.name, cell.value.root, cell.value.limit, cell.value.seed) == ("imagenet", "/val", 200, 0)


def test_a_figures_own_sweeps_can_be_changed(sweeps):
    found = sweeps("fig2", "figure.sweeps.random.rule=[gbp]", "figure.sweeps.random.seed=7")
    assert [(cell.rule.name, cell.seed) for cell in found["random"]] == [("gbp", 7)] and len(found["trained"]) == 4


def test_depths_in_words_are_shares_of_the_models_layers(sweeps):
    """Thirds and halves round up: of 10 layers of ResNet18, of 16 of VGG16."""
    for model, depths in (("resnet18", (4, 4, 5, 9)), ("vgg16", (6, 6, 8, 15))):
        found = sweeps("claims", f"model={model}", profile="laptop")
        names = ("top", "removed", "top_half", "all_but_first")
        assert tuple(cell.weights.value.depth for name in names for cell in found[name][:1]) == depths
    assert {cell.weights.value.depth for cell in found["single"]} == {*range(1, 17)}


SHARED = tiny.normalised().eval()


def shared() -> nn.Module:
    """The same module at each call."""
    return SHARED


def test_counting_the_layers_of_ones_own_module_leaves_it_as_it_is(sweeps):
    before = [type(module) for module in SHARED.modules()]
    state = {name: value.clone() for name, value in SHARED.state_dict().items()}
    found = sweeps("claims", "model=own", "model.call=tests.test_layers:shared")
    assert {cell.weights.value.depth for cell in found["top"]} == {1}
    assert [type(module) for module in SHARED.modules()] == before
    assert all(torch.equal(state[name], value) for name, value in SHARED.state_dict().items())


def test_what_a_sweep_keeps_is_kept(sweeps):
    found = sweeps("fig8", "model=vgg16_cifar", "data=cifar10_samples", "data.limit=3")
    assert {cell.model.name for cell in found["main"]} == {"vgg16_cifar"}
    assert {(cell.model.name, cell.data.name) for cell in found["imagenet"]} == {
        ("efficientnet_lite0", "imagenet_samples")
    }


def test_a_training_is_named_in_words(sweeps):
    (main,) = sweeps("fig8")["main"]
    assert main.weights.value.training.startswith("data=digits train.seed=200 train.sizes=[32] train.epochs=[30]")
    assert "train.flip=false" in main.weights.value.training and main.weights.value.cell.data.value.training == 100


@pytest.mark.parametrize("profile, networks", [("demo", 3), ("paper", 5)])
def test_networks_of_other_seeds_differ_in_nothing_else(sweeps, profile, networks):
    """And main's is one of them, trained and measured once."""
    found = sweeps("fig8", profile=profile)
    trainings = {re.sub(r"train\.seed=\d+", "", cell.weights.value.training) for cell in found["seeds"]}
    assert len(trainings) == 1 and len({cell.key for cell in found["seeds"]}) == networks
    assert found["main"][0].key in {cell.key for cell in found["seeds"]}
    assert len(found["removed"]) == 9 and len(found["seeds_removed"]) == 9 * networks
