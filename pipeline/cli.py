"""The command line: Hydra composes, run/ makes typed cells of it, this module dispatches.

Every complaint ends as one sentence on stderr and a non-zero exit; stdout carries the paths of what was made. What
takes long to import is imported when there is something to compute.
"""

import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, create_config_search_path, get_args_parser
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import UserError
from pipeline.files import CONF

if TYPE_CHECKING:
    from pipeline.run.cell import Cell
    from pipeline.run.context import Context

ROOT = ("command", "seed", "dtype", "target", "scoped", "run", "profile", "figure")
GROUPS = ("experiment", "model", "weights", "rule", "data", "attack")  # folders of conf/ that determine a cell
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


def dispatch(cfg: DictConfig, hydra_config: HydraConf) -> None:
    """Compute tables or draw figures, and print their paths."""
    from pipeline.run.context import Run, context_of
    from pipeline.run.parsing import parse

    unknown = [str(key) for key in cfg if key not in (*GROUPS, *ROOT)]
    if unknown:
        raise UserError(f"there is no setting '{unknown[0]}'; see python -m pipeline --help")
    context = context_of(parse(cfg.run, Run, "run"))
    command = COMMANDS.get(cfg.command) or (tables if cfg.get("figure") is None else figures)
    command(cfg, hydra_config, context)


def status(cfg: DictConfig, hydra_config: HydraConf, context: "Context") -> None:
    """What is there of the tables of a command."""
    from pipeline.run.status import report

    print(report(cells_of(cfg, hydra_config), context))


def cells_of(cfg: DictConfig, hydra_config: HydraConf) -> list["Cell"]:
    """Of all that the command would compute."""
    from pipeline.run.sweeps import rules_of

    if cfg.get("figure") is None:
        return rules_of(cfg, hydra_config.runtime.choices, hydra_config.overrides.task)
    return [cell for sweeps in figures_of(cfg, hydra_config).values() for cells in sweeps.values() for cell in cells]


def tables(cfg: DictConfig, hydra_config: HydraConf, context: "Context") -> None:
    """The table that is configured, or one for each rule of rule=all, and the picture of its maps if it has one."""
    from pipeline.run.cell import digest
    from pipeline.run.drawn import draw_figure
    from pipeline.run.runner import left_out, run_cells
    from pipeline.run.sweeps import rules_of

    cells = rules_of(cfg, hydra_config.runtime.choices, hydra_config.overrides.task)
    context = elsewhere(cells, hydra_config, context)
    paths = run_cells(cells, context, context.run.force)
    left = left_out(cells, context)
    if context.run.groups:  # this is a job that does its share
        return
    if left:
        there = [path for cell, path in zip(cells, paths, strict=True) if cell not in left]
        print(*there, sep="\n", end="\n" if there else "")
        return
    picture = cells[0].spec.picture
    drawn = [cell for cell, table in zip(cells, paths, strict=True) if picture and has_maps(cell, table)]
    if drawn:
        name = f"{picture}_{digest({'cells': [cell.key for cell in drawn]})}"
        if pdf := draw_figure(picture, {picture: drawn}, "", context, name):
            print(*made(pdf), sep="\n")
    complaint = report(cells[0], paths[0])
    print(*paths, sep="\n")
    if complaint:
        raise UserError(complaint)


def figures(cfg: DictConfig, hydra_config: HydraConf, context: "Context") -> None:
    """The figure that is chosen, or with figure=all each of its figures."""
    from pipeline.run.drawn import draw_figure

    profile = hydra_config.runtime.choices["profile"]
    for name, sweeps in figures_of(cfg, hydra_config).items():
        here = elsewhere([cell for cells in sweeps.values() for cell in cells], hydra_config, context)
        pdf = draw_figure(name, sweeps, profile, here, force=here.run.force)
        if pdf:
            print(*made(pdf), sep="\n", flush=True)


def figures_of(cfg: DictConfig, hydra_config: HydraConf) -> Mapping[str, dict[str, list["Cell"]]]:
    """Cells by sweep, by figure."""
    from hydra import compose

    from pipeline.run.parsing import All, parse
    from pipeline.run.sweeps import Profile, Sweeps, figure_cells, user_of

    choices, overrides = hydra_config.runtime.choices, list(hydra_config.overrides.task)
    parse(cfg.profile, Profile, f"profile={choices['profile']}")
    chosen = {choices["figure"]: cfg.figure}
    if "names" in cfg.figure:
        if any(o.startswith("figure.sweeps") for o in overrides):
            raise UserError("figure.sweeps are those of one figure; choose it instead of figure=all")
        others = [o for o in overrides if not o.startswith(("figure=", "figure."))]
        names = parse(cfg.figure, All, "figure=all").names
        chosen = {name: compose("config", overrides=[*others, f"figure={name}"]).figure for name in names}
    return {
        name: figure_cells(parse(figure, Sweeps, f"figure={name}"), choices["profile"], user_of(overrides))
        for name, figure in chosen.items()
    }


COMMANDS = {"status": status}  # the first word of the command line, where it is no override


def elsewhere(cells: Sequence["Cell"], hydra_config: HydraConf, context: "Context") -> "Context":
    """Where a launcher is chosen for one command, it computes what is missing; the context for the rest."""
    from pipeline.run.launch import launch
    from pipeline.run.parsing import plain
    from pipeline.run.runner import launched

    if hydra_config.runtime.choices["hydra/launcher"] == "basic" or hydra_config.mode == RunMode.MULTIRUN:
        return context
    settings = plain(hydra_config.launcher)
    overrides = [o for o in hydra_config.overrides.task if not o.startswith(("run.wait=", "run.groups="))]
    launched(cells, context, lambda tasks: launch(tasks, overrides, settings, context.run.wait))
    groups = None if context.run.wait else []  # draws and reports what is there
    return replace(context, run=replace(context.run, force=False, groups=groups))


def has_maps(cell: "Cell", table: Path) -> bool:
    """Whether there is something to draw; says so if no row is there."""
    import pandas as pd

    if pd.read_parquet(table).empty:
        print(f"no image was chosen, so there is nothing to draw: {cell.title}", file=sys.stderr)
        return False
    return (table.parent / "maps.safetensors").is_file()


def made(pdf: Path) -> list[Path]:
    """The files of a figure, its pdf last."""
    return [pdf.with_suffix(".csv"), pdf.with_suffix(".png"), pdf]


def report(cell: "Cell", table: Path) -> str | None:
    """Show the table on stderr if its experiment says how; what is wrong with it, if anything."""
    import pandas as pd

    if cell.spec.report is None:
        return None
    text, complaint = cell.spec.report(pd.read_parquet(table))
    print(text, file=sys.stderr)
    return complaint


def sentence(error: BaseException) -> str:
    """A Hydra error as one sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines) or type(error).__name__
    found = re.search(r"Could not find '(\w+)/([^']*)'", text)
    if found:
        group, name = found.groups()
        return f"{group} has no option '{name}'; choose one of {', '.join(options_of(group))}"
    found = re.search(r"Key '([^']*)' is not in struct|Could not override '([^']*)'", text)
    if found:
        key = next(g for g in found.groups() if g)
        full = re.search(r"full_key: (\S+)", text)
        return f"there is no setting '{full[1] if full else key}'; see python -m pipeline --cfg job for those there are"
    return text.rstrip(".") + "; see python -m pipeline --help"


@cache
def options_of(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra takes it. The name of a command becomes a setting;
    rectgrad.quantile=0.8 concerns that option alone, wherever it is used, and goes to `scoped`; a figure has the
    profile demo unless another one is named."""
    names = "|".join(name for group in GROUPS for name in options_of(group))
    if arguments and re.fullmatch("[a-z]+", arguments[0]) and arguments[0] not in COMMANDS:
        raise UserError(f"there is no command '{arguments[0]}'; choose one of {', '.join(COMMANDS)}")
    arguments = [f"command={argument}" if argument in COMMANDS else argument for argument in arguments]
    found = [re.sub(rf"^({names})\.([\w.]+=.*)$", r"++scoped.\1.\2", argument) for argument in arguments]
    given = {argument.split("=", 1)[0] for argument in arguments}
    return [*found, "profile=demo"] if "figure" in given and "profile" not in given else found


def check_launcher(overrides: Sequence[str]) -> None:
    """Raises UserError for a launcher whose package is not there."""
    for name, package in LAUNCHERS.items():
        if f"hydra/launcher={name}" in overrides and find_spec(f"hydra_plugins.{package}") is None:
            raise UserError(f"hydra/launcher={name} needs the package {package}; pip install '.[cluster]'")


def multirun(overrides: list[str], conf: Path) -> None:
    """All jobs of a sweep, by the launcher that is chosen. Raises UserError for those that failed, after the others."""
    hydra = Hydra.create_main_hydra2("pipeline", create_config_search_path(str(conf)))
    try:
        batches = hydra.multirun("config", app, [*overrides, MULTIRUN])
    finally:
        GlobalHydra.instance().clear()
    jobs = [job for batch in batches for job in batch]
    shared = set.intersection(*(set(job.overrides) for job in jobs))
    failed = [(job, why) for job in jobs if (why := job.return_value)]
    for job, why in failed:
        print(f"failed: {' '.join(o for o in job.overrides if o not in shared)}: {why}", file=sys.stderr)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} jobs failed; mend what is said above and run the same command again"
        )


class Stopped(KeyboardInterrupt):
    """A signal that asks to end: what runs gives its claims back, and finished parts are kept."""

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
    except OSError as error:  # a full disk, a file that may not be read
        what = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        sys.exit(f"error: {what}; free the space or change the rights, and run the same command again")
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from here", file=sys.stderr)
        sys.exit(stopped.code)
