"""What a command would cost: the adding up is exact, the measuring is about right."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from pipeline.cli import hydra_arguments
from pipeline.files import CONF
from pipeline.networks import training
from pipeline.run import cost, estimate
from pipeline.run.context import Run, context_of
from pipeline.run.cost import Cost
from pipeline.run.estimate import Work
from pipeline.run.groups import Given
from pipeline.run.parsing import parse
from pipeline.run.runner import first_units, groups_of
from pipeline.run.sweeps import Sweeps, figure_cells, job_cells, user_of
from tests import tiny


def work(first, images, begin=0.0, unit=0.0, image=1.0, tables=1):
    return Work("", tables, first, images, Cost(begin, unit, image, 0.0))


def test_devices_share_the_units_as_shards_do():
    """Dealt out one by one, the network built once by each who has some of its units."""
    works = [work(0, (64, 64, 10), begin=5.0), work(3, (64,), unit=2.0), work(4, (0,), unit=30.0)]
    assert estimate.on_devices(works, 1) == (5 + 138) + 66 + 30
    assert estimate.on_devices(works, 2) == max(5 + 64 + 10 + 30, 5 + 64 + 66)
    assert estimate.on_devices(works, 3) == max(5 + 64 + 66, 5 + 64 + 30)
    assert estimate.on_devices(works, 64) == 5 + 64


def test_trainings_come_first_and_go_to_who_is_free():
    works = [work(-1, (0,), unit=seconds) for seconds in (50.0, 20.0, 20.0, 5.0)] + [work(0, (8,))]
    assert estimate.on_devices(works, 1) == 95 + 8
    assert estimate.on_devices(works, 2) == 50 + 8
    assert estimate.on_devices(works, 8) == 50 + 8


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_shards_of_the_runner_have_these_units(composed_groups, monkeypatch, parts):
    """What on_devices says is what the shards of a run would do, unit by unit; each has as many as the others, or one
    less."""
    monkeypatch.setattr("pipeline.run.groups.PART", 2)
    groups, shards = composed_groups(parts)
    for count in (1, 3, 7):
        expected = [
            sum(1.0 + 10 * len(group.images(n, context)) for group in own for n in group.numbers)
            + sum(100.0 for _ in own)
            for own, context in shards(count)
        ]
        units = [sum(len(group.numbers) for group in own) for own, _ in shards(count)]
        assert max(units) - min(units) <= 1
        works = [
            work(first, tuple(len(g.images(n, context)) for n in g.numbers), begin=100.0, unit=1.0, image=10.0)
            for first, g, context in groups
        ]
        assert estimate.on_devices(works, count) == max(expected)


@pytest.fixture
def composed_groups(tmp_path):
    """Groups of Fig. 4 of the tiny network with their first units, and the groups of each of so many shards."""

    def made(parts):
        folder = tiny.images(tmp_path / "images", count=2 * parts - 1)
        overrides = [
            "figure=fig4", "profile=demo", *tiny.OWN, "data=folder", f"data.root={folder}", "run.device=cpu",
            "profile.law_seeds=[0,1]", "figure.sweeps.laws.weights=[gaussian,ring,uniform]",
            f"run.output={tmp_path / 'outputs'}",
        ]  # fmt: skip
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", overrides=overrides)
            user = user_of(overrides)
            sweeps = figure_cells(parse(cfg.figure, Sweeps, "figure"), "demo", user)
        cells = [cell for several in sweeps.values() for cell in several]
        context = context_of(parse(cfg.run, Run, "run"))
        firsts = first_units(cells, context)
        groups = [(firsts[g.cells[0].shared_key], g, context) for g in groups_of(cells, cells, context, False)]

        def shards(count):
            found = []
            for number in range(count):
                own = replace(context, run=replace(context.run, shard=f"{number}/{count}"))
                found.append((groups_of(cells, cells, own, False), own))
            return found

        return groups, shards

    return made


@pytest.mark.parametrize(("fixed", "each"), [(3.0, 0.5), (0.0, 0.25), (10.0, 0.0)])
def test_what_a_unit_and_what_an_image_costs(composed_groups, fixed, each):
    """Found from runs of different length, the slow first one left out."""
    groups, _ = composed_groups(20)
    _, group, context = groups[0]
    runs = []

    def run(count):
        runs.append(count)
        return fixed + each * count + (100.0 if len(runs) == 1 else 0.0)

    context = replace(context, run=replace(context.run, batch_size=2))
    unit, image = cost.of_a_part(run, group.cells[0], context, seconds=200.0)
    assert unit == pytest.approx(fixed) and image == pytest.approx(each)
    assert max(runs) <= 39  # no more images than there are


def test_the_clock():
    said = [estimate.clock(seconds) for seconds in (0.044, 0.26, 9.94, 99.4, 100, 5940, 6000, 172_000, 180_000)]
    assert said == ["0.04 s", "0.3 s", "9.9 s", "99 s", "2 min", "99 min", "1 h 40 min", "47 h 47 min", "2 days 2 h"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a while")
def test_memory_is_the_peak_since_the_last_reset():
    device = torch.device("cpu")

    def touched():
        return np.ones(40_000_000).sum()  # 320 MB

    cost.reset_peak(device)
    before = cost.peak(device)
    touched()
    assert cost.peak(device) - before == pytest.approx(320e6, rel=0.1)
    cost.reset_peak(device)
    assert cost.peak(device) - before < 100e6


@pytest.mark.parametrize("attack", ["none", "inputaware"])
def test_a_training_is_measured_all_over(tmp_path, monkeypatch, attack):
    """In its preparation as in each stage, as often as they have steps, and the tests of accuracy are added: against
    the training itself, on a clock that goes on by 1 s at each step, 2 s more in the network's, 6 s more in the second
    stage, and by 0.1 s at each image on which accuracy is measured."""
    overrides = [
        "experiment=train", "model=resnet18_cifar", "model.width=8", "model.batch_norm=true", "data=digits",
        "data.training=64", "data.limit=64", f"attack={attack}", "train.batch_size=16", "train.sizes=[32,16]",
        "train.epochs=[6,4]", "train.test_every=2", "run.device=cpu", f"run.output={tmp_path / 'outputs'}",
    ]  # fmt: skip
    overrides += ["attack.preparation=16", "attack.pairs=4"] if attack == "inputaware" else []
    now = [0.0]

    def takes(function, seconds):
        def call(*args, **named):
            now[0] += seconds(args)
            return function(*args, **named)

        return call

    slow = SimpleNamespace(**vars(torch.nn.functional))
    slow.cross_entropy = takes(slow.cross_entropy, lambda args: 2)
    slow.interpolate = takes(slow.interpolate, lambda args: 6)
    monkeypatch.setattr(training, "F", slow)
    monkeypatch.setattr(training, "augment", takes(training.augment, lambda args: 1))
    tested = takes(training.measured, lambda args: 0.1 * len(args[1].labels))
    monkeypatch.setattr(training, "measured", tested)
    monkeypatch.setattr(cost, "measured", tested)
    monkeypatch.setattr(cost.time, "monotonic", lambda: now[0])
    overrides = hydra_arguments(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        (one,) = job_cells(overrides)
        context = context_of(parse(compose("config", overrides=overrides).run, Run, "run"))
    found = cost.training_seconds(one, context, seconds=80.0)
    assert now[0] < 150, "some steps are enough"
    now[0] = 0.0
    Given([one], context, {}).run([one])
    assert found == pytest.approx(now[0], rel=0.1)


def test_a_figure_whose_images_are_not_here(run, tmp_path):
    """Noise stands in for ImageNet, of which the number is known; nothing is stored."""
    args = ("figure=fig4", *tiny.OWN, "data=imagenet", "data.root=nowhere", "data.limit=130", "profile.law_seeds=[0,1]")
    ended = run("estimate", *args, "figure.sweeps.laws.weights=[gaussian,ring,uniform]")
    assert ended.code == 0
    rows = [" ".join(line.split()) for line in ended.out.splitlines()]
    for start in ("cascade own imagenet 4 x 4 rules 32 130 ", "in all 35 130 "):
        assert [row for row in rows if row.startswith(start)], rows
    assert "measured with noise for the images of imagenet, which are not here" in ended.out
    assert not list((tmp_path / "outputs").rglob("*.parquet"))


def test_when_all_is_there(run, tmp_path):
    args = (*tiny.OWN, "data=folder", f"data.root={tiny.images(tmp_path / 'images', count=3)}", "rule=gbp")
    said = run("estimate", *args).out.splitlines()
    assert said[1].split()[:2] == ["cascade", "own"]
    assert run(*args).code == 0
    assert run("estimate", *args).out == "all 1 tables are there\n"
    assert "1 tables are there and are not counted" in run("estimate", *args, "rule=all", "rule.names=[gbp,lrp]").out


def test_data_of_which_nothing_is_known(run):
    ended = run("estimate", *tiny.OWN, "data=folder", "data.root=nowhere")
    assert ended.code == 1 and ended.complaint.startswith("error: there is nothing at data.root=nowhere")
