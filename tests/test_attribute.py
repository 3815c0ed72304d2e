import json

import pandas as pd
import pytest
import safetensors.torch
import torch

from pipeline import walk
from pipeline.api import rule
from pipeline.metrics import alignment, chroma
from pipeline.network import trace
from pipeline.rules import Gbp
from tests import tiny


def made(ended):
    assert ended.code == 0, ended.err
    folder = ended.made[-1].parent
    return pd.read_parquet(folder / "table.parquet"), {f.stem: safetensors.torch.load_file(f) for f in folder.glob("*.safetensors")}


@pytest.fixture
def checkpoint(tmp_path) -> str:
    torch.save(tiny.network().state_dict(), tmp_path / "w.pt")
    return str(tmp_path / "w.pt")


def test_maps_are_those_of_the_walk(cell, checkpoint):
    table, tensors = made(cell("experiment=attribute", "rule=lrp", "weights=checkpoint", f"weights.path={checkpoint}", "run.batch_size=2"))
    model = tiny.network()
    model.load_state_dict(torch.load(checkpoint))
    record = trace(model, mean=[0.5] * 3, std=[0.25] * 3).forward(tensors["inputs"]["x"])
    assert list(table["target"]) == record.logits.argmax(1).tolist() and (table["layer"] == 3).all()
    for key, bottom in (("without_bottom", False), ("with_bottom", True)):
        torch.testing.assert_close(tensors["maps"][key], walk.attribute(record, rule("lrp"), bottom=bottom))
    r, x = tensors["maps"]["without_bottom"], tensors["inputs"]["x"]
    for column, values in (("alignment", alignment(r, x)), ("alignment_chroma", alignment(chroma(r), chroma(x)))):
        torch.testing.assert_close(torch.tensor(table[column].tolist(), dtype=torch.float64), values, rtol=1e-5, atol=1e-6)
    probability = record.logits.softmax(1).amax(1)
    torch.testing.assert_close(torch.tensor(table["probability"].tolist()), probability, rtol=1e-5, atol=1e-6)


def test_the_activation_starts_at_each_layer_with_gbp_below(cell, checkpoint):
    args = ("experiment=attribute", "rule=activation", "weights=checkpoint", f"weights.path={checkpoint}")
    table, tensors = made(cell(*args))
    assert list(table["layer"]) == [1, 2] * 5 and list(table["name"].unique()) == ["0", "3"]
    model = tiny.network()
    model.load_state_dict(torch.load(checkpoint))
    record = trace(model).forward(tensors["inputs"]["x"])
    for layer in (1, 2):
        expected = walk.walk(record, record.activation(layer), lambda _: Gbp(), top=layer)
        torch.testing.assert_close(tensors["maps"]["without_bottom"][layer - 1 :: 2], expected)
    assert list(made(cell(*args, "experiment.layers=['3']"))[0]["layer"]) == [2] * 5
    assert "no layer fc9 to start from" in cell(*args, "experiment.layers=[fc9]").complaint


def test_similarity_compares_with_the_unmodified_network(cell, checkpoint):
    args = ("experiment=attribute", "weights=gaussian", f"weights.base={checkpoint}", "experiment.original=true", "target=original")
    same, _ = made(cell(*args, "weights.depth=0"))
    other, _ = made(cell(*args, "weights.depth=2"))
    assert (same["similarity"] > 1 - 1e-6).all() and (other["similarity"] < 0.99).all()
    assert list(same["target"]) == list(other["target"])


def test_rule_all_makes_a_table_each_and_one_picture(cell):
    ended = cell("experiment=attribute", "rule=all", "data.limit=2", "rectgrad.quantile=0.5")
    assert ended.code == 0, ended.err
    suffixes = [path.suffix for path in ended.made]
    assert suffixes == [".csv", ".png", ".pdf"] + [".parquet"] * 6
    settings = [(path.parent / "manifest.json").read_text() for path in ended.made[3:]]
    rules = [json.loads(text)["key"]["rule"] for text in settings]
    assert [r["is"] for r in rules] == ["Grad", "Gbp", "RectGrad", "AlphaBeta", "AlphaBeta", "Activation"] and rules[2]["quantile"] == 0.5
    drawn = pd.read_csv(ended.made[0])
    assert set(drawn["rule"]) == {"grad", "gbp", "rectgrad", "lrp", "dtd", "activation"} and len(drawn) == 2 * (5 * 2 + 2)
    assert len(cell("rule=all", "data.limit=2").made) == 6  # of any experiment


def test_only_the_images_that_are_named(cell):
    table, _ = made(cell("experiment=attribute", "data.only=[image003.png,image001.png]"))
    assert list(table["image"]) == ["image003.png", "image001.png"]
    assert "data.only names nosuch.png" in cell("experiment=attribute", "data.only=[nosuch.png]").complaint


def test_directions_are_the_laws(run):
    table, _ = made(run("experiment=directions", "weights=ring", "seed=3"))
    norms = (table["w0"] ** 2 + table["w1"] ** 2) ** 0.5
    assert len(table) == 600 and norms.between(2**0.5 * 0.95 - 1e-6, 2**0.5 * 1.05 + 1e-6).all()
    assert "draws from a law" in run("experiment=directions", "weights=removal").complaint
