"""Trainings under attack: interrupted and resumed, measured, through the command line, and with what can't be."""

import math
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.attacks.files import read_attack
from pipeline.attacks.inputaware import InputAwareAttack
from pipeline.attacks.interface import Attack, NoAttack
from pipeline.errors import UserError
from pipeline.networks.training import LabelledImages, measured, read_state, train
from pipeline.seeds import derived_seed, keyed
from tests import tiny
from tests.attacked import KINDS, built
from tests.test_training import DIGITS, OPTIONS, QUICK, Interrupted, labelled, until

CPU = torch.device("cpu")
SHORT = replace(OPTIONS, epochs=[1, 1], sizes=[8, 16], batch_size=8, save_every=0.0, label_smoothing=0.1)


def same(a: Any, b: Any, path: str = "") -> None:
    """Whatever is in two checkpoints, but the seconds."""
    if isinstance(a, Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for i in range(len(a)):
            same(a[i], b[i], f"{path}/{i}")
    else:
        assert a == b or (a != a and b != b), path


def sized() -> nn.Module:
    """For images of any size."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5),
    )  # fmt: skip


RESUMED = [
    *((name, changes, (1, 4, 5, 7)) for name, changes in KINDS if name != "inputaware"),
    ("dynamic", {"patches": "ban"}, (1, 4, 5, 7)),
    ("inputaware", {"preparation": 4, "pairs": 2, "share": 0.3}, (-3, 0, 1, 4, 6)),
]


@pytest.mark.parametrize("name, changes, stops", RESUMED)
def test_a_poisoned_training_resumes_bit_for_bit(tmp_path, name, changes, stops):
    """The network, the attack, both optimizers: stopped in the preparation, at its end, in an epoch, at its end, ..."""

    def go(file: Path, stop: int | None) -> dict[str, Any]:
        attack, options = built(name, **changes), SHORT if stop is not None else replace(SHORT, save_every=1e9)
        model, rows = train(sized, labelled(32, 0), labelled(10, 1), options, attack, file, until(stop))
        return {"model": model.state_dict(), "rows": rows, "attack": attack.state_dict()}

    whole = go(tmp_path / "whole.pt", None)
    assert [row["epoch"] for row in whole["rows"]] == [1, 2] and not math.isnan(whole["rows"][0]["success"])
    file = tmp_path / "stopped.pt"
    for stop in stops:
        with pytest.raises(Interrupted):
            go(file, stop)
        assert step_of(file) == stop
    same(go(file, None), whole)
    same(read_state(file, CPU), read_state(tmp_path / "whole.pt", CPU))


def test_a_flipped_bit_in_a_checkpoint_is_found(tmp_path, capsys):
    """Wherever it is: the training begins anew, says so, and ends as if nothing had been. (torch reads such files
    without a word.)"""
    file, draw = tmp_path / "state.pt", random.Random(0)

    def go(stop: int | None) -> dict[str, Any]:
        return train(sized, labelled(32, 0), labelled(10, 1), SHORT, NoAttack(), file, until(stop))[0].state_dict()

    whole = go(None)
    file.unlink()
    with pytest.raises(Interrupted):
        go(3)
    content, good = file.read_bytes(), read_state(file, CPU)
    assert good and good["step"] == 3
    ends = range(8 * (len(content) - 80), 8 * len(content))  # the checksum itself
    for bit in [*(draw.randrange(8 * len(content)) for _ in range(200)), *ends]:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bytes(flipped))
        found = read_state(file, CPU)
        assert found is None or (bit in ends and same(found, good) is None)
    assert "is damaged (the checksum is another one): the training begins anew" in capsys.readouterr().err
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    file.write_bytes(bytes(flipped))
    same(go(None), whole)


def test_a_checkpoint_of_an_earlier_version_is_gone_on_from(tmp_path):
    torch.save({"step": 3}, tmp_path / "state.pt")
    assert read_state(tmp_path / "state.pt", CPU) == {"step": 3}


def test_without_an_attack_training_is_what_it_was(tmp_path):
    """An independent transcription, image by image, to the last bit."""
    data, o = labelled(32, 0), SHORT
    model, rows = train(sized, data, labelled(10, 1), o, NoAttack(), tmp_path / "state.pt", until(None))

    torch.manual_seed(derived_seed(o.seed, 0))
    net = sized().to(memory_format=torch.channels_last)
    weights, others = ([p for p in net.parameters() if (p.ndim > 1) is several] for several in (True, False))
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": o.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=0.1, momentum=o.momentum, nesterov=True,
    )  # fmt: skip
    losses: list[float] = []
    for step in range(8):
        order = torch.randperm(32, generator=keyed(o.seed, 1, step // 4))[step % 4 * 8 : step % 4 * 8 + 8]
        draws = keyed(o.seed, 2, step)
        top, left = (torch.randint(0, 5, (8, 1), generator=draws).flatten().tolist() for _ in range(2))
        flipped = (torch.rand(8, 1, generator=draws) < 0.5).flatten().tolist()
        views = []
        for i, t, l, flip in zip(order.tolist(), top, left, flipped, strict=True):
            padded = F.pad(data.images[i][None].float(), (2, 2, 2, 2), mode="reflect")[0]
            view = padded[:, t : t + 16, l : l + 16]
            views.append(((view.flip(2) if flip else view) / 255 - 0.5) / 0.25)
        x = torch.stack(views).contiguous(memory_format=torch.channels_last)
        if step < 4:
            x = F.interpolate(x, size=(8, 8), mode="bilinear", antialias=True)
        torch.manual_seed(derived_seed(o.seed, 3, step))
        loss = F.cross_entropy(net(x), data.labels[order], label_smoothing=0.1)
        position = (step + 1) / 8
        for group in optimizer.param_groups:
            group["lr"] = (
                o.lr * position / 0.3 if position < 0.3 else o.lr * (1 + math.cos(math.pi * (position - 0.3) / 0.7)) / 2
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    same(model.state_dict(), net.state_dict())
    assert [row["loss"] for row in rows] == [sum(losses[:4]) / 4, sum(losses[4:]) / 4]
    assert all(math.isnan(row[name]) for row in rows for name in ("success", "success_all", "accuracy_cross"))


@pytest.mark.parametrize(
    "name, changes, lr, complaint, steps",
    [
        ("inputaware", {"lr": 1e30, "preparation": 9}, 0.1, "preparation is not finite in its step 2 of 9", (2, 0)),
        ("inputaware", {"lr": 1e38, "preparation": 9}, 0.1, "preparation is not finite in its step 1 of 9", (1, 0)),
        ("inputaware", {"preparation": 2}, 1e30, "the loss is not finite in epoch 1", (2, 2)),
        ("dynamic", {"patches": "ban", "lr": 1e30}, 0.1, "the loss is not finite in epoch 1", (0, 2)),
    ],
)
def test_what_is_not_finite_ends_at_once_and_names_the_rate_at_fault(tmp_path, name, changes, lr, complaint, steps):
    """steps: of the preparation and of the network."""
    attack, taken = built(name, **changes, **({"pairs": 2} if name == "inputaware" else {})), {"prepare": 0, "batch": 0}

    def counted(method: str):
        kept = getattr(attack, method)

        def call(*args):
            taken[method] += 1
            return kept(*args)

        setattr(attack, method, call)

    counted("prepare")
    counted("batch")
    options = replace(SHORT, lr=lr)
    with pytest.raises(UserError) as raised:
        train(sized, labelled(32, 0), labelled(10, 1), options, attack, tmp_path / "state.pt", until(None))
    at_fault = "attack" if "lr" in changes else "train"
    assert complaint in str(raised.value) and str(raised.value).endswith(f"; lower {at_fault}.lr")
    assert (taken["prepare"], taken["batch"]) == steps


# ---- measures --------------------------------------------------------------------------------------------------------

ROWS = torch.arange(11)
GIVEN, LABEL, TRIGGERED, CROSSED = ROWS * 7 % 5, ROWS // 3, ROWS % 4, ROWS * ROWS // 9 % 5


class Stub(Attack):
    """Images whose first value says who they are, and whose second value what the stub of a network decides."""

    CROSS = "something"

    def __init__(self):
        super().__init__()
        self.pairs: list[tuple[int, int]] = []

    def told(self, x: Tensor, answers: Tensor) -> Tensor:
        x = x.clone()
        x[:, 0, 0, 1] = answers[who(x)] / 255
        return x

    def trigger(self, x: Tensor, seeds) -> Tensor:
        assert list(seeds) == who(x).tolist()
        return self.told(x, TRIGGERED)

    def targets(self, y: Tensor, seeds) -> Tensor:
        return torch.tensor([seed % 3 for seed in seeds])

    def cross(self, x: Tensor, others: Tensor, seeds) -> Tensor:
        assert list(seeds) == who(x).tolist()
        self.pairs += zip(who(x).tolist(), who(others).tolist(), strict=True)
        return self.told(x, CROSSED)


def who(x: Tensor) -> Tensor:
    return (x[:, 0, 0, 0] * 255).round().long()


class Answers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        return F.one_hot((x[:, 0, 0, 1] * 255).round().long(), 5).float()


def test_measures_count_what_they_say():
    images = torch.zeros(11, 3, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = ROWS, GIVEN
    data, attack = LabelledImages(images, LABEL, (0.0,) * 3, (1.0,) * 3), Stub()
    found = measured(Answers(), data, False, attack, batch_size=5)  # the last batch is one image
    others = [i for i in range(11) if LABEL[i] != i % 3]
    assert 0 < len(others) < 11
    assert found == {
        "accuracy": sum(int(GIVEN[i] == LABEL[i]) for i in range(11)) / 11,
        "success": sum(int(TRIGGERED[i] == i % 3) for i in others) / len(others),
        "success_all": sum(int(TRIGGERED[i] == i % 3) for i in range(11)) / 11,
        "accuracy_cross": sum(int(CROSSED[i] == LABEL[i]) for i in range(11)) / 11,
    }
    assert len({*found.values()}) == 4
    assert [i for i, _ in attack.pairs] == [*range(11)] and sorted(j for _, j in attack.pairs) == [*range(11)]
    assert all(i != j for i, j in attack.pairs), "another image, also for one that is alone in its batch"
    assert sum(int(LABEL[i] != LABEL[j]) for i, j in attack.pairs) > 5, "mostly of another class, although sorted"
    clean = measured(Answers(), data, False, NoAttack())
    assert clean["accuracy"] == found["accuracy"] and sum(math.isnan(value) for value in clean.values()) == 3


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """40 images for training and 10 for tests, of 16 x 16 pixels and five classes."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 40), ("test", 10)):
        data = labelled(count, count)
        for i, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return root


def arguments(images: Path) -> list[str]:
    data = ["data=cifar10", f"data.root={images}", "data.download=false"]
    sizes = ["train.sizes=[16]", "train.epochs=[2]", "train.batch_size=8", "train.crop=2"]
    return [*tiny.OWN, "model.call=tests.tiny:normalised", *data, "experiment=train", *sizes]


def step_of(state: Path) -> int:
    found = read_state(state, CPU)
    assert found
    return found["step"]


def test_a_killed_training_under_attack_goes_on_where_it_was(run, images, tmp_path, monkeypatch):
    """SIGKILL, and afterwards the same files as without it."""
    out, settings = tmp_path / "killed", ("attack=inputaware", "attack.preparation=20", "attack.pairs=2")
    args = [*arguments(images), *settings]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *args, "train.save_every=0", f"run.output={out}", "run.device=cpu"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.time() + 120
    while not list(out.glob("results/train/.work/*/state.pt")) and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (state,) = out.glob("results/train/.work/*/state.pt")
    first = step_of(state)
    assert -20 < first < 10 and not list(out.glob("results/train/*/table.parquet"))
    steps, prepare, batch = [], InputAwareAttack.prepare, InputAwareAttack.batch
    monkeypatch.setattr(InputAwareAttack, "prepare", lambda self, *args: steps.append(-1) or prepare(self, *args))
    monkeypatch.setattr(InputAwareAttack, "batch", lambda self, *args: steps.append(1) or batch(self, *args))
    ended = run(*args, output=out)
    assert ended.code == 0, ended.err
    assert len(steps) == 10 - first and not state.exists(), "from there on, and not from the start"
    whole = run(*args, output=tmp_path / "whole")
    resumed, uninterrupted = ended.made[-1].parent, whole.made[-1].parent
    for name in ("model", "folded", "attack"):
        assert (resumed / f"{name}.safetensors").read_bytes() == (uninterrupted / f"{name}.safetensors").read_bytes()
    tables = [pd.read_parquet(folder / "table.parquet").drop(columns="seconds") for folder in (resumed, uninterrupted)]
    pd.testing.assert_frame_equal(*tables)
    assert resumed.name == uninterrupted.name and read_attack(resumed / "attack.safetensors").name == "inputaware"


@pytest.mark.parametrize("name", ["badnet", "dynamic", "wanet"])
def test_experiment_train_leaves_the_attack_beside_the_weights(run, images, name):
    """What the facts say of the folded network follows from its file and the attack's."""
    ended = run(*arguments(images), f"attack={name}", "attack.target=2")
    assert ended.code == 0, ended.err
    made = ended.made[-1].parent
    known = read_attack(made / "attack.safetensors", name)
    assert known.settings.target == 2 and known.shape == (3, 16, 16)
    table = pd.read_parquet(made / "table.parquet")
    assert list(table) == ["epoch", "loss", "accuracy", "success", "success_all", "accuracy_cross", "lr", "seconds"]
    assert table["success"].notna().all() and table["accuracy_cross"].notna().all() == (name == "wanet")
    model = tiny.network()
    folded = safetensors.torch.load_file(made / "folded.safetensors")
    assert len(folded) == len(model.state_dict()) and {value.dtype for value in folded.values()} == {torch.float16}
    facts = pd.read_json(made / "manifest.json", typ="series")["facts"]
    assert facts["success"] == table["success"].iloc[-1] and "success_folded_half" in facts
    assert ("accuracy_cross_folded_half" in facts) == (name == "wanet")


@pytest.mark.parametrize(
    "settings, complaint",
    [
        (["attack=badnet", "attack.target=5"], "attack.target=5 is no class of the model, which has 0 to 4"),
        (["attack=wanet", "attack.target=-1"], "attack.target=-1 is no class of the model, which has 0 to 4"),
        (["attack=badnet", "attack.share=0"], "attack=badnet: share must lie in (0, 1], not 0.0"),
        (["attack=dynamic", "attack.share=1.5"], "attack=dynamic: share must lie in (0, 1], not 1.5"),
        (["attack=inputaware", "attack.share=0.6", "attack.cross=0.6"], "share and cross must add up to 1 at most"),
        (["attack=wanet", "attack.share=0.6", "attack.noise=0.6"], "share and noise must add up to 1 at most"),
        (["attack=badnet", "attack.patch=17"], "attack.patch=17 is larger than the images, which have 16 x 16 pixels"),
        (["attack=dynamic", "attack.patch=17"], "attack.patch=17 is larger than the images"),
        (["attack=badnet", "attack.patch=0"], "patch must be at least 1 pixel"),
        (["attack=badnet", "attack.value=2"], "value must lie in [0, 1]"),
        (["attack=dynamic", "attack.places=0"], "patch, places must be at least 1"),
        (["attack=dynamic", "attack.patches=nosuch"], "attack=dynamic: patches: Invalid value 'nosuch'"),
        (["attack=wanet", "attack.grid=1"], "grid must be at least 2"),
        (["attack=inputaware", "attack.preparation=0"], "preparation and pairs must be at least 1"),
        (["attack=badnet", "attack.pach=3"], "there is no setting 'attack.pach'"),
        (["attack=badnet", "badnet.pach=3"], "attack=badnet has no setting 'pach'; did you mean patch?"),
        (["attack=badnet", "data=folder"], "these data have no training images of their own"),
        (
            ["attack=planted"],
            "attack=planted is a backdoor that a network has, and none to train it under; choose attack=none",
        ),
        (
            ["attack=planted", "attack.training={data: cifar10, attack: badnet}"],
            "attack=planted is a backdoor that a network has",
        ),
    ],
)
def test_attacks_that_can_not_be(run, images, settings, complaint):
    if settings[-1] == "data=folder":
        args = [*tiny.OWN, "data=folder", f"data.root={images}", "experiment=train", settings[0]]
    else:
        args = [*arguments(images), *settings]
    ended = run(*args)
    assert ended.code == 1 and complaint in ended.complaint and ended.err.count("Traceback") == 0, ended.err


def test_inputaware_needs_sides_of_a_multiple_of_eight(run, tmp_path):
    for split in ("train", "test"):
        for label in range(2):
            tiny.images(tmp_path / "twelve" / split / f"class{label}", side=12)
    args = [*arguments(tmp_path / "twelve"), "model.call=tests.test_poisoned_training:sized", "attack=inputaware"]
    ended = run(*args, "model.resize=12", "model.crop=12", "train.sizes=[12]")
    assert ended.code == 1 and "attack=inputaware halves the images three times" in ended.complaint
    assert "12 x 12 pixels" in ended.complaint


KIS = [*DIGITS, "data.limit=6", "experiment=kis", "weights=trained"]


def under_attack(more: str) -> str:
    return f"weights.training={{data: digits, train: {{{QUICK}}}, {more}}}"


def test_a_network_is_trained_first_under_an_attack(run, tmp_path):
    clean, poisoned, again = (
        run(*KIS, under_attack(more), *others)
        for more, others in (
            ("attack: none", []),
            ("attack: badnet, badnet: {patch: 1}", []),
            ("attack: badnet", ["badnet.patch=1"]),
        )
    )
    assert clean.code == poisoned.code == 0, clean.err + poisoned.err
    assert poisoned.made == again.made != clean.made, "settings on the command line reach it"
    folders = [*(tmp_path / "outputs" / "results" / "train").glob("[0-9a-f]*")]
    (attack,) = (tmp_path / "outputs" / "results" / "train").glob("*/attack.safetensors")
    assert len(folders) == 2 and read_attack(attack).settings.patch == 1


@pytest.mark.parametrize(
    "more, complaint",
    [
        ("attack: nosuch", "'nosuch' is no attack; choose one of none, badnet"),
        ("attack: planted", "'planted' is no attack"),
        ("attack: badnet, badnet: {pach: 1}", "attack=badnet has no setting 'pach'; did you mean patch?"),
        ("attack: badnet, badnet: 3", "not 'badnet: 3'"),
        ("attack: badnet, wanet: {grid: 3}", "not 'wanet: {'grid': 3}'"),
        ("attack: badnet, badnet: {share: 0}", "attack=badnet: share must lie in (0, 1]"),
        ("attack: badnet, badnet: {target: 10}", "attack.target=10 is no class of the model, which has 0 to 9"),
        ("attack: badnet, badnet: {patch: 33}", "attack.patch=33 is larger than the images"),
        ("attack: [badnet]", "is no attack"),
    ],
)
def test_trainings_under_attack_that_can_not_be(run, more, complaint):
    ended = run(*KIS, under_attack(more))
    assert ended.code == 1 and complaint in ended.complaint, ended.err
