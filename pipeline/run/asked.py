"""What a composed configuration asks for: the cells of a table, of figures, of a report.

What takes long to import is imported when there is something to compute.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hydra import compose
from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from pipeline.errors import UserError
from pipeline.files import CONF, options_of

if TYPE_CHECKING:
    from pipeline.run.cell import Cell
    from pipeline.run.reported import Report
    from pipeline.run.sweeps import Sweeps

ROOT = ("command", "claims", "seed", "dtype", "target", "scoped", "run", "profile", "figure", "report")
GROUPS = ("experiment", "model", "weights", "rule", "data", "attack")  # folders of conf/ that determine a cell
GALLERY = "gallery"  # of a report, beside its figures


def refuse_unknown(cfg: DictConfig) -> None:
    """Raises UserError for a setting that was added at the top level."""
    unknown = [str(key) for key in cfg if key not in (*GROUPS, *ROOT)]
    if unknown:
        raise UserError(f"there is no setting '{unknown[0]}'; see python -m pipeline --help")


def cells_of(cfg: DictConfig, hydra_config: HydraConf) -> list["Cell"]:
    """Of all that the command would compute."""
    from pipeline.run.sweeps import rules_of

    if cfg.get("figure") is None:
        return rules_of(cfg, hydra_config.runtime.choices, hydra_config.overrides.task)
    return [cell for sweeps in figures_of(cfg, hydra_config).values() for cells in sweeps.values() for cell in cells]


def figures_of(cfg: DictConfig, hydra_config: HydraConf) -> Mapping[str, dict[str, list["Cell"]]]:
    """Cells by sweep, by figure: the one that is chosen, or each of figure=all."""
    from pipeline.run.parsing import All, parse
    from pipeline.run.sweeps import Profile, Sweeps, compose_figures, figure_cells, user_of

    choices, overrides = hydra_config.runtime.choices, list(hydra_config.overrides.task)
    parse(cfg.profile, Profile, f"profile={choices['profile']}")
    if "names" not in cfg.figure:
        found = {choices["figure"]: parse(cfg.figure, Sweeps, f"figure={choices['figure']}")}
    elif any(o.startswith("figure.sweeps") for o in overrides):
        raise UserError("figure.sweeps are those of one figure; choose it instead of figure=all")
    else:
        found = sweeps_of(parse(cfg.figure, All, "figure=all").names, cfg)
    if cfg.get("claims") is not None:
        found = {"claims": some_claims(found, list(cfg.claims))}
    user = user_of(overrides)
    compose_figures(found.values(), choices["profile"], user)
    return {name: figure_cells(sweeps, choices["profile"], user) for name, sweeps in found.items()}


def sweeps_of(names: Sequence[str], cfg: DictConfig) -> dict[str, "Sweeps"]:
    """What the configuration would have if each of these figures were chosen; composing it anew takes Hydra long."""
    from pipeline.run.parsing import parse
    from pipeline.run.sweeps import Sweeps

    whole, found = cfg.copy(), {}
    for name in names:
        figure = OmegaConf.load(CONF / "figure" / f"{name}.yaml")
        OmegaConf.update(whole, "figure", figure, merge=False, force_add=True)
        found[name] = parse(whole.figure, Sweeps, f"figure={name}")
    return found


def some_claims(figures: Mapping[str, "Sweeps"], names: Sequence[str]) -> "Sweeps":
    """What the evidence of these claims needs. Raises UserError for what is no claim, and for another figure."""
    from pipeline.claims import needed
    from pipeline.run.sweeps import Sweeps

    if [*figures] != ["claims"]:
        raise UserError("claims=[...] chooses entries of the ledger; set figure=claims, or leave it out")
    wanted = needed(names)
    return Sweeps({name: sweep for name, sweep in figures["claims"].sweeps.items() if name in wanted})


def report_names(asked: Sequence[str] | None) -> list[str]:
    """The figures of a report: figure=all's in their order, then the others. Raises UserError for what is no figure."""
    from pipeline.run.parsing import All, parse

    known = parse(OmegaConf.load(CONF / "figure" / "all.yaml"), All, "figure=all").names
    known += [name for name in options_of("figure") if name not in (*known, "all")]
    if unknown := [name for name in asked or () if name not in known]:
        raise UserError(f"report.figures: there is no figure '{unknown[0]}'; choose from {', '.join(known)}")
    return [*(asked or known)]


def shown_of(report: "Report", cfg: DictConfig, hydra_config: HydraConf) -> dict[str, "Sweeps"]:
    """Sweeps of the figures of a report, and of its gallery."""
    from pipeline.run.parsing import parse
    from pipeline.run.sweeps import Profile, Sweeps

    parse(cfg.profile, Profile, f"profile={hydra_config.runtime.choices['profile']}")
    found = sweeps_of(report_names(report.figures), cfg)
    if "claims" in found and cfg.get("claims") is not None:
        found["claims"] = some_claims({"claims": found["claims"]}, list(cfg.claims))
    return {**found, GALLERY: Sweeps(report.gallery)}


def cells_of_all(hydra_config: HydraConf) -> list["Cell"]:
    """Of every figure and of the report's gallery in every profile."""
    from pipeline.run.parsing import parse, plain
    from pipeline.run.sweeps import Sweeps, figure_cells, user_of

    found = []
    every = list(itertools.product(options_of("profile"), options_of("figure")))
    for profile, name in tqdm(every, desc="what figures refer to", unit="figure", file=sys.stderr):
        cfg = compose("config", overrides=[f"profile={profile}", f"figure={name}"])
        sweeps = {"sweeps": plain(cfg.report)["gallery"]} if name == "all" else cfg.figure
        user = user_of(hydra_config.overrides.task)
        found += all_of(figure_cells(parse(sweeps, Sweeps, f"figure={name}"), profile, user))
    return found


def all_of(sweeps: Mapping[str, Sequence["Cell"]]) -> list["Cell"]:
    return [cell for cells in sweeps.values() for cell in cells]
