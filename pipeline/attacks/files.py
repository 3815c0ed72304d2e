"""The state of a trained attack as a file: beside the weights of the network that was trained under it."""

import json
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from pipeline.attacks import ATTACKS
from pipeline.attacks.interface import Attack, Settings, Site
from pipeline.errors import UserError
from pipeline.files import first_line

HOW = "train one with experiment=train attack=badnet, or set planted.path to such a file or the weights beside it"


def state_of(attack: Attack, settings: Settings, site: Site) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What reads back as this attack: its state, nets in half precision, and the head of its file."""
    own = {key for key, _ in attack.named_buffers(recurse=False)}  # grids, places: exact
    state = {
        key: value.half() if value.is_floating_point() and key not in own else value
        for key, value in attack.state_dict().items()
    }
    name = next(name for name, kind in ATTACKS.items() if kind is type(settings))
    return state, {
        "attack": json.dumps({"name": name, "settings": asdict(settings), "site": asdict(site)}, default=plain)
    }


def plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{value!r} is no plain data")


@dataclass(frozen=True)
class Known:
    """A trained attack. name: of its kind; attack: on the CPU, in evaluation mode; shape: of the images, (C, H, W)."""

    name: str
    settings: Settings
    attack: Attack
    shape: tuple[int, int, int]


def read_attack(file: Path, name: str | None = None) -> Known:
    """The attack in a file. Raises UserError if there is none, or none of that name."""
    if not file.is_file():
        raise UserError(f"there is no attack's state at {file}; {HOW}")
    try:
        with safetensors.safe_open(file, "pt") as opened:  # type: ignore[attr-defined]
            head = json.loads((opened.metadata() or {})["attack"])
        state = safetensors.torch.load_file(file)
        kind, site = ATTACKS[head["name"]], Site(tuple(head["site"].pop("shape")), **head["site"])
        enums = {f.name: f.type for f in fields(kind) if isinstance(f.type, type) and issubclass(f.type, Enum)}
        settings = kind(**{k: enums[k](v) if k in enums else v for k, v in head["settings"].items()})
        attack = settings.build(site, 0)
        attack.load_state_dict(state)
        if broken := [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
            raise ValueError(f"{broken[0]} is not finite")
    except (SafetensorError, AttributeError, KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
        raise UserError(f"{file} holds no attack's state ({first_line(error)}); {HOW}") from None
    if name is not None and head["name"] != name:
        raise UserError(f"{file} is the state of the attack {head['name']} and not of {name}; {HOW}")
    return Known(head["name"], settings, attack.eval().requires_grad_(False), site.shape)


def beside(weights: Path | None) -> Path:
    """Where the attack's state is that belongs to a file of weights. Raises UserError if it isn't anywhere."""
    if weights is None:
        raise UserError(f"these weights are in no file, and no attack's state is beside them; {HOW}")
    places = [weights.with_name(f"{weights.stem}.attack.safetensors"), weights.with_name("attack.safetensors")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"there is no attack's state beside {weights} ({places[0].name}); {HOW}")
    return found
