"""The command line: Hydra composes, alone or in a multirun, and commands.py does what is asked.

Every complaint ends as one sentence on stderr and a non-zero exit; stdout carries the paths of what was made.
"""

import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from importlib.util import find_spec
from pathlib import Path

from hydra import initialize_config_dir, version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, create_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pipeline.commands import COMMANDS, dispatch, sentence, sweep
from pipeline.errors import UserError
from pipeline.files import CONF, options_of
from pipeline.run.asked import GROUPS

MULTIRUN = "hydra.mode=MULTIRUN"  # what Hydra makes of -m
LAUNCHERS = {"local": "hydra_joblib_launcher", "slurm": "hydra_submitit_launcher"}


def app(cfg: DictConfig) -> str:
    """One job. Alone it ends with its complaint; in a multirun the others go on, and it is returned: why the job
    failed, else ""."""
    hydra_config = HydraConfig.get()
    try:
        dispatch(cfg, hydra_config)
    except Exception as error:
        if hydra_config.mode != RunMode.MULTIRUN:
            if isinstance(error, UserError):
                sys.exit(f"error: {error}")  # Hydra adds lines of its own to exceptions
            raise
        if not isinstance(error, UserError | OSError):
            traceback.print_exception(error)
        return str(error) or type(error).__name__
    return ""


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra takes it. The name of a command becomes a setting;
    rectgrad.quantile=0.8 concerns that option alone, wherever it is used, and goes to `scoped`; a figure and a report
    have the profile demo unless another one is named."""
    names = "|".join(name for group in GROUPS for name in options_of(group))
    if arguments and re.fullmatch("[a-z]+", arguments[0]) and arguments[0] not in COMMANDS:
        raise UserError(f"there is no command '{arguments[0]}'; choose one of {', '.join(COMMANDS)}")
    arguments = [f"command={argument}" if argument in COMMANDS else argument for argument in arguments]
    arguments = [re.sub(r"^claims=\[(.*)\]$", quoted, argument) for argument in arguments]
    found = [re.sub(rf"^({names})\.([\w.]+=.*)$", r"++scoped.\1.\2", argument) for argument in arguments]
    given = {argument.split("=", 1)[0] for argument in arguments}
    drawn = "figure" in given or "command=report" in found
    return [*found, "profile=demo"] if drawn and "profile" not in given else found


def quoted(names: re.Match[str]) -> str:
    """Names of claims, some of which have a > that Hydra reads as its own."""
    return "claims=[" + ",".join(f"'{name.strip(chr(39) + ' ')}'" for name in names[1].split(",") if name.strip()) + "]"


def check_launcher(overrides: Sequence[str]) -> None:
    """Raises UserError for a launcher whose package is not there."""
    for name, package in LAUNCHERS.items():
        if f"hydra/launcher={name}" in overrides and find_spec(f"hydra_plugins.{package}") is None:
            raise UserError(f"hydra/launcher={name} needs the package {package}; pip install '.[cluster]'")


def multirun(overrides: list[str], conf: Path) -> None:
    """All jobs of a sweep, by the launcher that is chosen. Raises UserError for those that failed, after the others."""
    jobs, failed = in_process(overrides, conf) or launched(overrides, conf)
    shared = set.intersection(*(set(job) for job in jobs))
    for job, why in zip(jobs, failed, strict=True):
        if why:
            print(f"failed: {' '.join(o for o in job if o not in shared)}: {why}", file=sys.stderr)
    if any(failed):
        count = sum(map(bool, failed))
        raise UserError(f"{count} of {len(jobs)} jobs failed; mend what is said above and run the same command again")


def launched(overrides: list[str], conf: Path) -> tuple[list[list[str]], list[str]]:
    """Overrides of each job, and why it failed; each is composed and run by itself, where the launcher says."""
    hydra = Hydra.create_main_hydra2("pipeline", create_config_search_path(str(conf)))
    try:
        batches = hydra.multirun("config", app, [*overrides, MULTIRUN])
    finally:
        GlobalHydra.instance().clear()
    jobs = [job for batch in batches for job in batch]
    return [list(job.overrides) for job in jobs], [job.return_value for job in jobs]


def in_process(overrides: list[str], conf: Path) -> tuple[list[list[str]], list[str]] | None:
    """The same in this process, together; None for a sweep over anything but cells, or with another launcher."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = [re.split("[./]", o.key_or_group)[0] for o in parsed if o.is_sweep_override()]
    if {"run", "figure", "profile", "command", "hydra"} & {*swept} or any(
        o.key_or_group in ("figure", "command", "hydra/launcher") for o in parsed
    ):
        return None
    with initialize_config_dir(str(conf), version_base="1.3"):
        jobs = [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
        return jobs, sweep(jobs)


class Stopped(KeyboardInterrupt):
    """A signal that asks to end: what runs gives its leases back, and finished parts are kept."""

    def __init__(self, number: int):
        super().__init__("interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


def stop_on_signals() -> None:
    """A terminal's interrupt, and what batch systems send before they kill; but not where the surroundings have plans
    of their own for a signal."""

    def stop(number: int, _frame: object) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGINT", "SIGTERM", "SIGUSR2"):
        number = getattr(signal, name, None)  # not every system has all
        if number and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, stop)


def main(arguments: Sequence[str] | None = None, conf: Path = CONF) -> None:
    """Run the command line; one sentence and exit code 1 for what the user can mend, 130 when interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    version.setbase("1.3")
    stop_on_signals()
    try:
        parser = get_args_parser()
        args = parser.parse_intermixed_args(hydra_arguments(sys.argv[1:] if arguments is None else arguments))
        check_launcher(args.overrides)
        if args.multirun or MULTIRUN in args.overrides:
            multirun(args.overrides, conf)
        else:
            _run_hydra(args, parser, app, str(conf), "config")
    except UserError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {sentence(error)}")
    except BrokenExecutor:
        sys.exit(
            "error: a process of hydra/launcher=local was killed, perhaps for its memory; set hydra.launcher.n_jobs to "
            "less, and run the same command again"
        )
    except OSError as error:  # a full disk, a file that may not be read
        what = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        sys.exit(f"error: {what}; free the space or change the rights, and run the same command again")
    except KeyboardInterrupt as stopped:
        print(f"{str(stopped) or 'interrupted'}; the same command goes on from here", file=sys.stderr)
        sys.exit(getattr(stopped, "code", 130))
