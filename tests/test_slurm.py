"""The same tables by SLURM: a cluster of one node, started by scripts/slurm_cluster.sh. `make test-slurm`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.test_launchers import tables

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "scripts" / "slurm_cluster.sh"
LAUNCHER = [
    "hydra/launcher=slurm", "hydra.launcher.partition=debug", "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.mem_gb=1", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10",
    "hydra.launcher.signal_delay_s=5",
]  # fmt: skip

if os.environ.get("PIPELINE_TEST_SLURM") != "1":
    pytest.skip("PIPELINE_TEST_SLURM is not 1 (make test-slurm sets it)", allow_module_level=True)
if not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
    pytest.skip("SLURM is not installed; scripts/slurm_cluster.sh install does it", allow_module_level=True)
pytest.importorskip("submitit", reason="hydra-submitit-launcher is missing")


@pytest.fixture(scope="module")
def slurm():
    """The environment in which SLURM's commands work."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        started = subprocess.run([CLUSTER, "start", folder], capture_output=True, text=True, timeout=240)
        assert started.returncode == 0, started.stderr
        path = started.stdout.strip().removeprefix("export SLURM_CONF=")
        yield {**os.environ, "SLURM_CONF": path, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    finally:
        subprocess.run([CLUSTER, "stop", folder], capture_output=True, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def images(tmp_path) -> list[str]:
    """Overrides for 200 images, four parts."""
    return [*tiny.OWN, "data=folder", f"data.root={tiny.images(tmp_path / 'images', count=200)}", "run.device=cpu"]


def slow(tmp_path: Path, images: list[str], *more: str) -> list[str]:
    """Two jobs of four parts, a second each."""
    external = ["experiment=attribute", "rule=external", "rule.call=tests.tiny:slow_gradient", "run.batch_size=64"]
    return ["-m", *external, *images, "seed=1,2", f"run.output={tmp_path / 'slurm'}", "run.heartbeat=0.5", *more]


def begin(slurm, *args: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=slurm
    )


def asked(slurm, *command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, env=slurm, timeout=60, check=True).stdout


def wait_for(what: Callable[[], object], seconds: float = 90) -> object:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)
    return found


def parts(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob("results/attribute/.work/*/part-*.json")}


def undisturbed(run, tmp_path: Path, images: list[str]) -> dict[str, str]:
    args = [arg for arg in slow(tmp_path, images) if not arg.startswith("run.output")]
    assert run(*args, output=tmp_path / "here").code == 0
    return tables(tmp_path / "here")


def test_a_sweep_makes_the_same_tables_and_names_what_failed(slurm, run, tmp_path, images):
    sweep = ["-m", *images, "weights=gaussian,ring", "rule=gbp,external"]
    assert run(*sweep, output=tmp_path / "here").code == 1
    with begin(slurm, *sweep, f"run.output={tmp_path / 'slurm'}", *LAUNCHER) as process:
        _, err = process.communicate(timeout=180)
    assert process.returncode == 1 and "error: 2 of 4 jobs failed" in err, err
    assert "failed: weights=ring rule=external: rule=external lacks the setting 'call'" in err
    assert tables(tmp_path / "here") == tables(tmp_path / "slurm") and len(tables(tmp_path / "slurm")) == 2


def test_a_killed_job_leaves_its_sibling_alone_and_the_next_run_finishes(slurm, run, tmp_path, images):
    expected, out = undisturbed(run, tmp_path, images), tmp_path / "slurm"
    with begin(slurm, *slow(tmp_path, images), *LAUNCHER) as process:
        wait_for(lambda: len({path.parent for path in parts(out)}) == 2)
        victim = next(iter(out.glob("results/attribute/.leases/*.part-*")))
        os.kill(json.loads(victim.read_text())["pid"], signal.SIGKILL)
        _, err = process.communicate(timeout=240)
    assert process.returncode == 1 and "has not produced any output" in err, err
    wait_for(lambda: len(tables(out)) == 1)
    assert tables(out).items() <= expected.items()
    assert parts(out)
    assert run(*slow(tmp_path, images), output=out).code == 0
    assert tables(out) == expected


def test_preempted_jobs_go_on_from_their_last_finished_part(slurm, run, tmp_path, images):
    """One is warned as a job that is preempted or out of time, the other put into the queue by hand."""
    expected, out = undisturbed(run, tmp_path, images), tmp_path / "slurm"
    with begin(slurm, *slow(tmp_path, images), *LAUNCHER, "hydra.launcher.max_num_timeout=3") as process:
        wait_for(lambda: len({path.parent for path in parts(out)}) == 2)
        warned, requeued = asked(slurm, "squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").split()
        before = parts(out)
        asked(slurm, "scancel", "--signal=USR2", warned)
        asked(slurm, "scontrol", "requeue", requeued)
        written = {}
        wait_for(lambda: written.update(parts(out)) or process.poll() is not None, seconds=240)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert tables(out) == expected
    assert all(written[path] == stamp for path, stamp in before.items()), "parts are computed once"
    for job in (warned, requeued):

        def states(job=job) -> list[str]:
            return asked(slurm, "sacct", "-X", "-D", "-n", "-P", "-j", job, "-o", "state").split()

        wait_for(lambda states=states: states()[-1] == "COMPLETED")  # accounting lags behind
        assert states()[0] in ("REQUEUED", "PREEMPTED"), states()


def arrays(slurm) -> set[str]:
    """Numbers of all jobs that were ever sent, an array as one."""
    return {job.split("_")[0] for job in asked(slurm, "sacct", "-X", "-n", "-P", "-o", "jobid").split()}


def figure(images: list[str]) -> list[str]:
    laws = "figure.sweeps.laws.weights=[gaussian,ring]"
    return ["figure=fig4", *images, "data.limit=5", "profile.law_seeds=[0]", laws]


def test_a_figure_by_jobs_that_are_sent_once(slurm, run, tmp_path, images):
    """Sent without waiting, asked for again while they are under way: nothing is sent twice, and it is drawn."""
    assert run(*figure(images), output=tmp_path / "here").code == 0
    args = [*figure(images), f"run.output={tmp_path / 'slurm'}", *LAUNCHER]
    with begin(slurm, *args, "run.wait=false") as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "") and "jobs sent, 0 under way" in err, err
    sent = arrays(slurm)
    with begin(slurm, *args) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert arrays(slurm) == sent
    assert out.splitlines()[-1].endswith("fig4.pdf")
    assert tables(tmp_path / "here") == tables(tmp_path / "slurm")
    with begin(slurm, *args) as process:
        assert process.communicate(timeout=120)[0] == out, "it is there"


def test_a_batch_script_out_of_time_goes_on(slurm, run, tmp_path, images):
    """SLURM warns it, it ends at once, and is put into the queue again."""
    args = [arg for arg in slow(tmp_path, images) if arg != "-m"]
    args[args.index("seed=1,2")] = "seed=1"
    assert run(*[arg for arg in args if "run.output" not in arg], output=tmp_path / "here").code == 0
    out, small = tmp_path / "slurm", ["--mem=1G", "--cpus-per-task=1", f"--output={tmp_path}/log", "--parsable"]
    job = asked({**slurm, "PYTHONPATH": str(ROOT)}, "sbatch", *small, str(ROOT / "scripts/cells.sbatch"), *args).strip()
    before = wait_for(lambda: parts(out))
    asked(slurm, "scancel", "--batch", "--signal=USR2", job)
    wait_for(lambda: tables(out), seconds=120)
    assert tables(out) == tables(tmp_path / "here")
    assert "stopped by SIGTERM; the same command goes on from here" in (tmp_path / "log").read_text() and before


def test_the_commands_of_the_readme(slurm, tmp_path, images):
    """Those of "On a cluster", word for word but for the partition, and with a tiny network. What the batch scripts
    make together, each from nothing, are the tables of the other commands."""
    section = re.search(r"## On a cluster\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.S)
    assert section
    lines = [line for block in re.findall(r"```sh\n(.*?)```", section[1], re.S) for line in block.splitlines()]
    commands = [line.split("#")[0].strip() for line in lines if line.strip() and not line.startswith("pip ")]
    assert len(commands) >= 5
    small = " ".join([*figure(images)[1:], f"run.output={tmp_path / 'slurm'}"])
    for command in commands:
        said = (
            command.replace("--gres=gpu:4 ", "")
            .replace("=gpu", "=debug")
            .replace("profile=paper", "")
            .replace("PROFILE=paper", "")
        )
        if said.startswith("make"):
            more = "hydra.launcher.gpus_per_node=null hydra.launcher.mem_gb=1 hydra.launcher.cpus_per_task=1"
            given = re.search(r'ARGS="([^"]*)"', said)
            said = re.sub(r' ARGS="[^"]*"', "", said) + f" PYTHON={sys.executable}"
            said += f" 'ARGS={given[1] if given else ''} {small} {more if 'LAUNCHER=slurm' in said else ''}'"
        elif said.startswith("sbatch"):
            options = f"--wait --mem=1G --cpus-per-task=1 --output={tmp_path}/log"
            said = said.replace("sbatch", f"sbatch {options}", 1) + f" {small} run.output={tmp_path / 'batch'}"
            said = said.replace("--array=0-7", "--array=0-2")
            shutil.rmtree(tmp_path / "batch", ignore_errors=True)
        elif "experiment=" in said:
            said = said.replace("python -m", f"{sys.executable} -m") + " " + " ".join([*images, *LAUNCHER[2:]])
            said += f" run.output={tmp_path / 'slurm'} data.limit=5"
        else:
            said = said.replace("python -m", f"{sys.executable} -m") + f" {small}"
        done = subprocess.run(
            ["bash", "-c", said], cwd=ROOT, env={**slurm, "PROCESSES": "2"}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{said}\n{done.stdout}\n{done.stderr}"
        if said.startswith("sbatch"):
            assert tables(tmp_path / "batch").items() <= tables(tmp_path / "slurm").items()
            assert len(tables(tmp_path / "batch")) > 1 and (tmp_path / "batch" / "figures" / "fig4.pdf").is_file()
