import os
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager

import pytest

from pipeline.run.leases import Leases
from tests import tiny

PARTS_OF_TWO = "from pipeline.run import groups; groups.PART = 2"
LOGGED = f"""
import sys, time
{PARTS_OF_TWO}
from pipeline.experiments import cascade
plain = cascade.walk.cascade
def logged(record, *args, **kwargs):
    with open(sys.argv.pop(), "a") as log:
        log.write(f"{{float(record.x.sum()):.6f}} {{record.logits.tolist()}} {{args}}\\n")
    sys.argv.append(log.name)
    time.sleep(0.05)
    return plain(record, *args, **kwargs)
cascade.walk.cascade = logged
from pipeline.cli import main
main(sys.argv[1:-1])
"""


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr("pipeline.run.groups.PART", 2)


def figure(tmp_path):
    """Fig. 4 of the tiny network: 14 tables of 4 images."""
    folder = tiny.images(tmp_path / "images", count=4)
    own = [*tiny.OWN, "data=folder", f"data.root={folder}"]
    laws = "figure.sweeps.laws.weights=[gaussian,ring,uniform]"
    return ["figure=fig4", *own, "profile.law_seeds=[0,1]", laws]


def at_once(commands, log):
    """Exit codes and stdouts of processes that run side by side."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", LOGGED, *command, str(log)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        for command in commands
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * len(started), said
    return [out for out, _ in said]


@pytest.mark.parametrize(("count", "first"), [(1, 0), (3, 1), (8, 0)], ids=["of 1", "of 3, from 1", "of 8, from 0"])
def test_shards_make_the_same_table(cell, tmp_path, monkeypatch, count, first):
    """Byte for byte that of a single part, the picture of the maps included; whichever is the last one merges."""
    folder = tiny.images(tmp_path / "many", count=13)
    args = ("experiment=attribute", "rule=all", "rule.names=[gbp,lrp]", f"data.root={folder}", "run.batch_size=2")
    whole = cell(*args, output=tmp_path / "whole").made
    monkeypatch.setattr("pipeline.run.groups.PART", 2)
    ends = [
        cell(*args, f"run.shard={number}/{count}", output=tmp_path / "shards")
        for number in [*range(first, first + count)][::-1]
    ]
    assert [end.code for end in ends] == [0] * count
    assert all(end.out == "" and "left to the processes" in end.err for end in ends[:-1])
    made = ends[-1].made
    assert len(made) == 5 and not list((tmp_path / "shards").glob("results/attribute/.work/*"))
    for one, other in zip(whole, made, strict=True):
        if one.suffix == ".parquet":
            assert one.read_bytes() == other.read_bytes()
            maps = [path.parent / "maps.safetensors" for path in (one, other)]
            assert maps[0].read_bytes() == maps[1].read_bytes()


def test_shards_at_once_compute_each_part_once(tmp_path):
    folder, out, log = tiny.images(tmp_path / "many", count=24), tmp_path / "outputs", tmp_path / "log"
    args = [*tiny.OWN, "data=folder", f"data.root={folder}", f"run.output={out}", "run.device=cpu"]
    said = at_once([[*args, f"run.shard={number}/3"] for number in range(3)], log)
    computed = log.read_text().splitlines()
    assert len(computed) == len(set(computed)) == 12
    assert len(list(out.glob("results/cascade/*/table.parquet"))) == 1 and any(said)


def test_a_run_without_a_shard_finishes_what_shards_left(cell, tmp_path, small_parts):
    folder = tiny.images(tmp_path / "many", count=9)
    whole = cell(f"data.root={folder}", output=tmp_path / "whole").made[-1]
    cell(f"data.root={folder}", "run.shard=1/3")
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "outputs").glob("results/cascade/.work/*/*.parquet")}
    assert len(parts) == 2
    assert cell(f"data.root={folder}").made[-1].read_bytes() == whole.read_bytes()


def test_cells_without_images_are_dealt_out_too(run, tmp_path):
    args = ("experiment=weight_stats", *tiny.OWN, "data=folder", f"data.root={tiny.images(tmp_path / 'images')}")
    made = [run(*args, f"run.shard={number}/2", output=tmp_path / str(number)).made for number in range(2)]
    assert sorted(map(len, made)) == [0, 1]


@pytest.mark.parametrize("experiment", ["cascade", "weight_stats"])
def test_what_is_finished_between_a_look_and_a_lease_is_not_computed_again(run, tmp_path, monkeypatch, experiment):
    args = [f"experiment={experiment}", *tiny.OWN, "data=folder", f"data.root={tiny.images(tmp_path / 'images')}"]
    out, plain, computed = tmp_path / "outputs", Leases.lease, []

    @contextmanager
    def late(self, path, about):
        if not computed:  # at the first lease
            command = [sys.executable, "-m", "pipeline", *args, f"run.output={out}", "run.device=cpu"]
            computed.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        with plain(self, path, about) as mine:
            yield mine

    monkeypatch.setattr(Leases, "lease", late)
    monkeypatch.setattr("pipeline.run.groups.Given.run", lambda *args: pytest.fail("it is there"))
    assert run(*args, output=out).out == computed[0]


def test_two_processes_take_different_cells_and_compute_nothing_twice(tmp_path):
    """Both draw the same figure: each takes what the other is not at, and at the end helps or waits."""
    out, log = tmp_path / "outputs", tmp_path / "log"
    args = [*figure(tmp_path), f"run.output={out}", "run.device=cpu"]
    said = at_once([args] * 2, log)
    assert said[0] == said[1] and said[0].endswith("fig4.pdf\n")
    assert max(Counter(log.read_text().splitlines()).values()) == 1
    assert not list(out.glob("results/cascade/.leases/*"))


@pytest.mark.parametrize("shard", ["3/2", "2 of 8", "0/0", "/3", "1/2/3", "-1/3"])
def test_what_is_no_shard_is_refused(cell, shard):
    ended = cell(f"run.shard={shard}")
    assert ended.code == 1 and "such as 2/8" in ended.complaint and len(ended.err.strip().splitlines()) == 1


def test_shards_do_not_compute_anew_what_others_do(cell):
    ended = cell("run.shard=1/2", "run.force=true")
    assert ended.code == 1 and "run.shard" in ended.complaint


def test_a_figure_is_drawn_by_the_last_shard(run, tmp_path):
    ends = [run(*figure(tmp_path), f"run.shard={number}/2") for number in range(2)]
    assert [end.code for end in ends] == [0, 0] and ends[0].out == ""
    assert ends[1].made[-1].name == "fig4.pdf" and ends[1].made[-1].is_file()


def test_only_the_groups_that_are_named_are_computed(run, tmp_path):
    first = run(*figure(tmp_path), "run.groups=[]")
    assert first.code == 0 and first.out == "" and not list((tmp_path / "outputs").glob("results/*/*/table.parquet"))
