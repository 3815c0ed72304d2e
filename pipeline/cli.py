"""The command line: Hydra composes, parsing.py makes typed cells of it, this module dispatches. Nothing else knows Hydra.

Every complaint ends as one sentence on stderr and a non-zero exit; stdout carries the paths of what was made.
"""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import yaml
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import UserError
from pipeline.files import CONF
from pipeline.run.cell import Cell, digest
from pipeline.run.parsing import GROUPS, SCOPED, All, Profile, Sweeps, composed, figure_cells, parse, parse_cell
from pipeline.run.runner import Run, draw_figure, run_cells


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def app(cfg: DictConfig) -> None:
    try:
        dispatch(cfg, HydraConfig.get())
    except UserError as error:
        sys.exit(f"error: {error}")  # here and not in main: Hydra adds lines of its own to exceptions


def dispatch(cfg: DictConfig, hydra_config: Any) -> None:
    """Compute one table or draw one figure, and print its path."""
    choices = hydra_config.runtime.choices
    unknown = [
        str(key) for key in cfg if key not in (*GROUPS, "seed", "dtype", "target", "scoped", "run", "profile", "figure")
    ]
    if unknown:
        raise UserError(f"there is no setting '{unknown[0]}'; see python -m pipeline --help")
    run = parse(cfg.run, Run, "run")
    if choices.get("figure") in (None, "null"):
        cells = cells_of(cfg, choices, hydra_config.overrides.task)
        tables = run_cells(cells, run)
        picture, drawn = (
            cells[0].spec.picture,
            [cell for cell, table in zip(cells, tables, strict=True) if has_maps(cell, table)],
        )
        if picture and drawn:
            name = f"{picture}_{digest({'cells': [cell.key for cell in drawn]})}"
            print(*made(draw_figure(picture, {picture: drawn}, "", replace(run, force=False), name)), sep="\n")
        complaint = report(cells[0], tables[0])
        print(*tables, sep="\n")
        if complaint:
            raise UserError(complaint)
        return
    profile = parse(cfg.profile, Profile, f"profile={choices['profile']}")
    own = [f"{k}={v}" for k, v in profile.overrides.items()]  # put there by main
    user = [o for o in hydra_config.overrides.task if not o.startswith(("figure=", "profile=")) and o not in own]
    for name, figure in figures_of(cfg, choices["figure"], hydra_config.overrides.task).items():
        sweeps = figure_cells(parse(figure, Sweeps, f"figure={name}"), profile, user)
        print(*made(draw_figure(name, sweeps, choices["profile"], run)), sep="\n", flush=True)


def figures_of(cfg: DictConfig, choice: str, overrides: list[str]) -> dict[str, Any]:
    """{name: sweeps} of the figure that is chosen, or with figure=all of each of its figures."""
    if "names" not in cfg.figure:
        return {choice: cfg.figure}
    others = [o for o in overrides if not o.startswith(("figure=", "figure."))]
    return {
        name: compose("config", overrides=[*others, f"figure={name}"]).figure
        for name in parse(cfg.figure, All, "figure=all").names
    }


def cells_of(cfg: DictConfig, choices: Mapping[str, Any], overrides: list[str]) -> list[Cell]:
    """The cell that is configured, or with rule=all one for each of its rules."""
    cell = parse_cell(cfg, choices)
    if not isinstance(cell.rule.value, All):
        return [cell]
    others = [o for o in overrides if not o.startswith(("rule=", "rule."))]
    return [parse_cell(*composed([*others, f"rule={name}"])) for name in cell.rule.value.names]


def has_maps(cell: Cell, table: Path) -> bool:
    """Whether there is something to draw; says so if no row is there."""
    if pd.read_parquet(table).empty:
        print(f"no image was chosen, so there is nothing to draw: {cell.title}", file=sys.stderr)
        return False
    return (table.parent / "maps.safetensors").is_file()


def made(pdf: Path) -> list[Path]:
    """The files of a figure, its pdf last."""
    return [pdf.with_suffix(".csv"), pdf.with_suffix(".png"), pdf]


def report(cell: Cell, table: Path) -> str | None:
    """Show the table on stderr if its experiment says how; what is wrong with it, if anything."""
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
        options = sorted(GROUPS.get(group, [])) or sorted(f.stem for f in (CONF / group).glob("*.yaml"))
        return f"{group} has no option '{name}'; choose one of {', '.join(options)}"
    found = re.search(r"Key '([^']*)' is not in struct|Could not override '([^']*)'", text)
    if found:
        key = next(g for g in found.groups() if g)
        full = re.search(r"full_key: (\S+)", text)
        return f"there is no setting '{full[1] if full else key}'; see python -m pipeline --cfg job for those there are"
    return text.rstrip(".") + "; see python -m pipeline --help"


def with_profile(arguments: list[str]) -> list[str]:
    """A figure's command line composes on top of its profile, so that data.root=... finds the profile's data set."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    file = CONF / "profile" / f"{given.get('profile', 'demo')}.yaml"
    if "figure" not in given or not file.is_file():
        return arguments
    overrides = yaml.safe_load(file.read_text()).get("overrides") or {}
    return arguments + [f"{k}={v}" for k, v in overrides.items() if k not in given]


def main() -> None:
    """Run the command line; one sentence and exit code 1 for what the user can mend, 130 when interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    arguments = [SCOPED.sub(r"+scoped.\1.\2", arg) for arg in with_profile(sys.argv[1:])]
    sys.argv[1:] = sorted(
        arguments, key=lambda arg: arg not in ("-m", "--multirun")
    )  # argparse wants the flag at an end
    try:
        app()
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {sentence(error)}")
    except OSError as error:  # a full disk, a file that may not be read
        sys.exit(
            f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}; free the space or change the rights, and run the same command again"
        )
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
