"""Attacks on tiny images and networks, for the tests of each."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from pipeline.attacks.interface import Attack, Site
from pipeline.files import CONF
from pipeline.networks.training import augment, train
from pipeline.run.parsing import chosen
from pipeline.seeds import keyed
from tests import tiny
from tests.test_training import OPTIONS, labelled, until

SITE = Site((3, 16, 16), 160, 5)
FAST = replace(OPTIONS, batch_size=16, test_every=100, save_every=1e9)
KINDS = [("badnet", {}), ("dynamic", {}), ("dynamic", {"patches": "cban"}), ("inputaware", {}), ("wanet", {})]


def settings_of(name: str, **changes: Any) -> Any:
    """Those of conf/attack/<name>.yaml."""
    given = yaml.safe_load((CONF / "attack" / f"{name}.yaml").read_text())
    return chosen("attack", name, json.dumps({**given, **changes})).value


def built(name: str, seed: int = 3, site: Site = SITE, **changes: Any) -> Any:
    return settings_of(name, **changes).build(site, seed)


def pixels(n: int, seed: int = 0, shape: tuple[int, ...] = (3, 16, 16)) -> Tensor:
    """Below 0.9: not white."""
    return 0.9 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def smooth(n: int, seed: int = 0, side: int = 16) -> Tensor:
    return nn.functional.interpolate(pixels(n, seed, (3, 4, 4)), size=side, mode="bilinear")


def crops(key: int) -> Callable[[Tensor], Tensor]:
    """The crops and flips of a training step."""
    return partial(augment, border=4, flip=True, generator=keyed(key))


def as_it_is(x: Tensor) -> Tensor:
    return x


def step(attack: Attack, x: Tensor, y: Tensor, key: int = 0, crop: Callable[[Tensor], Tensor] = as_it_is):
    return attack.batch(x, y, torch.arange(len(x)), crop, keyed(key))


def trained(attack: Attack, folder: Path, epochs: int) -> nn.Module:
    """A tiny network on 160 images, under the attack."""
    build, options = lambda: tiny.network(batch_norm=True), replace(FAST, epochs=[epochs])
    return train(build, labelled(160, 0), labelled(20, 1), options, attack, folder / "state.pt", until(None))[0]


@torch.no_grad()
def decisions(model: nn.Module, x: Tensor) -> Tensor:
    return model(labelled(5, 0).normalised(x)).argmax(1)
