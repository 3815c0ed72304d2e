"""From Hydra's configuration to typed cells: composed, parsed once, everything unknown or wrong refused in one sentence.

With cli.py, the only module that knows Hydra and OmegaConf.
"""

import copy
import dataclasses
import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.engine.rules import RULES
from pipeline.errors import UserError
from pipeline.experiments import EXPERIMENTS
from pipeline.experiments.interface import Dtype
from pipeline.images.sets import DATA, Selection
from pipeline.networks.catalogue import MODELS
from pipeline.run.cell import Cell, Choice, points
from pipeline.weights.states import WEIGHTS, Trained, TrainedBy


@dataclass(frozen=True)
class All:
    """rule=all: a table for each of the rules `names`, their work and one picture shared; figure=all: each of these figures."""

    names: list[str]

    def __post_init__(self):
        if not self.names or "all" in self.names:
            raise ValueError("names must list one option at least, and not all")


GROUPS: dict[str, Mapping[str, Any]] = {
    "experiment": {name: experiment.options for name, experiment in EXPERIMENTS.items()},
    "model": MODELS,
    "weights": WEIGHTS,
    "rule": {**RULES, "all": All},
    "data": DATA,
}
NAMES = [name for registry in GROUPS.values() for name in registry]
SCOPED = re.compile(rf"^({'|'.join(NAMES)})\.([\w.]+=.*)$")  # rectgrad.quantile=0.8 concerns that rule alone


@dataclass(frozen=True)
class Root:
    seed: int
    dtype: Dtype
    target: str


@dataclass(frozen=True)
class Profile:
    """overrides: for every cell; trained: the overrides that select really trained weights; base: the same as `weights.base`; seeds: of
    the random weights (law_seeds: where laws are compared, depth_seeds: where layers are changed, theory_seeds); depths: numbers of top layers that are changed; removal_inputs: share of a linear
    layer's inputs that removal keeps; pictures: overrides where maps are looked at, for `random`,
    `trained` and `law` (a law on trained weights); picture_depths: the depths there; kis: overrides of the networks and data of Fig. 8, `main`,
    `others` (trained with other seeds) and `imagenet`."""

    overrides: dict[str, Any]
    trained: dict[str, Any]
    base: str
    seeds: list[int]
    law_seeds: list[int]
    depth_seeds: list[int]
    theory_seeds: list[int]
    depths: list[int]
    removal_inputs: float
    pictures: dict[str, dict[str, Any]]
    picture_depths: list[int]
    kis: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Sweeps:
    """A figure's cells: sweeps by name, each a rectangular product of overrides; `with`: more of them; `keeps`: groups (model, data, ...) whose
    choice here stays, whatever the user chooses for the figure."""

    sweeps: dict[str, dict[str, Any]]


def parse(node: Any, schema: type, where: str) -> Any:
    """A config node -> an instance of the dataclass `schema`. Raises UserError for unknown fields, wrong types, values out of range."""
    fields = [f.name for f in dataclasses.fields(schema)]
    given = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
    unknown = [str(key) for key in given if key not in fields]  # type: ignore[union-attr]
    if unknown:
        close = difflib.get_close_matches(unknown[0], fields, n=1)
        raise UserError(
            f"{where} has no setting '{unknown[0]}'; "
            + (f"did you mean {close[0]}?" if close else f"it has {', '.join(fields) or 'none'}")
        )
    missing = [f for f in fields if f not in given or given[f] == "???"]  # type: ignore[index]
    if missing:
        raise UserError(f"{where} lacks the setting '{missing[0]}'; add it")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), given))
    except (OmegaConfBaseException, ValueError) as error:
        field = re.search(r"full_key: (\S+)", str(error))
        raise UserError(
            f"{where}: {f'{field[1]}: ' if field else ''}{str(error).strip().splitlines()[0]}; correct it"
        ) from None


def parse_cell(cfg: DictConfig, choices: Mapping[str, Any]) -> Cell:
    parsed: dict[str, Choice] = {}
    for group, registry in GROUPS.items():
        name = choices[group]
        node = OmegaConf.to_container(cfg[group], resolve=True)
        node |= OmegaConf.to_container(cfg.scoped).get(name) or {}  # type: ignore[union-attr,operator]
        parsed[group] = Choice(name, parse(node, registry[name], f"{group}={name}"))
    if isinstance(parsed["weights"].value, Trained):
        parsed["weights"] = replace(parsed["weights"], value=trained_by(parsed["weights"].value.training, cfg, parsed))
    root = parse({k: cfg[k] for k in ("seed", "dtype", "target")}, Root, "the configuration")
    spec = EXPERIMENTS[choices["experiment"]]
    return Cell(**parsed, spec=spec, seed=root.seed, dtype=spec.dtype or root.dtype, target=root.target)


def trained_by(training: str, cfg: DictConfig, parsed: Mapping[str, Choice]) -> TrainedBy:
    """weights=trained with the cell that trains: of the same model, with BatchNorm if it has any, on all training images of a data set;
    where that is the cell's own data set, it lies in the same place and is split in the same way. Settings such as train.lr=0.05 on the
    command line reach it."""
    try:
        overrides = shlex.split(training)
    except ValueError as error:
        raise UserError(
            f"weights.training='{training}' can't be read ({str(error).lower()}); write it as on the command line"
        ) from None
    scoped: dict[str, Any] = OmegaConf.to_container(cfg.scoped)  # type: ignore[assignment]
    outer = [f"train.{k}={v}" for k, v in scoped.get("train", {}).items()]
    chosen = {f.name for f in dataclasses.fields(Selection)}  # which images: the training takes all
    places = [
        f"{name}.{k}={quoted(v)}"
        for name in DATA.keys() & scoped.keys()
        for k, v in scoped[name].items()
        if k not in chosen
    ]
    keys = [o.split("=", 1)[0] for o in overrides]
    refused = [key for key in keys if key.split(".")[0] not in ("data", *DATA, "train")]
    if refused or "data" not in keys:
        raise UserError(
            f"weights.training='{training}' {f'sets {refused[0]}' if refused else 'lacks data=...'}; it takes data=..., and settings of data and of experiment=train, "
            "such as 'data=digits train.epochs=[30]'"
        )
    if "train.seed" in keys and any(o.startswith("train.seed=") for o in outer):
        raise UserError(
            "train.seed is given twice, also in weights.training, which names one network by it; change it there"
        )
    cell = parse_cell(
        *composed(["experiment=train", *(SCOPED.sub(r"++scoped.\1.\2", o) for o in [*places, *overrides, *outer])])
    )
    model, data, own = parsed["model"], cell.data.value, parsed["data"].value
    if hasattr(model.value, "batch_norm"):
        model = replace(model, value=replace(model.value, batch_norm=True))
    if cell.data.name == parsed["data"].name:
        own_fields = {f.name for f in dataclasses.fields(own)} - chosen
        data = replace(
            data, **{k: getattr(own, k) for k in own_fields if not {f"data.{k}", f"{cell.data.name}.{k}"} & set(keys)}
        )
    return TrainedBy(" ".join([training, *outer]), replace(cell, model=model, data=replace(cell.data, value=data)))


def quoted(value: Any) -> str:
    """As Hydra reads it: a path may hold spaces and equals signs."""
    return "'" + value.replace("'", "\\'") + "'" if isinstance(value, str) else str(value)


def with_seed(cell: Cell, seed: str) -> Cell:
    root = parse({"seed": seed, "dtype": cell.dtype, "target": cell.target}, Root, "the configuration")
    return replace(cell, seed=root.seed)


def figure_cells(sweeps: Sweeps, profile: Profile, user: list[str]) -> dict[str, list[Cell]]:
    """Every point of every sweep as a cell; precedence: root < profile < figure < user."""
    found: dict[str, list[Cell]] = {}
    parsed: dict[tuple[str, ...], Cell] = {}
    for name, sweep in sweeps.sweeps.items():
        cells: dict[str, Cell] = {}
        mine = [o for o in user if not o.startswith("profile.")]
        for group in set(sweep.get("keeps", [])) & {o.split("=", 1)[0] for o in user}:
            mine = [o for o in mine if not o.startswith((f"{group}=", f"{group}."))]
        for point in points(sweep):
            overrides = {k: f"{k}={v}" for k, v in {**profile.overrides, **point}.items()}
            overrides |= {o.split("=", 1)[0]: o for o in mine}
            for group in GROUPS.keys() & {
                o.split("=", 1)[0] for o in mine
            }:  # another data set than the profile's needs none of its settings
                overrides = {k: v for k, v in overrides.items() if not k.startswith(f"{group}.") or v in user}
            seed = overrides.pop("seed", "").removeprefix("seed=")  # a plain number: no need to parse anew for each
            key = tuple(overrides.values())
            if key not in parsed:
                parsed[key] = parse_cell(*composed(key))
                if isinstance(parsed[key].rule.value, All):
                    raise UserError("a figure says itself which rules it draws; leave rule=all out")
            cell = with_seed(parsed[key], seed) if seed else parsed[key]
            cells[cell.key] = cell
        found[name] = list(cells.values())
    return found


def composed(overrides: Sequence[str]) -> tuple[DictConfig, Mapping[str, Any]]:
    """The configuration with these overrides, and the choices made. Hydra composes each set of choices once (60 ms); settings of one
    choice are put into a copy."""
    settings = [o for o in overrides if o.split("=", 1)[0].rpartition(".")[0] in GROUPS]
    cfg, choices = _composed(tuple(o for o in overrides if o not in settings))
    cfg = copy.deepcopy(cfg)
    for setting in settings:
        OmegaConf.update(cfg, *setting_of(setting))
    return cfg, choices


@cache
def setting_of(override: str) -> tuple[str, Any]:
    """rule.quantile=0.8 -> its key and value, as Hydra reads them."""
    parsed = OverridesParser.create().parse_override(override)
    return parsed.key_or_group, parsed.value()


@cache
def _composed(overrides: tuple[str, ...]) -> tuple[DictConfig, Mapping[str, Any]]:
    cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
    return OmegaConf.masked_copy(cfg, [*GROUPS, "seed", "dtype", "target", "scoped"]), dict(cfg.hydra.runtime.choices)
