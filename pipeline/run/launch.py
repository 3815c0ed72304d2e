"""Missing cells as jobs: on SLURM, or in processes of this machine. Each job is a command line of this program."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.errors import UserError
from pipeline.files import save_atomically
from pipeline.run.cell import Cell, digest

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE")
POLL = 2.0  # seconds


class Command:
    """A command line as what a job runs; put into the queue again when the job is preempted or out of time."""

    def __call__(self, arguments: Sequence[str]) -> str:
        """Why it failed, else ""."""
        from pipeline.cli import main

        try:
            main(arguments)
        except SystemExit as end:
            return str(end.code or "")
        return ""

    def checkpoint(self, arguments: Sequence[str]) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, arguments)


def tasks_of(cells: Sequence[Cell], todo: Sequence[Cell]) -> list[list[str]]:
    """Shared keys of cells that go into one job: those of one network on the same images, where any is to do."""
    found: dict[str, dict[str, bool]] = {}
    wanted = {cell.shared_key for cell in todo}
    for cell in cells:
        parts = {name: cell.identity.get(name) for name in ("model", "weights", "seed", "dtype", "data")}
        found.setdefault(digest(parts), {})[cell.shared_key] = cell.shared_key in wanted
    return [list(keys) for keys in found.values() if any(keys.values())]


def launch(tasks: Sequence[Sequence[str]], overrides: Sequence[str], launcher: Mapping[str, Any], wait: bool) -> None:
    """Run each task (shared keys) in a job of its own. overrides: of the command; launcher: Hydra's configuration of
    its launcher. wait: until they have ended, which is all that processes of this machine can do. Raises UserError for
    jobs that failed."""
    commands = [[*overrides, f"run.groups=[{','.join(task)}]"] for task in tasks]
    jobs = on_slurm(commands, launcher, wait) if "Slurm" in launcher["_target_"] else locally(commands, launcher)
    failed = []
    with tqdm(total=len(commands), unit="job", file=sys.stderr, dynamic_ncols=True) as bar:
        for why in jobs:
            bar.update()
            if why:
                failed.append(why)
                bar.write(why, file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed)} of {len(commands)} jobs failed, the first: {failed[0].removeprefix('error: ')}")


def locally(commands: Sequence[Sequence[str]], launcher: Mapping[str, Any]) -> Iterator[str]:
    """In processes of this machine; why each failed, in the order in which they end."""
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=launcher["n_jobs"], return_as="generator_unordered")
    yield from parallel(delayed(Command())(command) for command in commands)  # type: ignore[misc]


# ---- SLURM -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Note:
    """Where it stands which job has a command, so that none is sent twice."""

    folder: Path
    command: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.folder / f"{digest({'command': self.command})}.job"

    def job(self) -> Any:
        """The job that has the command and has not ended, None if there is none."""
        from submitit.slurm.slurm import SlurmJob

        with contextlib.suppress(OSError):
            name, folder = self.path.read_text().split("\n", 1)
            job = SlurmJob(folder=folder, job_id=name)
            return None if ended(job) else job
        return None

    def write(self, job: Any, folder: str) -> None:
        save_atomically(self.path, lambda path: path.write_text(f"{job.job_id}\n{folder}"))


def on_slurm(commands: Sequence[Sequence[str]], launcher: Mapping[str, Any], wait: bool) -> Iterator[str]:
    """In SLURM jobs; why each failed, as they end. Commands that have a job already are not sent again."""
    import submitit
    from submitit.core.utils import UncompletedJobError

    folder = launcher["submitit_folder"]
    notes = [Note(Path(folder).parent, tuple(command)) for command in commands]
    jobs = {note: job for note in notes if (job := note.job())}
    new = [note for note in notes if note not in jobs]
    if new:
        executor = submitit.AutoExecutor(
            folder=folder, cluster="slurm", slurm_max_num_timeout=launcher["max_num_timeout"]
        )
        general = ("name", "nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min")
        rest = {key for key in launcher if key not in ("_target_", "submitit_folder", "max_num_timeout")}
        named = {key if key in (*general, "stderr_to_stdout") else f"slurm_{key}": launcher[key] for key in rest}
        executor.update_parameters(**{key: value for key, value in named.items() if value is not None})
        for note, job in zip(new, executor.map_array(Command(), [list(note.command) for note in new]), strict=True):
            note.write(job, folder)
            jobs[note] = job
    print(f"{len(new)} jobs sent, {len(jobs) - len(new)} under way; logs: {Path(folder).parent}", file=sys.stderr)
    left = list(jobs.values()) if wait else []
    while left:
        for job in [job for job in left if job.done()]:
            left.remove(job)
            try:
                yield job.result()
            except UncompletedJobError as error:
                yield f"job {job.job_id} ended without a result: {str(error).strip().splitlines()[0]}"
        time.sleep(POLL if left else 0)


def ended(job: Any) -> bool:
    return job.done() or job.state.upper().split(" ")[0] in ENDED
