import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny

SWEEP = ("-m", "weights=gaussian,ring", "rule=gbp,lrp", "seed=1,2,3")
needs_joblib_launcher = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None, reason="hydra-joblib-launcher is missing"
)


def arguments(tmp_path: Path, *more: str) -> list[str]:
    folder = tmp_path / "images"
    own = [*tiny.OWN, "data=folder", f"data.root={tiny.images(folder) if not folder.is_dir() else folder}"]
    return [*more, *own, "run.device=cpu"]


def started(*args: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *args], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def tables(out: Path) -> dict[str, str]:
    """Checksums of all tables, by experiment and key."""
    return {
        "/".join(path.parts[-3:]): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.glob("results/*/[0-9a-f]*/table.parquet")
    }


@needs_joblib_launcher
def test_the_local_launcher_makes_the_same_tables_and_one_bad_job_does_not_hinder_the_others(run, tmp_path):
    """Eight good jobs and four bad ones, in both ways."""
    sweep = ["-m", "weights=gaussian,ring", "rule=gbp,lrp,external", "seed=1,2"]
    basic = run(*arguments(tmp_path, *sweep), output=tmp_path / "basic")
    code, out, err = started(
        *arguments(tmp_path, *sweep), f"run.output={tmp_path / 'local'}", "hydra/launcher=local",
        "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert (basic.code, code) == (1, 1)
    assert tables(tmp_path / "basic") == tables(tmp_path / "local") and len(tables(tmp_path / "local")) == 8
    names = [{path.parent.name for path in map(Path, text.split())} for text in (basic.out, out)]
    assert names[0] == names[1] and len(names[0]) == 8
    for text in (basic.err, err):
        said = [line for line in text.splitlines() if line.startswith("failed: ")]
        job = "weights=gaussian rule=external seed=1"
        assert said[0] == f"failed: {job}: rule=external lacks the setting 'call'; add it"
        assert len(said) == 4 and "error: 4 of 12 jobs failed" in text


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="only Linux has pipes that keep writes apart")
def test_paths_reach_an_output_that_processes_share_a_whole_line_at_a_time(tmp_path):
    """Unbuffered, as containers often set it, print() writes the end of a line by itself."""
    told, tells = os.pipe2(os.O_DIRECT)  # each read is one write
    subprocess.run(
        [sys.executable, "-um", "pipeline", *arguments(tmp_path, f"run.output={tmp_path}")], stdout=tells,
        check=True, timeout=300, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    os.close(tells)
    writes = list(iter(lambda: os.read(told, 1 << 16).decode(), ""))
    os.close(told)
    assert writes and all(text.endswith("\n") for text in writes)
    assert "".join(writes).split("\n")[-2].endswith("table.parquet")


def test_a_job_with_a_bug_does_not_hinder_the_others(cell, monkeypatch):
    from pipeline.experiments import cascade

    plain = cascade.walk.cascade

    def breaks(record, rules, *args, **kwargs):
        if "RectGrad" in str(rules):
            raise ZeroDivisionError("of our own")
        return plain(record, rules, *args, **kwargs)

    monkeypatch.setattr(cascade.walk, "cascade", breaks)
    ended = cell("-m", "rule=gbp,rectgrad,lrp")
    assert ended.code == 1 and len(ended.made) == 2
    assert "Traceback" in ended.err and "failed: rule=rectgrad: of our own" in ended.err


def test_one_bad_group_of_a_figure_does_not_hinder_the_others(run, tmp_path, monkeypatch):
    from pipeline.errors import UserError
    from pipeline.experiments import cascade
    from tests.test_shards import figure

    plain = cascade.walk.cascade
    seen = []

    def breaks(record, rules, *args, **kwargs):
        seen.append(float(record.logits.sum()))
        if seen[-1] == seen[0]:
            raise UserError("this one can't be explained")
        return plain(record, rules, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(cascade.walk, "cascade", breaks)
        ended = run(*figure(tmp_path))
    assert ended.code == 1 and ended.out == "" and "4 of 35 tables" in ended.complaint
    said = run("status", *figure(tmp_path)).out.splitlines()
    failed = [line for line in said if line.startswith("failed")]
    assert len(failed) == 4 and all("this one can't be explained" in line for line in failed)
    assert said[-1].endswith("0 running, 4 failed, 0 missing")
    assert run(*figure(tmp_path)).code == 0
    assert run("status", *figure(tmp_path)).out.splitlines()[-1].endswith("0 running, 0 failed, 0 missing")


@needs_joblib_launcher
def test_a_figure_by_the_local_launcher(run, tmp_path):
    from tests.test_shards import figure

    asked = [*figure(tmp_path), "profile.law_seeds=[0]"]
    here = run(*asked, output=tmp_path / "here")
    code, out, err = started(
        *asked, "run.device=cpu", f"run.output={tmp_path / 'local'}", "hydra/launcher=local",
        "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert code == 0 and "5/5" in err, err
    assert [Path(line).name for line in out.splitlines()] == [path.name for path in here.made]
    assert tables(tmp_path / "here") == tables(tmp_path / "local")


@needs_joblib_launcher
@pytest.mark.parametrize("sweep", [["-m", "seed=1,2"], ["experiment=attribute"]], ids=["a sweep", "a command"])
def test_a_killed_process_of_the_local_launcher_ends_in_one_sentence(tmp_path, sweep):
    args = arguments(tmp_path, *sweep, "rule=external", "rule.call=tests.tiny:killed", "hydra/launcher=local")
    code, out, err = started(*args, f"run.output={tmp_path / 'local'}", "hydra.launcher.n_jobs=2")
    assert (code, out) == (1, "") and "Traceback" not in err
    assert err.count("error: a process of hydra/launcher=local was killed, perhaps for its memory") == 1, err


def test_a_launcher_that_is_not_installed_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.cli.find_spec", lambda name: None)
    ended = run("hydra/launcher=slurm", *arguments(tmp_path))
    assert ended.code == 1 and ended.complaint.endswith("pip install '.[cluster]'")


# ---- status ----------------------------------------------------------------------------------------------------------


def test_status_tells_where_a_cell_is_running_and_how_far(run, tmp_path, monkeypatch):
    from tests.test_faults import SLOW, wait_for

    args = arguments(tmp_path)
    out = tmp_path / "outputs"
    assert run("status", *args).out.splitlines() == [
        "missing cascade own gaussian seed 100 folder gbp",
        "1 tables: 0 done, 0 running, 0 failed, 1 missing",
    ]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW.format(seconds=1.5), *args, f"run.output={out}"], stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as process:  # fmt: skip
        wait_for(lambda: [*out.glob("results/cascade/.work/*/part-00000.json")])
        said = run("status", *args).out.splitlines()[0]
        process.kill()
    assert said.startswith("running cascade own") and f"process {process.pid} since {time.strftime('%Y-')}" in said
    assert ", part 2 of 3" in said and "1 parts are there" in said
    assert run("status", *args).out.splitlines()[0].endswith("gbp   1 parts are there"), "it is dead"
    assert run(*args).code == 0
    assert run("status", *args).out.splitlines()[-1] == "1 tables: 1 done, 0 running, 0 failed, 0 missing"


@needs_joblib_launcher
def test_status_names_what_a_launched_job_was_refused_for(run, tmp_path):
    sweep = [*arguments(tmp_path), "experiment=rank1", f"run.output={tmp_path / 'outputs'}"]
    launch = ["-m", "rule=gbp,activation", "hydra/launcher=local", "hydra.launcher.n_jobs=1"]
    code, _, err = started(*sweep, *launch)
    assert code == 1 and "error: 1 of 2 jobs failed" in err
    said = run("status", *sweep, "rule=activation").out.splitlines()
    assert said[0].startswith("failed") and "can't work with rule=activation" in said[0]
    assert said[1] == "1 tables: 0 done, 0 running, 1 failed, 0 missing"


def test_a_word_that_is_no_command(tmp_path):
    code, out, err = started("stauts", *arguments(tmp_path))
    assert (code, out) == (1, "") and err.startswith("error: there is no command 'stauts'; choose one of status")
