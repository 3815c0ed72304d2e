import json
import os
import time

import pytest

from pipeline.run.clean import rubbish, size
from pipeline.run.leases import born, here
from pipeline.run.store import Store

KEYS = [f"{number:016x}" for number in range(4)]


@pytest.fixture
def store(tmp_path):
    """A finished cell that is asked for, one that isn't, work of both and of an interrupted run, and left-overs."""
    store = Store(tmp_path)
    cascade = tmp_path / "results" / "cascade"
    for key in KEYS[:2]:
        (cascade / key).mkdir(parents=True)
        (cascade / key / "manifest.json").write_text('{"schema": 1, "table": null}')
    for key in (KEYS[0], KEYS[2], KEYS[3]):
        (cascade / ".work" / key).mkdir(parents=True)
    (cascade / ".work" / KEYS[2] / ".part-00000.abcdef01.parquet").touch()
    (cascade / f".{KEYS[0]}.12345678").mkdir()
    (cascade / ".locks").mkdir()
    (cascade / ".leases").mkdir()
    return store


def names(store, known=(KEYS[0], KEYS[2])):
    root = store.root / "results" / "cascade"
    return {str(one.path.relative_to(root)) for one in rubbish(store, known)}


def lease(store, pid):
    file = store.root / "results" / "cascade" / ".leases" / "group.part-00000"
    about = {"here": here(), "pid": pid, "born": born(pid), "since": 0.0, "beat": 15.0}
    file.write_text(json.dumps(about))


def test_what_no_figure_refers_to_and_what_dead_runs_left(store):
    lease(store, 2**22 + 1)
    left = {
        f".{KEYS[0]}.12345678",
        ".locks",
        ".leases/group.part-00000",
        f".work/{KEYS[2]}/.part-00000.abcdef01.parquet",
    }
    assert names(store) == left | {KEYS[1], f".work/{KEYS[3]}", f".work/{KEYS[0]}"}


def test_what_a_living_process_may_be_at_stays(store):
    lease(store, os.getpid())
    assert names(store) == {".locks", KEYS[1]}


def test_temporary_files_of_figures_go_when_they_are_old(store):
    figures = store.root / "figures"
    figures.mkdir()
    for name, hours in (("new", 0), ("old", 2)):
        (figures / f".fig2.{name}.pdf").touch()
        os.utime(figures / f".fig2.{name}.pdf", (time.time() - 3600 * hours,) * 2)
    (figures / ".fig2.json").touch()
    found = [one.path.name for one in rubbish(store, KEYS) if "figures" in str(one.path)]
    assert found == [".fig2.old.pdf"]


def test_it_asks_and_removes_what_it_listed(cell, tmp_path, monkeypatch):
    """Of a table that a figure refers to, and one that none does."""
    from pipeline import commands

    kept, other = (cell(f"seed={seed}").made[-1].parent for seed in (100, 7))
    monkeypatch.setattr(commands, "cells_of_all", lambda hydra_config: [])
    monkeypatch.setattr("pipeline.run.status.with_trainings", lambda cells, context: [Keyed(kept.name)])
    for answer, gone in (("", False), ("n\n", False), ("y\n", True)):
        monkeypatch.setattr("sys.stdin", Answers(answer))
        ended = cell("clean")
        assert ended.code == 0 and ended.out.splitlines()[0].startswith(f"{other}   ")
        assert ended.out.splitlines()[-1].startswith("1 to remove, ")
        assert other.is_dir() != gone and kept.is_dir()
    assert cell("clean").out == "0 to remove, 0 bytes\n"


class Answers:
    def __init__(self, text):
        self.text = text

    def readline(self):
        return self.text


class Keyed:
    def __init__(self, key):
        self.key = key


@pytest.mark.parametrize(("number", "text"), [(0, "0 bytes"), (999, "999 bytes"), (34.2e6, "34 MB"), (2.5e9, "2.5 GB")])
def test_sizes(number, text):
    assert size(number) == text
