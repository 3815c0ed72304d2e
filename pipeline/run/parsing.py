"""From Hydra's configuration to typed cells: parsed once, everything unknown or wrong refused in one sentence.

With cli.py and sweeps.py, all that knows Hydra and OmegaConf.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.attacks import ATTACKS
from pipeline.engine.rules import RULES
from pipeline.errors import UserError
from pipeline.experiments import EXPERIMENTS
from pipeline.experiments.interface import Dtype
from pipeline.images.catalogue import DATA
from pipeline.images.sets import Selection
from pipeline.networks.catalogue import MODELS
from pipeline.run.cell import Cell, Choice
from pipeline.weights.laws import SHARES
from pipeline.weights.planted import Planted, PlantedBy
from pipeline.weights.states import WEIGHTS, Trained, TrainedBy, layers_of


@dataclass(frozen=True)
class All:
    """rule=all: a table for each of the rules `names`, their work and one picture shared; figure=all: each of these
    figures."""

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
    "attack": {**ATTACKS, "planted": Planted},
}
SETTINGS = [*GROUPS, "seed", "dtype", "target", "scoped"]  # what determines a cell
TRAINING = "weights.training names data and settings, such as {data: digits, train: {epochs: [30]}}"


@dataclass(frozen=True)
class Root:
    seed: int
    dtype: Dtype
    target: str


def parse(node: Any, schema: type, where: str) -> Any:
    """A config node -> an instance of the dataclass `schema`. Raises UserError for unknown fields, wrong types,
    values out of range."""
    given = plain(node) if isinstance(node, DictConfig) else node
    known(given, schema, where)
    needed = [f.name for f in dataclasses.fields(schema) if f.default is dataclasses.MISSING]
    missing = [name for name in needed if given.get(name, "???") == "???"]
    if missing:
        raise UserError(f"{where} lacks the setting '{missing[0]}'; add it")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), given))
    except (OmegaConfBaseException, ValueError) as error:
        field = re.search(r"full_key: (\S+)", str(error))
        said = f"{f'{field[1]}: ' if field else ''}{str(error).strip().splitlines()[0]}"
        raise UserError(f"{where}: {said}; correct it") from None


def plain(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def known(given: Mapping[str, Any], schema: type, where: str) -> None:
    """Raises UserError for a setting that the dataclass has not."""
    fields = [f.name for f in dataclasses.fields(schema)]
    for name in (str(key) for key in given if key not in fields):
        close = difflib.get_close_matches(name, fields, n=1)
        hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(fields) or 'none'}"
        raise UserError(f"{where} has no setting '{name}'; {hint}")


def parse_cell(settings: Mapping[str, Any], choices: Mapping[str, Any]) -> Cell:
    """settings: SETTINGS, those of each group's option by the group's name."""
    scoped = settings["scoped"]
    for group, registry in GROUPS.items():
        for name in registry.keys() & scoped.keys():  # also of options that are not chosen here
            known(scoped[name], registry[name], f"{group}={name}")
    parsed: dict[str, Choice] = {}
    texts: dict[str, str] = {}
    for group in GROUPS:  # the model before the weights
        name = choices[group]
        given = {**settings[group], **(scoped.get(name) or {})}
        if isinstance(given.get("training"), str) and given["training"] != "???" and group == "weights":
            raise UserError(f"{TRAINING}, and not the text '{given['training']}'")
        if group == "weights" and given.get("depth") in [*SHARES]:
            given["depth"] = SHARES[given["depth"]](layers_in(choices["model"], texts["model"]))
        texts[group] = json.dumps(given)
        parsed[group] = chosen(group, name, texts[group])
    if isinstance(parsed["weights"].value, Trained):
        training = trained_by(parsed["weights"].value.training, scoped, parsed)
        parsed["weights"] = replace(parsed["weights"], value=training)
    planted = parsed["attack"].value
    if isinstance(planted, Planted) and planted.training is not None:
        training = trained_by(planted.training, scoped, parsed)
        parsed["attack"] = replace(parsed["attack"], value=PlantedBy(training, planted.name))
    root = parse({key: settings[key] for key in ("seed", "dtype", "target")}, Root, "the configuration")
    spec = EXPERIMENTS[choices["experiment"]]
    return Cell(**parsed, spec=spec, seed=root.seed, dtype=spec.dtype or root.dtype, target=root.target)


@cache
def chosen(group: str, name: str, settings: str) -> Choice:
    """settings: as JSON. A figure has hundreds of cells, and few different options."""
    return Choice(name, parse(json.loads(settings), GROUPS[group][name], f"{group}={name}"))


@cache
def layers_in(model: str, settings: str) -> int:
    """L of a model that is `chosen` so. A figure has hundreds of cells, and traces it once."""
    return layers_of(chosen("model", model, settings).value)


# ---- weights=trained -------------------------------------------------------------------------------------------------


def trained_by(training: Mapping[str, Any], scoped: Mapping[str, Any], parsed: Mapping[str, Choice]) -> TrainedBy:
    """weights=trained with the cell that trains: of the same model, with BatchNorm if it has any, on all training
    images of a data set; where that is the cell's own data set, it lies in the same place and is split in the same
    way. Settings such as train.lr=0.05 on the command line (`scoped`) reach it. Raises UserError for what is no
    setting of a training.
    """
    name, attack = training.get("data"), training.get("attack", "none")
    inner = {k: v for k, v in training.items() if k not in ("data", "attack")}
    if name not in [*DATA]:  # a list has no hash
        raise UserError(f"{TRAINING}, and '{name}' is no data set; choose one of {', '.join(DATA)}")
    if attack not in [*ATTACKS]:
        raise UserError(f"{TRAINING}, and '{attack}' is no attack; choose one of {', '.join(ATTACKS)}")
    for key, settings in inner.items():
        if key not in (name, attack, "train") or not isinstance(settings, Mapping):
            raise UserError(
                f"{TRAINING}, and not '{key}: {settings}'; it takes data and attack, settings of theirs by their "
                "names, and train"
            )
    outer = dict(scoped.get("train") or {})
    if "seed" in outer and "seed" in inner.get("train", {}):
        raise UserError(
            "train.seed is given twice, also in weights.training, which names one network by it; change it there"
        )
    which = {f.name for f in dataclasses.fields(Selection)}  # images: the training takes all
    place = {k: v for k, v in (scoped.get(name) or {}).items() if k not in which}
    data = place | dict(inner.get(name, {}))
    settings = {"train": dict(inner.get("train", {})) | outer, name: data}
    settings[attack] = dict(scoped.get(attack) or {}) | dict(inner.get(attack, {}))
    cell = parse_cell(*composed({"experiment": "train", "data": name, "attack": attack, "scoped": settings}))
    model, own = parsed["model"], parsed["data"]
    if hasattr(model.value, "batch_norm"):
        model = replace(model, value=replace(model.value, batch_norm=True))
    if name == own.name:
        fields = {f.name for f in dataclasses.fields(own.value)} - which - inner.get(name, {}).keys()
        cell_data = replace(cell.data.value, **{k: getattr(own.value, k) for k in fields})
        cell = replace(cell, data=replace(cell.data, value=cell_data))
    words = [
        f"data={name}",
        *([f"attack={attack}"] if attack != "none" else []),
        *said({**inner, "train": {**inner.get("train", {}), **outer}}),
    ]
    return TrainedBy(" ".join(words), replace(cell, model=model))


def said(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """{train: {epochs: [30], flip: False}} -> train.epochs=[30] train.flip=false, as on the command line."""
    spelt = {True: "true", False: "false", None: "null"}

    def text(value: Any) -> str:
        if isinstance(value, list):
            return f"[{','.join(map(text, value))}]"
        return spelt[value] if value is None or isinstance(value, bool) else str(value)

    return [f"{name}.{key}={text(value)}" for name, of_name in settings.items() for key, value in of_name.items()]


# ---- composition -----------------------------------------------------------------------------------------------------


def composed(settings: Mapping[str, Any], others: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """All settings of a cell where these are set (a choice for a group, or a value by its dotted key, text being read
    as on the command line) under other overrides, and the choices made. Raises UserError for a key that leads nowhere.
    """
    cfg, choices = map(dict, _composed(tuple(others)))
    chosen = {key: value for key, value in settings.items() if key in GROUPS}
    compose_options(chosen, others)
    cfg |= {choice[0]: _options(tuple(others))[choice] for choice in chosen.items()}
    choices |= chosen
    for key, value in settings.items():
        if key not in GROUPS:
            *above, last = key.split(".")
            node = cfg
            for part in above:  # what lies on the way is copied; the rest is shared with other cells
                if not isinstance(node.get(part), dict):
                    raise UserError(
                        f"there is no setting '{key}'; see python -m pipeline --cfg job for those there are"
                    )
                node[part] = node = dict(node[part])
            node[last] = read(value) if isinstance(value, str) else value
    return cfg, choices


def compose_options(chosen: Mapping[str, str], others: Sequence[str]) -> None:
    """What these options, one of a group, hold under other overrides: Hydra composes each once (100 to 250 ms), and
    several at once, for groups don't depend on each other."""
    known = _options(tuple(others))
    if new := {group: option for group, option in chosen.items() if (group, option) not in known}:
        cfg, _ = _composed((*(f"{group}={option}" for group, option in new.items()), *others))
        known.update({choice: cfg[choice[0]] for choice in new.items()})


@cache
def _options(others: tuple[str, ...]) -> dict[tuple[str, str], Any]:
    """By group and option, those composed under other overrides."""
    return {}


@cache
def read(text: str) -> Any:
    """A value as Hydra reads it after `key=`."""
    value = OverridesParser.create().parse_override(f"key={text}").value()
    return OmegaConf.to_container(OmegaConf.create({"value": value}), resolve=True)["value"]  # type: ignore[index,call-overload]


@cache
def _composed(overrides: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
    return plain(OmegaConf.masked_copy(cfg, SETTINGS)), dict(cfg.hydra.runtime.choices)
