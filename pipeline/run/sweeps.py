"""From a figure's sweeps to cells: layers of overrides, root < profile < figure < user, composed point by point.

Root and profile are Hydra's: a profile is a global config. What the profile lends to a sweep (`with`), what the
figure says and what the user says are laid over each other here.
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from pipeline.errors import UserError
from pipeline.run.cell import Cell
from pipeline.run.parsing import GROUPS, SETTINGS, All, compose_options, composed, parse_cell, plain

ELSEWHERE = (
    "command",
    "claims",
    "figure",
    "report",
    "profile",
    "run",
    "hydra",
)  # what the user sets that is of no cell


@dataclass(frozen=True)
class Profile:
    """How large a figure is. trained: the overrides that select really trained weights; base: the same as
    `weights.base`; seeds: of the random weights (law_seeds: where laws are compared, ledger_seeds and
    ledger_law_seeds: the same for verdicts, depth_seeds: where layers are changed, theory_seeds); depths: numbers of
    top layers that are changed; single_layers: those that are changed alone; noisy_start_every: which layers starts
    with noise begin at; removal_inputs: share of a linear layer's inputs that removal keeps; pictures: overrides
    where maps are looked at, for `random`, `trained`, `law` (a law on trained weights) and `failures`;
    picture_depths: the depths there; objects: data that know where their objects are; kis: overrides of the networks
    and data of Fig. 8, `main`, `seeds` (of one recipe, each of another training seed), `judged` (those of the
    claims) and `imagenet`; backdoors: those of Fig. 9 and its controls, lists: `attacked` networks, the `clean` ones
    of the same seeds with the same triggers, in the same order, and `variants` of BadNet; what they share stands
    beside them, for YAML's anchors."""

    trained: dict[str, Any]
    base: str
    seeds: list[int]
    law_seeds: list[int]
    ledger_seeds: list[int]
    ledger_law_seeds: list[int]
    depth_seeds: list[int]
    theory_seeds: list[int]
    depths: list[int]
    single_layers: list[int]
    noisy_start_every: int
    removal_inputs: float
    pictures: dict[str, dict[str, Any]]
    picture_depths: list[int]
    objects: str
    kis: dict[str, dict[str, Any]]
    backdoors: dict[str, Any]


@dataclass(frozen=True)
class Sweeps:
    """A figure's cells: sweeps by name, each a rectangular product of settings; `with`: more of them, lent by the
    profile, or several products, in a list; `keeps`: groups (model, data, ...) whose choice here stays, whatever the
    user chooses for the figure."""

    sweeps: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class User:
    """What the user says of cells: settings by key, and overrides that add or remove."""

    settings: Mapping[str, str]
    others: tuple[str, ...]

    def without(self, groups: Iterable[str]) -> "User":
        """Without these groups, where another option of them is chosen."""
        dropped = {group for group in groups if group in self.settings}
        kept = {key: value for key, value in self.settings.items() if key.split(".")[0] not in dropped}
        return User(kept, self.others)


def user_of(overrides: Sequence[str]) -> User:
    """The command line's overrides of this job."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    parsed = [o for o in parsed if re.split("[./]", o.key_or_group)[0] not in ELSEWHERE]
    plain = [o for o in parsed if not (o.is_add() or o.is_force_add() or o.is_delete())]
    others = tuple(str(o.input_line) for o in parsed if o not in plain)
    return User({o.key_or_group: str(o.input_line).partition("=")[2] for o in plain}, others)


def layered(
    choices: Mapping[str, Any], lent: Mapping[str, Any], figure: Mapping[str, Any], user: Mapping[str, Any]
) -> dict[str, Any]:
    """One point's settings, each from the last layer that has it; choices: what root and profile choose in each group.

    Where the user chooses another option of a group, settings made for the old one go: those that the profile lends,
    and the figure's own that the new option has not. (data.limit=8 of a figure stays, whatever the data are.)
    """
    found = {**lent, **figure}
    for group in GROUPS.keys() & user.keys():
        if user[group] != found.get(group, choices[group]):
            option = GROUPS[group].get(user[group])
            stay = {f"{group}.{field.name}" for field in fields(option)} & figure.keys() if option else set()
            found = {key: value for key, value in found.items() if not key.startswith(f"{group}.") or key in stay}
    return {**found, **user}


def points(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A rectangular product: {rule: [gbp, lrp], seed: [0, 1], weights: ring} -> four settings. A list is swept over;
    a list as a value is written as text, "[a,b]"."""
    values = [value if isinstance(value, list | tuple) else [value] for value in sweep.values()]
    return [dict(zip(sweep, point, strict=True)) for point in itertools.product(*values)]


def layers_of(sweep: Mapping[str, Any]) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    """Each point of a sweep: what is lent to it, and its own settings."""
    own = {key: value for key, value in sweep.items() if key not in ("with", "keeps")}
    given = sweep.get("with", {})  # an empty list lends nothing, and there are no cells
    lent = [point for product in (given if isinstance(given, list) else [given]) for point in points(product)]
    return itertools.product(lent, points(own))


def options_side_by_side(settings: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """All options that are chosen somewhere, one of a group at a time, in as few choices as that takes."""
    options: dict[str, dict[str, None]] = {group: {} for group in GROUPS}
    for some in settings:
        for group in options.keys() & some.keys():
            options[group][some[group]] = None
    rows = itertools.zip_longest(*options.values())
    return [{group: option for group, option in zip(options, row, strict=True) if option is not None} for row in rows]


def figure_settings(sweeps: Sweeps, profile: str, user: User) -> dict[str, list[dict[str, Any]]]:
    """What every point of every sweep sets."""
    _, choices = composed({}, (f"profile={profile}",))
    wanted: dict[str, list[dict[str, Any]]] = {}
    for name, sweep in sweeps.sweeps.items():
        mine = user.without(sweep.get("keeps", [])).settings
        wanted[name] = [layered(choices, lent, figure, mine) for lent, figure in layers_of(sweep)]
    return wanted


def compose_figures(figures: Iterable[Sweeps], profile: str, user: User) -> None:
    """All options of these figures in as few compositions as that takes; their cells then need no more."""
    several = (figure_settings(sweeps, profile, user).values() for sweeps in figures)
    compose_settings(itertools.chain.from_iterable(several), (f"profile={profile}", *user.others))


def compose_settings(several: Iterable[Iterable[Mapping[str, Any]]], others: Sequence[str]) -> None:
    for chosen in options_side_by_side(itertools.chain.from_iterable(several)):
        compose_options(chosen, others)


def figure_cells(sweeps: Sweeps, profile: str, user: User) -> dict[str, list[Cell]]:
    """Every point of every sweep as a cell."""
    parsed: dict[str, Cell] = {}
    others = (f"profile={profile}", *user.others)
    wanted = figure_settings(sweeps, profile, user)
    compose_settings(wanted.values(), others)

    def cell_of(settings: dict[str, Any]) -> Cell:
        seed = settings.pop("seed") if isinstance(settings.get("seed"), int) else None  # no need to parse anew
        key = json.dumps(settings)
        if key not in parsed:
            parsed[key] = parse_cell(*composed(settings, others))
            if isinstance(parsed[key].rule.value, All):
                raise UserError("a figure says itself which rules it draws; leave rule=all out")
        return parsed[key] if seed is None else replace(parsed[key], seed=seed)

    found = {name: [cell_of(settings) for settings in several] for name, several in wanted.items()}
    return {name: list({cell.key: cell for cell in cells}.values()) for name, cells in found.items()}


def job_cells(overrides: Sequence[str]) -> list[Cell]:
    """The cells of one job of a multirun: one, or with rule=all one for each of its rules."""
    user = user_of(overrides)
    others = (*(o for o in overrides if o.startswith("profile=")), *user.others)
    cell = parse_cell(*composed(user.settings, others))
    if not isinstance(cell.rule.value, All):
        return [cell]
    kept = user.without(["rule"]).settings
    return [parse_cell(*composed({**kept, "rule": name}, others)) for name in cell.rule.value.names]


def rules_of(cfg: DictConfig, choices: Mapping[str, Any], user: Sequence[str]) -> list[Cell]:
    """The cell that is configured, or with rule=all one for each of its rules."""
    cell = parse_cell(plain(OmegaConf.masked_copy(cfg, SETTINGS)), choices)
    if not isinstance(cell.rule.value, All):
        return [cell]
    others = tuple(o for o in user if not o.startswith(("rule=", "rule.")))
    return [parse_cell(*composed({"rule": name}, others)) for name in cell.rule.value.names]
