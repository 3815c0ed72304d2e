"""What can go wrong around a run: it ends in one sentence or is mended, and no wrong or half table is left."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.run.clean import rubbish
from pipeline.run.leases import Leases, create, here
from pipeline.run.store import Store
from tests import tiny

SMALL_PARTS = "from pipeline.run import groups; groups.PART = 2; from pipeline.cli import main; main()"


def start(*args: str) -> subprocess.Popen:
    return subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr("pipeline.run.groups.PART", 2)


@pytest.fixture
def whole(cell, tmp_path, small_parts, monkeypatch):
    """Arguments, and the bytes of the table and the maps that a run of 9 images makes which nothing disturbs. (Without
    its picture, which would take longest.)"""
    monkeypatch.setattr("pipeline.run.drawn.draw_figure", lambda *args, **more: None)
    folder = tiny.images(tmp_path / "many", count=9)
    args = ("experiment=attribute", "rule=gbp", f"data.root={folder}")
    return args, contents(cell(*args, output=tmp_path / "undisturbed").made[-1].parent)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("table.parquet", "maps.safetensors")}


# ---- killed ----------------------------------------------------------------------------------------------------------

FORKED = """
import os, pathlib, random, signal, sys, time
from pipeline.run import groups
groups.PART = 2
import pipeline.run.drawn, pipeline.cli  # imported once; each run is a fork
pipeline.run.drawn.draw_figure = lambda *args, **more: None

def fork(out):
    if pid := os.fork():
        return pid
    sys.stdout = sys.stderr = open(os.devnull, "w")
    pipeline.cli.main([*sys.argv[3:], "run.output=" + out])
    os._exit(0)

def first_part(out):
    while not [*out.glob("results/attribute/.work/*/part-*.json")] and not [*out.glob("results/*/*/manifest.json")]:
        time.sleep(0.001)

alone, start, draw = pathlib.Path(sys.argv[1], "alone"), time.monotonic(), random.Random(0)
pid = fork(str(alone))
first_part(alone)
computes = time.monotonic()
os.waitpid(pid, 0)
before, after = computes - start, time.monotonic() - computes
folders = int(sys.argv[2])
for i in range(2 * folders):
    out = pathlib.Path(sys.argv[1], str(i % folders))
    pid = fork(str(out))
    if i % 2:  # seldom hit by chance where starting takes longest
        first_part(out)
        time.sleep(draw.uniform(0, 0.7) * after)
    else:
        time.sleep(draw.uniform(0.1, 1) * (before + after))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("folders", [12, pytest.param(25, marks=pytest.mark.long)])
def test_a_run_that_is_killed_at_any_time_leaves_no_wrong_or_half_table(cell, whole, tmp_path, folders):
    """SIGKILL at two random points of runs into each folder: a table that is there is right, and the next run makes
    those that are not."""
    args, expected = whole
    out = tmp_path / "killed"
    arguments = [*tiny.OWN, "data=folder", *args, "run.device=cpu"]
    with start(sys.executable, "-c", FORKED, str(out), str(folders), *arguments) as process:
        assert process.wait(timeout=240) == 0
    parts, tables = [*out.glob("*/results/attribute/.work/*/part-*.json")], [*out.glob("*/results/*/*/manifest.json")]
    assert parts and tables, "killed at different points"
    for manifest in tables:
        assert contents(manifest.parent) == expected
    for i in range(folders):
        assert contents(cell(*args, output=out / str(i)).made[-1].parent) == expected
        for left in rubbish(
            Store(out / str(i)), [path.parent.name for path in out.glob(f"{i}/results/*/*/table.parquet")]
        ):
            left.remove()
    assert not [*out.glob("*/results/attribute/.*/*"), *out.glob("*/results/attribute/.*.*")]


def test_leases_of_dead_processes_go_when_their_units_are_done(whole, cell, tmp_path):
    """A process that is killed between storing what it did and giving the lease back; and one that lives."""
    args, expected = whole
    out, dead = tmp_path / "out", {"token": "dead", "here": here(), "pid": 2**22 + 1, "born": "1"}
    folder = out / "results" / "attribute" / ".leases"
    for _ in range(2):  # to do, and finished
        for name, about in {"dead": dead, ".dead.dead": dead, "alive": {**dead, "here": "elsewhere"}}.items():
            create(folder / f"{name}.part-00001", about)
        assert contents(cell(*args, output=out).made[-1].parent) == expected
        assert [path.name for path in folder.iterdir()] == ["alive.part-00001"]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR2", 140), ("SIGINT", 130)])
def test_what_a_batch_system_sends_ends_a_run_that_goes_on_later(whole, cell, tmp_path, name, code):
    args, expected = whole
    out = tmp_path / "stopped"
    slow = SLOW.format(seconds=0.2)
    with start(sys.executable, "-c", slow, *tiny.OWN, "data=folder", *args, f"run.output={out}") as process:
        wait_for(lambda: [*out.glob("results/attribute/.work/*/part-00001.json")])
        process.send_signal(getattr(signal, name))
        _, err = process.communicate(timeout=60)
    assert process.returncode == code and err.splitlines()[-1].endswith("the same command goes on from here")
    assert not [*out.glob("results/attribute/.leases/*")], "leases are given back"
    parts = {path: path.stat().st_mtime_ns for path in out.glob("results/attribute/.work/*/part-*.json")}
    assert 2 <= len(parts) < 5
    assert contents(cell(*args, output=out).made[-1].parent) == expected


INTERRUPTED = """
import pathlib, sys
from pipeline.run import leases
path, name, before = sys.argv[1:]
plain = getattr(leases, name)
def interrupted(*args):
    setattr(leases, name, plain)
    before or plain(*args)
    raise KeyboardInterrupt
setattr(leases, name, interrupted)
with leases.Leases(60.0).lease(pathlib.Path(path), {}):
    assert pathlib.Path(path).is_file()
"""


@pytest.mark.parametrize("before", ["before", ""])
@pytest.mark.parametrize("name", ["create", "give_back", "holder", "touch"])
def test_a_signal_at_any_moment_of_a_lease_leaves_none(tmp_path, name, before):
    """Just before or after a step of taking it or giving it back."""
    with start(sys.executable, "-c", INTERRUPTED, str(tmp_path / "leases" / "unit"), name, before) as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode == 0) == (name == "touch") and "AssertionError" not in err
    assert not [*tmp_path.glob("leases/*")]


SLOW = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
from pipeline.run import groups
groups.PART = 2
plain = groups.compute_part
def slow(*args):
    time.sleep({seconds})
    plain(*args)
groups.compute_part = slow
from pipeline.cli import main
main()
"""


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


# ---- damaged ---------------------------------------------------------------------------------------------------------


def flip(file: Path, draw: random.Random) -> None:
    """One bit of a file."""
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["table.parquet", "manifest.json", "config.yaml", "maps.safetensors"])
def test_a_flipped_bit_in_a_finished_cell_is_found(whole, cell, name):
    args, expected = whole
    made = cell(*args).made[-1].parent
    for seed in range(4):
        flip(made / name, random.Random(seed))
        assert contents(cell(*args).made[-1].parent) == expected, seed


@pytest.mark.parametrize("end", ["parquet", "json", "maps.safetensors"])
def test_a_flipped_bit_in_a_part_is_found(whole, cell, tmp_path, end):
    args, expected = whole
    cell(*args, "run.shard=0/2")
    (part,) = (tmp_path / "outputs").glob(f"results/attribute/.work/*/part-00002.{end}")
    flip(part, random.Random(1))
    assert contents(cell(*args).made[-1].parent) == expected


def test_an_output_folder_that_vanishes_is_made_again(whole, cell, tmp_path):
    """While the run is under way; what was finished is computed again."""
    args, expected = whole
    out = tmp_path / "vanishing"
    slow = SLOW.format(seconds=0.2)
    with start(sys.executable, "-c", slow, *tiny.OWN, "data=folder", *args, f"run.output={out}") as process:
        wait_for(lambda: [*out.glob("results/attribute/.work/*/part-00002.json")])
        out.rename(tmp_path / "gone")
        said, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert contents(Path(said.splitlines()[-1]).parent) == expected


# ---- missing room, rights, readers -----------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path):
    """mounted(options): a folder that is a file system in memory of its own."""
    place = tmp_path / "mounted"
    place.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return place

    yield mount
    subprocess.run(["umount", "-l", place], capture_output=True)


def test_a_full_disk_ends_in_one_sentence_and_nothing_half(whole, cell, mounted):
    args, expected = whole
    out = mounted("size=64k")
    ended = cell(*args, output=out)
    assert ended.code == 1 and "No space left on device" in ended.complaint and "same command" in ended.complaint
    assert not [*out.glob("results/attribute/*/table.parquet"), *out.glob("results/attribute/.*.*")]
    assert subprocess.run(["mount", "-o", "remount,size=8m", out]).returncode == 0
    assert contents(cell(*args, output=out).made[-1].parent) == expected


def test_a_read_only_folder_ends_in_one_sentence(whole, cell, mounted):
    args, _ = whole
    out = mounted("size=8m")
    (out / "results").mkdir()
    assert subprocess.run(["mount", "-o", "remount,ro", out]).returncode == 0
    ended = cell(*args, output=out)
    assert ended.code == 1 and "can't be written" in ended.complaint and "run.output" in ended.complaint


def test_a_dead_worker_of_the_data_loader_ends_in_one_sentence(whole, cell, tmp_path):
    """Killed for its memory, say."""
    args, expected = whole
    dying = "import os, signal; from pipeline.images import batches\n" + (
        "batches._Loaded.__getitem__ = lambda self, i: os.kill(os.getpid(), signal.SIGKILL)\n" + SMALL_PARTS
    )
    arguments = [*tiny.OWN, "data=folder", *args, f"run.output={tmp_path / 'outputs'}", "run.workers=1"]
    with start(sys.executable, "-c", dying, *arguments) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "run.workers" in err.splitlines()[-1] and "Traceback" not in err
    assert contents(cell(*args, "run.workers=1").made[-1].parent) == expected


def test_a_job_whose_node_died_is_taken_over(whole, cell, monkeypatch):
    """Its lease is of another host and has no heartbeat any more."""
    args, expected = whole
    plain, paths = Leases.lease, []
    with monkeypatch.context() as patch:
        patch.setattr(Leases, "lease", lambda self, path, about: paths.append(path) or plain(self, path, about))
        cell(*args, "run.shard=1/2")
    lease = paths[0].with_name(paths[0].name.replace("part-00001", "part-00000"))
    lease.write_text(json.dumps({"token": "theirs", "here": "a node that died", "pid": 1, "born": "1"}))
    ended = cell(*args, "run.heartbeat=0.1")
    assert contents(ended.made[-1].parent) == expected and "waiting for it" in ended.err
    assert not lease.exists()
