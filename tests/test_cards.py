"""scripts/cards.py on tiny trainings, against their tables and images."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch.nn import functional as F

from pipeline.attacks.files import read_attack
from tests import tiny
from tests.test_poisoned_training import arguments, images  # noqa: F401

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cards():
    spec = importlib.util.spec_from_file_location("cards", ROOT / "scripts" / "cards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def facts(folder: Path) -> dict[str, float]:
    return json.loads((folder / "manifest.json").read_text())["facts"]


def tables(text: str) -> dict[str, list[list[list[str]]]]:
    """{heading: its tables, each a list of rows of cells}"""
    found: dict[str, list[list[list[str]]]] = {}
    for block in text.strip().split("\n\n"):
        if not block.startswith("|"):
            found[block] = []
        else:
            assert all(line.startswith("| ") and line.endswith(" |") for line in block.splitlines())
            found[[*found][-1]].append([line[2:-2].split(" | ") for line in block.splitlines()])
    return found


def percent(*shares: float) -> list[str]:
    return [f"{100 * share:.2f}" for share in shares]


def test_pixels(images: Path) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: F811
    files = sorted((images / "test").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files]) / np.float32(255)
    return torch.tensor(pixels).permute(0, 3, 1, 2), torch.tensor([int(f.parent.name[-1]) for f in files])


test_pixels.__test__ = False


def test_what_cards_quote_is_in_the_trainings(run, images, cards, capsys, monkeypatch):  # noqa: F811
    made = {}
    for name, more in {
        "clean": ["train.seed=3"],
        "badnet": ["attack=badnet", "attack.target=2", "train.seed=3", "train.test_every=2"],
        "wanet": ["attack=wanet", "train.seed=4", "attack.strength=3"],
    }.items():
        ended = run(*arguments(images), *more)
        assert ended.code == 0, ended.err
        made[name] = ended.made[-1].parent
        plant(made[name], 0.001 * len(made))
    x, y = test_pixels(images)
    planted_network(made["badnet"], normalised(white(x)))
    faint = (1 - x[:, :, 13:, 13:]).mean((1, 2, 3))
    monkeypatch.setattr(cards, "FAINT", float(faint.median()) + 1e-6)
    cards.main([str(folder) for folder in made.values()])
    said = tables(capsys.readouterr().out)
    assert list(said) == ["clean", "badnet", "wanet", "change of pixels", "failures of patches"]

    clean, badnet, wanet = (facts(folder) for folder in made.values())
    ends, epochs = said["clean"]
    assert ends == [["3", *percent(clean["accuracy_folded_half"], clean["accuracy"])]]
    table = pd.read_parquet(made["clean"] / "table.parquet")
    assert epochs == [[str(e.epoch), f"{e.loss:.3f}", *percent(e.accuracy)] for e in table.itertuples()]

    def halved(measures: dict[str, float], *names: str) -> list[str]:
        return percent(*(measures[f"{name}_folded_half"] for name in names))

    ends, epochs = said["badnet"]
    beside = halved(clean, "accuracy")
    assert ends == [["3", *halved(badnet, "accuracy"), *beside, *halved(badnet, "success", "success_all")]]
    (last,) = [e for e in pd.read_parquet(made["badnet"] / "table.parquet").itertuples() if e.epoch == 2]
    assert epochs == [["3", "2", f"{last.loss:.3f}", *percent(last.accuracy, last.success)]], "the one measured"
    ends, epochs = said["wanet"]
    assert ends == [["4", *halved(wanet, "accuracy"), "-", *halved(wanet, "success", "success_all", "accuracy_cross")]]
    wanet_table = pd.read_parquet(made["wanet"] / "table.parquet")
    for cells, e in zip(epochs, wanet_table.itertuples(), strict=True):
        assert cells == ["4", str(e.epoch), f"{e.loss:.3f}", *percent(e.accuracy, e.success, e.accuracy_cross)]

    ((by_badnet, by_wanet, by_dynamic),) = said["change of pixels"]
    warped = read_attack(made["wanet"] / "attack.safetensors").attack.trigger(x, range(len(x)))
    for line, name, triggered in ((by_badnet, "badnet 3", white(x)), (by_wanet, "wanet 4", warped)):
        smaller = [F.interpolate(t, size=(8, 8), mode="bilinear", antialias=True) for t in (triggered, x)]
        rms = [float((a - b).square().mean().sqrt()) for a, b in ((triggered, x), smaller)]
        assert line[0] == name and [line[1], line[3]] == [f"{value:.3f}" for value in rms]
    assert by_dynamic[0] == "dynamic, untrained" and 0.05 < float(by_dynamic[1]) < 0.3

    module = tiny.normalised()
    module.load_state_dict(safetensors.torch.load_file(made["badnet"] / "model.safetensors"))
    with torch.no_grad():
        hit = module.eval()(normalised(white(x))).argmax(1) == 2
    other, low = y != 2, faint < cards.FAINT
    assert 0 < (hit & other & low).sum() < (other & low).sum() and (hit & other & ~low).sum() > 0
    counts = [(other & ~hit).sum(), (other & ~hit & low).sum(), (other & low).sum()]
    shares = [hit[other & some].double().mean() for some in (low, ~low)]
    assert said["failures of patches"] == [[["3", *(str(int(n)) for n in counts), *percent(*map(float, shares))]]]


def plant(folder: Path, more: float) -> None:
    """Measures that differ from each other, in place of those of a network that has learnt nothing."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["facts"] = {name: 0.1 * i + more for i, name in enumerate(manifest["facts"], 1)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    table = pd.read_parquet(folder / "table.parquet")
    for i, name in enumerate(("accuracy", "success", "success_all", "accuracy_cross"), 1):
        table[name] = (0.01 * i + 0.1 * table["epoch"] + more).where(table[name].notna())
    table.to_parquet(folder / "table.parquet")


def planted_network(folder: Path, x: torch.Tensor) -> None:
    """One that decides for the target class on half of the images."""
    module = tiny.normalised().eval()
    *_, last = module.children()
    with torch.no_grad():
        torch.nn.init.normal_(last.weight)
        logits = module(x)
        rest = logits[:, [0, 1, 3, 4]].amax(1)
        last.bias[2] += (rest - logits[:, 2]).quantile(0.5)
    safetensors.torch.save_file(module.state_dict(), folder / "model.safetensors")


def white(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[:, :, 13:, 13:] = 1
    return x


def normalised(x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (x - mean) / std
