"""What a composed configuration asks for: the cells of a table, of figures, of a report.

What takes long to import is imported when there is something to compute.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra import compose
from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from pipeline.errors import UserError
from pipeline.files import CONF, options_of

if TYPE_CHECKING:
    from pipeline.run.cell import Cell
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


def figures_of(cfg: DictConfig, hydra_config: HydraConf, asked: str = "") -> Mapping[str, dict[str, list["Cell"]]]:
    """Cells by sweep, by figure. asked: in place of the figure that is chosen."""
    from pipeline.run.parsing import All, parse
    from pipeline.run.sweeps import Profile, Sweeps, figure_cells, user_of

    choices, overrides = hydra_config.runtime.choices, list(hydra_config.overrides.task)
    parse(cfg.profile, Profile, f"profile={choices['profile']}")
    names = [asked] if asked else []
    if not asked and "names" in cfg.figure:
        if any(o.startswith("figure.sweeps") for o in overrides):
            raise UserError("figure.sweeps are those of one figure; choose it instead of figure=all")
        names = parse(cfg.figure, All, "figure=all").names
    chosen = {name: figure_in(cfg, name) for name in names} or {choices["figure"]: cfg.figure}
    found = {name: parse(figure, Sweeps, f"figure={name}") for name, figure in chosen.items()}
    if cfg.get("claims") is not None and asked in ("", "claims"):
        found = {"claims": some_claims(found, list(cfg.claims))}
    user = user_of(overrides)
    return {name: figure_cells(sweeps, choices["profile"], user) for name, sweeps in found.items()}


def figure_in(cfg: DictConfig, name: str) -> DictConfig:
    """What the configuration would have if this figure were chosen; composing it anew takes Hydra long."""
    whole = cfg.copy()
    OmegaConf.update(whole, "figure", OmegaConf.load(CONF / "figure" / f"{name}.yaml"), merge=False, force_add=True)
    return whole.figure


def some_claims(figures: Mapping[str, "Sweeps"], names: Sequence[str]) -> "Sweeps":
    """What the evidence of these claims needs. Raises UserError for what is no claim or has none, and for another
    figure."""
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


def shown_cells(
    name: str, gallery: dict[str, dict[str, Any]], cfg: DictConfig, hydra_config: HydraConf
) -> dict[str, list["Cell"]]:
    """Of a figure of the report, or of its gallery, by sweep."""
    from pipeline.run.sweeps import Sweeps, figure_cells, user_of

    if name != GALLERY:
        return figures_of(cfg, hydra_config, name)[name]
    user = user_of(hydra_config.overrides.task)
    return figure_cells(Sweeps(gallery), hydra_config.runtime.choices["profile"], user)


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
