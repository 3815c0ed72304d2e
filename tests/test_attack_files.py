"""An attack's state in its file: the same images in another process, and what is refused."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline.attacks.files import beside, read_attack, state_of
from pipeline.attacks.interface import Attack
from pipeline.errors import UserError
from pipeline.run.store import save_tensors
from pipeline.weights.planted import Planted
from tests.attacked import KINDS, SITE, built, pixels, settings_of

HASHES = """
import hashlib, sys, torch
from pathlib import Path
from pipeline.attacks.files import read_attack
x = 0.9 * torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
for file in sys.argv[1:]:
    print(hashlib.sha256(read_attack(Path(file)).attack.trigger(x, range(6)).numpy().tobytes()).hexdigest())
"""


def saved(folder: Path, name: str, **changes: Any) -> tuple[Path, Attack]:
    attack, file = built(name, **changes), folder / f"{name}{len(list(folder.iterdir()))}.attack.safetensors"
    state, head = state_of(attack, settings_of(name, **changes), SITE)
    save_tensors(state, file, head)
    return file, attack


def test_a_saved_attack_makes_the_same_images_in_another_process(tmp_path):
    """To the last bit; nets are kept in half precision."""
    kept = [(*saved(tmp_path, name, **changes), name, changes) for name, changes in KINDS]
    done = subprocess.run(
        [sys.executable, "-c", HASHES, *(str(file) for file, *_ in kept)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    for told, (file, attack, name, changes) in zip(done.stdout.split(), kept, strict=True):
        known = read_attack(file, name)
        assert (known.name, known.settings, known.shape) == (name, settings_of(name, **changes), SITE.shape)
        assert not any(p.requires_grad for p in known.attack.parameters()) and not known.attack.training
        exact = not list(attack.parameters())
        made, x = known.attack.trigger(pixels(6), range(6)), pixels(6)
        attack.load_state_dict(known.attack.state_dict() if not exact else attack.state_dict())
        assert torch.equal(made, attack.eval().trigger(x, range(6)))
        assert hashlib.sha256(made.numpy().tobytes()).hexdigest() == told
        own = {key for key, _ in attack.named_buffers(recurse=False)}
        for key, value in safetensors.torch.load_file(file).items():
            assert (value.dtype == torch.float16) == (attack.state_dict()[key].is_floating_point() and key not in own)


def planted(path: Path | str | None, name: str | None = None) -> Planted:
    return Planted(None if path is None else str(path), name, None)


def test_a_planted_attack_is_read_from_its_file_or_from_beside_the_weights(tmp_path):
    file, _ = saved(tmp_path, "wanet")
    weights = tmp_path / "model.safetensors"
    for where in (None, file, weights):
        with pytest.raises(UserError, match="no attack's state beside") if where != file else nullcontext():
            assert planted(where).read(weights).name == "wanet"
    plain = file.rename(tmp_path / "attack.safetensors")
    assert planted(None).file(weights) == planted(weights).file(None) == planted(plain).file(None) == plain
    assert planted(weights).read(None).name == "wanet"
    own, _ = saved(tmp_path, "badnet")
    own.rename(tmp_path / "model.attack.safetensors")
    assert planted(None, "badnet").read(weights).name == "badnet", "the one of the weights' own name goes first"
    assert beside(tmp_path / "folded.safetensors") == plain


def heads(**changes: Any) -> dict[str, str]:
    head = json.loads(state_of(built("badnet"), settings_of("badnet"), SITE)[1]["attack"])
    return {"attack": json.dumps(head | changes)}


@pytest.mark.parametrize(
    "head",
    [
        None,
        {"attack": "{"},
        {"attack": "[]"},
        heads(name="nosuch"),
        heads(name="wanet"),
        heads(site="16 x 16"),
        heads(site={"shape": [3, 16, 16]}),
        heads(site={"shape": [3, 16, 16], "images": 7, "classes": 5}),
        heads(settings=[]),
        heads(settings={"target": 0}),
        heads(settings={"target": 0, "share": 2, "patch": 3, "value": 1}),
    ],
)
def test_a_file_that_holds_no_attack_is_refused(tmp_path, head):
    file = tmp_path / "attack.safetensors"
    save_tensors(built("badnet").state_dict(), file, head)
    with pytest.raises(UserError, match=r"holds no attack's state \(.*\); train one with"):
        planted(file).read(None)


def test_attacks_that_are_not_there_or_are_others_are_refused(tmp_path):
    file, _ = saved(tmp_path, "wanet")
    for where, weights, name, complaint in (
        (tmp_path / "no.attack.safetensors", None, None, "there is no attack's state at"),
        (tmp_path / "no.safetensors", None, None, "there is no attack's state beside"),
        (None, tmp_path / "model.safetensors", None, r"beside .*model.safetensors \(model.attack.safetensors\)"),
        (None, None, None, "these weights are in no file"),
        (file, None, "badnet", "is the state of the attack wanet and not of badnet"),
    ):
        with pytest.raises(UserError, match=complaint):
            planted(where, name).read(weights)
    (tmp_path / "text.attack.safetensors").write_text("no tensors")
    with pytest.raises(UserError, match="holds no attack's state"):
        planted(tmp_path / "text.attack.safetensors").read(None)
