from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pipeline import cli
from pipeline.api import rule
from pipeline.engine.rules import RULES, RectGrad
from pipeline.errors import UserError
from pipeline.experiments import EXPERIMENTS
from pipeline.figures import FIGURES
from pipeline.files import CONF
from pipeline.images.batches import OnError
from pipeline.images.sets import Digits
from pipeline.run.cell import Cell, Choice
from pipeline.run.parsing import GROUPS, SETTINGS, parse, parse_cell, plain
from pipeline.run.sweeps import Profile, Sweeps, figure_cells, points, user_of

ROOT = Path(__file__).parents[1]
OPTIONS = [(group, name) for group, registry in GROUPS.items() for name in registry]
NEEDED = {
    "checkpoint": "weights.path=vgg16_cifar10",
    "folder": "data.root=.",
    "own": "model.call=tests.tiny:network",
    "external": "rule.call=tests.tiny:mean_gradient",
    "trained": "weights.training={data:digits}",
}


@pytest.fixture
def hydra():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def test_the_command_line_knows_the_groups_without_importing_their_options():
    assert tuple(GROUPS) == cli.GROUPS


def names(group: str) -> set[str]:
    return {file.stem for file in (CONF / group).glob("*.yaml")}


def cells_of(figure: str, profile: str, *user: str) -> dict[str, list[Cell]]:
    cfg = compose("config", overrides=[f"figure={figure}", f"profile={profile}"])
    parse(cfg.profile, Profile, "profile")
    return figure_cells(parse(cfg.figure, Sweeps, "figure"), profile, user_of(user))


@pytest.mark.parametrize("group", [*GROUPS, "figure"])
def test_yaml_names_are_registry_keys(group):
    pictures = {experiment.picture for experiment in EXPERIMENTS.values()} - names(
        "figure"
    )  # of single tables, without sweeps
    assert names(group) == ((set(FIGURES) - pictures) | {"all"} if group == "figure" else set(GROUPS[group]))


@pytest.mark.parametrize("group, name", OPTIONS)
def test_every_yaml_parses(hydra, group, name):
    overrides = [f"{group}={name}"] + ([NEEDED[name]] if name in NEEDED else [])
    cfg = compose("config", overrides=overrides, return_hydra_config=True)
    cell = parse_cell(plain(OmegaConf.masked_copy(cfg, SETTINGS)), cfg.hydra.runtime.choices)
    assert getattr(cell, group).name == name and len(cell.key) == 16


def test_a_setting_that_is_left_at_its_default_leaves_the_key():
    """What is stored already keeps its key when a setting comes to be, and another value has one of its own."""
    plain_rule = Choice("rectgrad", RectGrad(0.9))
    assert plain_rule.identity() == {"is": "RectGrad", "quantile": 0.9}
    assert Choice("rectgrad", RectGrad(0.9, masked=True)).identity() == {**plain_rule.identity(), "masked": True}
    digits: dict = {"only": None, "limit": None, "step": 1, "seed": None, "on_error": OnError.stop, "training": 9}
    assert "per_class" not in Choice("digits", Digits(**digits)).identity()
    assert Choice("digits", Digits(**digits, per_class=3)).identity()["per_class"] == 3


@pytest.mark.parametrize("profile", sorted(names("profile")))
@pytest.mark.parametrize("figure", sorted(names("figure") - {"all"}))
def test_every_figures_cells_expand(hydra, figure, profile):
    sweeps = cells_of(figure, profile, "data.limit=3")
    cells = [cell for cells in sweeps.values() for cell in cells]
    assert cells and all(cell.data.value.limit == 3 for cell in cells)


def test_fig2_has_its_sweeps(hydra):
    sweeps = cells_of("fig2", "demo")
    assert {name: len(cells) for name, cells in sweeps.items()} == {
        "random": 16,
        "trained": 4,
        "random_ends": 8,
        "trained_ends": 2,
        "nulls": 1,
        "random_weights": 4,
        "trained_weights": 1,
        "random_balanced": 4,
        "trained_balanced": 1,
    }
    assert {cell.seed for cell in sweeps["random"]} == set(range(200, 204))
    assert {cell.rule.value.first_layer.value for cell in sweeps["random_ends"]} == {"split", "plus"}


def test_points_are_a_product():
    assert points({"a": 1, "b": [2, 3], "c": ["x", "y"]}) == [{"a": 1, "b": b, "c": c} for b in (2, 3) for c in "xy"]


def test_rules_by_name():
    assert rule("rectgrad").quantile == 0.9 and rule("lrp", first_layer="split").first_layer.value == "split"
    assert {type(rule(name, **({"call": "a:b"} if name == "external" else {}))) for name in RULES} == set(
        RULES.values()
    )
    with pytest.raises(UserError, match="no rule 'gpb'"):
        rule("gpb")
    with pytest.raises(UserError, match="no setting 'quantil'"):
        rule("rectgrad", quantil=1)
