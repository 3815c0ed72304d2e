"""What the command line does once Hydra has composed it: tables, figures, and what can be asked about them.

What takes long to import is imported when there is something to compute.
"""

import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose
from hydra.conf import HydraConf
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from pipeline.errors import UserError
from pipeline.files import options_of
from pipeline.run.asked import (
    GALLERY,
    all_of,
    cells_of,
    cells_of_all,
    figures_of,
    refuse_unknown,
    shown_of,
)

if TYPE_CHECKING:
    from pipeline.run.cell import Cell
    from pipeline.run.context import Context


def dispatch(cfg: DictConfig, hydra_config: HydraConf) -> None:
    """Compute tables or draw figures, and print their paths."""
    from pipeline.run.context import Run, context_of
    from pipeline.run.parsing import parse

    refuse_unknown(cfg)
    context = context_of(parse(cfg.run, Run, "run"))
    command = COMMANDS.get(cfg.command) or (tables if cfg.get("figure") is None else figures)
    command(cfg, hydra_config, context)


def status(cfg: DictConfig, hydra_config: HydraConf, context: "Context") -> None:
    """What is there of the tables of a command."""
    from pipeline.run.status import report

    print(report(cells_of(cfg, hydra_config), context))


def estimate(cfg: DictConfig, hydra_config: HydraConf, context: "Context") -> None:
    """How long what is missing would take."""
    from pipeline.run.estimate import report

    print(report(cells_of(cfg, hydra_config), context))


def tables(cfg: DictConfig, hydra_config: HydraConf, context: "Context") -> None:
    """The table that is configured, or one for each rule of rule=all, and the picture of its maps if it has one."""
    from pipeline.run.runner import run_cells
    from pipeline.run.sweeps import rules_of

    cells = rules_of(cfg, hydra_config.runtime.choices, hydra_config.overrides.task)
    context = elsewhere(cells, hydra_config, context)
    try:
        run_cells(cells, context, context.run.force)
    except UserError as error:
        if hydra_config.mode == RunMode.MULTIRUN:  # nobody looks at a job's output
            context.store.fail_all(cells, str(error))
        raise
    if not context.run.groups:  # else this is a job that does its share
        show(cells, context)


def show(cells: Sequence["Cell"], context: "Context") -> None:
    """Print the paths of the tables that are there, and draw their picture if all are. Raises UserError for what is
    wrong with them."""
    from pipeline.run.cell import digest
    from pipeline.run.drawn import draw_figure
    from pipeline.run.runner import left_out

    paths = [context.store.table_path(cell) for cell in cells]
    if left := left_out(cells, context):
        there = [path for cell, path in zip(cells, paths, strict=True) if cell not in left]
        put(there)
        return
    picture = cells[0].spec.picture
    drawn = [cell for cell, table in zip(cells, paths, strict=True) if picture and has_maps(cell, table)]
    if drawn:
        name = f"{picture}_{digest({'cells': [cell.key for cell in drawn]})}"
        if pdf := draw_figure(picture, {picture: drawn}, "", context, name):
            put(made(pdf))
    complaint = report(cells[0], paths[0])
    put(paths)
    if complaint:
        raise UserError(complaint)


def put(paths: Sequence[Path]) -> None:
    """Print paths, a line each: in one write, since the processes of a launcher share their output, and at once, since
    a launcher may end the process."""
    sys.stdout.write("".join(f"{path}\n" for path in paths))
    sys.stdout.flush()


def sweep(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The tables of a multirun's jobs, lists of overrides, in this process, where what is alike is loaded and computed
    once; why each failed, else ""."""
    from pipeline.run.context import Run, context_of
    from pipeline.run.parsing import parse
    from pipeline.run.runner import check, run_cells
    from pipeline.run.sweeps import job_cells

    cfg = compose("config", overrides=list(jobs[0]))
    refuse_unknown(cfg)
    context = context_of(parse(cfg.run, Run, "run"))
    cells: list[list[Cell]] = []
    failed = [""] * len(jobs)
    for i, job in enumerate(jobs):
        cells.append([])
        try:
            found = job_cells(job)
            try:
                check(found, context)
            except UserError as error:
                context.store.fail_all(found, str(error))
                raise
            cells[i] = found
        except (UserError, HydraException, OmegaConfBaseException) as error:
            failed[i] = sentence(error)
    try:
        run_cells([cell for several in cells for cell in several], context, context.run.force)
    except OSError:
        raise
    except Exception as error:  # noted with the cells
        if not isinstance(error, UserError):
            traceback.print_exception(error)
    for i, several in enumerate(cells):
        if several and not (why := context.store.why_failed(several)):
            try:
                show(several, context)
            except UserError as error:
                failed[i] = str(error)
        elif several:
            failed[i] = why
    return failed


def figures(cfg: DictConfig, hydra_config: HydraConf, context: "Context") -> None:
    """The figure that is chosen, or with figure=all each of its figures."""
    for name, sweeps in figures_of(cfg, hydra_config).items():
        if pdf := drawn(name, sweeps, hydra_config, context):
            put(made(pdf))


def drawn(
    name: str, sweeps: Mapping[str, Sequence["Cell"]], hydra_config: HydraConf, context: "Context"
) -> Path | None:
    """A figure's pdf; None where its tables are left to others."""
    from pipeline.run.drawn import draw_figure, within_reach

    profile = hydra_config.runtime.choices["profile"]
    there, absent = within_reach(name, sweeps, profile, context)
    here = elsewhere(all_of(there), hydra_config, context)
    return draw_figure(name, there, profile, here, force=here.run.force, absent=absent)


def page(cfg: DictConfig, hydra_config: HydraConf, context: "Context") -> None:
    """One page of all figures, of the claims and of maps to choose from. What can't be drawn is named on it."""
    from pipeline.files import save_atomically
    from pipeline.report.page import page as html
    from pipeline.run.parsing import parse
    from pipeline.run.reported import Report, content_of
    from pipeline.run.sweeps import compose_figures, figure_cells, user_of

    if cfg.get("figure") is not None:
        raise UserError("a report draws its figures itself; leave figure=... out, or set report.figures=[fig2,claims]")
    asked = parse(cfg.report, Report, "report")
    found: dict[str, dict[str, list[Cell]]] = {}
    missing: dict[str, str] = {}
    profile, user = hydra_config.runtime.choices["profile"], user_of(hydra_config.overrides.task)
    shown = shown_of(asked, cfg, hydra_config)
    with suppress(UserError, HydraException, OmegaConfBaseException):  # the figure whose it is says so below
        compose_figures(shown.values(), profile, user)
    for name, sweeps in tqdm(shown.items(), desc="report", unit="figure", file=sys.stderr):
        try:
            cells = figure_cells(sweeps, profile, user)
            if asked.figures != []:
                prepare(name, cells, hydra_config, context)
            found[name] = cells
        except OSError:  # a full disk concerns all
            raise
        except Exception as error:
            if not isinstance(error, UserError):
                traceback.print_exception(error)
            missing[name] = sentence(error)
            tqdm.write(f"left out of the report: {name}: {missing[name]}", file=sys.stderr)
    if context.run.groups:  # a job does its share, and who sent it writes the page
        return
    text = html(content_of(found, missing, profile, settings_of(hydra_config.overrides.task), context))
    path = context.store.root / "report" / "index.html"
    save_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
    put([path])


def settings_of(overrides: Sequence[str]) -> list[str]:
    """What was set of figures, as on the command line."""
    texts = (text.removeprefix("++scoped.") for text in overrides)
    return [text for text in texts if not re.match(r"\+*(report|run|hydra|claims|command)\b|\+*profile=", text)]


def prepare(name: str, sweeps: Mapping[str, Sequence["Cell"]], hydra_config: HydraConf, context: "Context") -> None:
    """Compute and draw what is missing. Raises UserError for what is left to other processes."""
    from pipeline.run.runner import run_cells

    if name == GALLERY:
        here = elsewhere(all_of(sweeps), hydra_config, context)
        run_cells(all_of(sweeps), here, here.run.force)
    elif not drawn(name, sweeps, hydra_config, context):
        raise UserError("its tables are left to other processes; run the same command again when they are there")


def clean(cfg: DictConfig, hydra_config: HydraConf, context: "Context") -> None:
    """List what no figure refers to and what dead runs left, ask, and remove it."""
    from pipeline.run.clean import listed, remove, rubbish
    from pipeline.run.status import with_trainings

    found = list(rubbish(context.store, {cell.key for cell in with_trainings(cells_of_all(hydra_config), context)}))
    print(listed(context.store, found), flush=True)
    if found:
        print(f"remove these {len(found)}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            remove(found)
            print("removed", file=sys.stderr)
        else:
            print("nothing is removed", file=sys.stderr)


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
    return any(table.parent.glob("*.safetensors"))


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
    if isinstance(error, UserError):
        return str(error)
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


COMMANDS: Mapping[str, Callable[[DictConfig, HydraConf, "Context"], None]] = {
    "status": status,
    "estimate": estimate,
    "clean": clean,
    "report": page,
}
