import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from pipeline.files import save_atomically
from pipeline.run.store import replace_folder
from tests import tiny


def test_nothing_is_left_of_a_write_that_fails(tmp_path):
    def fail(path):
        path.write_text("half")
        raise KeyboardInterrupt

    (tmp_path / "table").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        save_atomically(tmp_path / "table", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["table"] and (tmp_path / "table").read_text() == "old"


def test_a_second_writer_between_two_steps_is_harmless(tmp_path, monkeypatch):
    """Without working locks another process may put its folder in place between our two renames."""
    new, place = tmp_path / ".new", tmp_path / "place"
    for folder, text in ((new, "ours"), (place, "old")):
        folder.mkdir()
        (folder / "table").write_text(text)
    plain, times = os.rename, []

    def rename(source, target):
        plain(source, target)
        if source == place and len(times) < 2:  # the other one is faster, twice
            times.append(1)
            place.mkdir()
            (place / "table").write_text("theirs")

    monkeypatch.setattr(os, "rename", rename)
    replace_folder(new, place)
    assert (place / "table").read_text() == "ours" and [p.name for p in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize("damage", ["table cut off", "table gone", "manifest gone", "manifest cut off"])
def test_a_damaged_cell_counts_as_not_there(cell, damage):
    made = cell().made[-1]
    good = pd.read_parquet(made)
    what, how = damage.split(" ", 1)
    file = made if what == "table" else made.parent / "manifest.json"
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-20])
    ended = cell()
    assert ended.code == 0
    pd.testing.assert_frame_equal(pd.read_parquet(ended.made[-1]), good)


SLOW = """
import time, sys
from pipeline.engine import walk
plain = walk.cascade
def slow(*args, **kwargs):
    time.sleep(0.25)
    return plain(*args, **kwargs)
walk.cascade = slow
from pipeline.cli import main
main()
"""


def test_a_killed_run_goes_on_inside_its_cell(tmp_path, cell):
    """200 images are four parts; the run is killed (SIGKILL) after the first, and what was finished is kept."""
    folder = tiny.images(tmp_path / "many", count=200)
    out = tmp_path / "killed"
    args = [*tiny.OWN, "data=folder", f"data.root={folder}", f"run.output={out}", "run.batch_size=16", "run.device=cpu"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    deadline = time.time() + 120
    first_part = "results/cascade/.work/*/part-00000.json"
    while not list(out.glob(first_part)) and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    parts = list(out.glob("results/cascade/.work/*/part-*.json"))
    assert 1 <= len(parts) < 4 and not list(out.glob("results/cascade/*/table.parquet"))
    stamps = {p.name: p.stat().st_mtime_ns for p in parts}
    computed = []
    from pipeline.experiments import cascade

    plain = cascade.walk.cascade
    try:
        cascade.walk.cascade = lambda record, *a, **k: computed.append(len(record.x)) or plain(record, *a, **k)
        ended = cell(f"data.root={folder}", "run.batch_size=16", output=out)
    finally:
        cascade.walk.cascade = plain
    assert ended.code == 0, ended.err
    assert sum(computed) == 200 - 64 * len(stamps)
    whole = cell(f"data.root={folder}", "run.batch_size=16", output=tmp_path / "whole")
    pd.testing.assert_frame_equal(pd.read_parquet(ended.made[-1]), pd.read_parquet(whole.made[-1]))
    assert not list(out.glob("results/cascade/.work/*"))


def test_two_processes_at_once_make_one_table(tmp_path):
    folder = tiny.images(tmp_path / "images", count=40)
    out = tmp_path / "outputs"
    args = [sys.executable, "-m", "pipeline", *tiny.OWN, "data=folder", f"data.root={folder}", f"run.output={out}"]
    both = [subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    paths = [p.communicate(timeout=180)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0] and paths[0] == paths[1]
    assert len(list(out.glob("results/cascade/*/table.parquet"))) == 1


def test_parts_of_other_weights_are_not_taken_over(cell, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.run.groups.PART", 2)
    weights, images = tmp_path / "w.pt", tmp_path / "images"
    args = ("weights=checkpoint", f"weights.path={weights}")
    torch.save(tiny.network().state_dict(), weights)
    last = images / "image004.png"
    whole = last.read_bytes()
    last.write_bytes(whole[:60])
    assert (
        "image004.png can't be read" in cell(*args).complaint
        and len(list((tmp_path / "outputs").glob("results/cascade/.work/*/part-*.json"))) == 2
    )
    last.write_bytes(whole)
    torch.manual_seed(9)
    torch.save(tiny.network().state_dict(), weights)
    resumed, fresh = cell(*args).made[-1], cell(*args, output=tmp_path / "fresh").made[-1]
    assert resumed.read_bytes() == fresh.read_bytes()
