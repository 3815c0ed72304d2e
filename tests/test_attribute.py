import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from pipeline.api import rule
from pipeline.engine import walk
from pipeline.engine.network import trace
from pipeline.engine.rules import Gbp
from pipeline.errors import UserError
from pipeline.experiments import attribute
from pipeline.figures import attribute as picture
from pipeline.figures import style, table1
from pipeline.measures.maps import alignment, chroma, registered_alignment
from pipeline.run import drawn as drawn_tables
from tests import tiny
from tests.pages import check_texts


def made(ended):
    assert ended.code == 0, ended.err
    folder = ended.made[-1].parent
    return pd.read_parquet(folder / "table.parquet"), {
        f.stem: safetensors.torch.load_file(f) for f in folder.glob("*.safetensors")
    }


def test_maps_are_those_of_the_walk(cell, checkpoint):
    table, tensors = made(
        cell("experiment=attribute", "rule=lrp", "weights=checkpoint", f"weights.path={checkpoint}", "run.batch_size=2")
    )
    model = tiny.network()
    model.load_state_dict(torch.load(checkpoint))
    record = trace(model, mean=[0.5] * 3, std=[0.25] * 3).forward(tensors["inputs"]["x"])
    assert list(table["target"]) == record.logits.argmax(1).tolist() and (table["layer"] == 3).all()
    for key, bottom in (("without_bottom", False), ("with_bottom", True)):
        torch.testing.assert_close(tensors["maps"][key], walk.attribute(record, rule("lrp"), bottom=bottom))
    r, x = tensors["maps"]["without_bottom"], tensors["inputs"]["x"]
    for column, values in (("alignment", alignment(r, x)), ("alignment_chroma", alignment(chroma(r), chroma(x)))):
        torch.testing.assert_close(
            torch.tensor(table[column].tolist(), dtype=torch.float64), values, rtol=1e-5, atol=1e-6
        )
    product = (r * x).flatten(1).double().sum(1).abs().log()
    np.testing.assert_allclose(table["log_numerator"], product, rtol=1e-4)
    np.testing.assert_allclose(table["log_norm"], r.flatten(1).double().norm(dim=1).log(), rtol=1e-5)
    probability = record.logits.softmax(1).amax(1)
    torch.testing.assert_close(torch.tensor(table["probability"].tolist()), probability, rtol=1e-5, atol=1e-6)


def test_the_activation_starts_at_each_layer_with_gbp_below(cell, checkpoint):
    args = ("experiment=attribute", "rule=activation", "weights=checkpoint", f"weights.path={checkpoint}")
    table, tensors = made(cell(*args))
    assert list(table) == attribute.COLUMNS  # no bottom, no comparison
    assert list(table["layer"]) == [1, 2] * 5 and list(table["name"].unique()) == ["0", "3"]
    model = tiny.network()
    model.load_state_dict(torch.load(checkpoint))
    record = trace(model).forward(tensors["inputs"]["x"])
    for layer in (1, 2):
        expected = walk.walk(record, record.activation(layer), lambda _: Gbp(), top=layer)
        torch.testing.assert_close(tensors["maps"]["without_bottom"][layer - 1 :: 2], expected)
    assert list(made(cell(*args, "experiment.layers=['3']"))[0]["layer"]) == [2] * 5
    assert "no layer fc9 below its output" in cell(*args, "experiment.layers=[fc9]").complaint


def test_similarity_compares_with_the_unmodified_network(cell, checkpoint):
    args = (
        "experiment=attribute",
        "weights=gaussian",
        f"weights.base={checkpoint}",
        "experiment.original=true",
        "target=original",
    )
    same, _ = made(cell(*args, "weights.depth=0"))
    assert list(same) == [*attribute.COLUMNS, attribute.WITH_BOTTOM, attribute.WITH_ORIGINAL]
    other, _ = made(cell(*args, "weights.depth=2"))
    assert (same["similarity"] > 1 - 1e-6).all() and (other["similarity"] < 0.99).all()
    assert list(same["target"]) == list(other["target"])


def test_the_registered_alignment_reaches_as_far_as_the_stride(cell):
    """16 px, and one pool by 2 below the last map."""
    args = ("experiment=attribute", "attribute.bottom=false", "dtype=float64", "rule=grad")
    table, tensors = made(cell(*args, "attribute.registered=true"))
    assert list(table) == [*attribute.COLUMNS, attribute.WITH_REGISTERED]
    r, x = tensors["maps"]["without_bottom"], tensors["inputs"]["x"]
    expected = registered_alignment(r, x, 2)
    np.testing.assert_allclose(table[attribute.WITH_REGISTERED], expected, rtol=1e-10)
    assert (expected > alignment(r, x)).any() and (expected < registered_alignment(r, x, 3)).any()


def test_rule_all_makes_a_table_each_and_one_picture(cell):
    ended = cell("experiment=attribute", "rule=all", "data.limit=2", "rectgrad.quantile=0.5")
    assert ended.code == 0, ended.err
    suffixes = [path.suffix for path in ended.made]
    assert suffixes == [".csv", ".png", ".pdf"] + [".parquet"] * 6
    settings = [(path.parent / "manifest.json").read_text() for path in ended.made[3:]]
    rules = [json.loads(text)["key"]["rule"] for text in settings]
    assert [r["is"] for r in rules] == ["Grad", "Gbp", "RectGrad", "AlphaBeta", "AlphaBeta", "Activation"] and rules[2][
        "quantile"
    ] == 0.5
    drawn = pd.read_csv(ended.made[0])
    assert set(drawn["rule"]) == {"grad", "gbp", "rectgrad", "lrp", "dtd", "activation"} and len(drawn) == 2 * (
        5 * 2 + 2
    )
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


def test_more_images_than_are_drawn(cell, tmp_path):
    """The picture shows the first images, and each of its tiles the map of its own row."""
    folder = tiny.images(tmp_path / "many", 10)
    ended = cell("experiment=attribute", "rule=all", "rule.names=[gbp,lrp]", f"data.root={folder}")
    drawn = pd.read_csv(ended.made[0])
    tables = [
        pd.read_parquet(path).assign(rule=rule) for path, rule in zip(ended.made[3:], ("gbp", "lrp"), strict=True)
    ]
    together = pd.concat(tables, ignore_index=True)
    assert drawn["image"].nunique() == 8 and set(drawn["key"]) == {"without_bottom", "with_bottom"}
    for _, row in drawn.iterrows():  # the maps of a sweep stand in the order of its tables' rows
        stands = together.iloc[row["index"]]
        assert (stands["image"], stands["rule"]) == (row["image"], row["rule"])


@pytest.mark.parametrize(("weights", "told"), [("gaussian", True), ("trained", False), ("checkpoint", False)])
def test_the_caption_names_a_seed_where_one_draws_the_weights(weights, told):
    table = pd.DataFrame({"model": ["net"], "weights": weights, "seed": 3, "explained": "decision"})
    assert ("seed 3" in picture.caption({"attribute": table}, "")) == told


@pytest.fixture
def swept(cell, monkeypatch):
    """rules -> tables and maps of table1's two sweeps, as the runner hands them over."""
    monkeypatch.setattr(
        drawn_tables, "draw_figure", lambda *args, **more: Path("picture.pdf")
    )  # which takes a second each
    return lambda rules: two_sweeps(cell, rules)


def two_sweeps(cell, rules) -> tuple[dict[str, pd.DataFrame], dict[str, list]]:
    tables, maps = {}, {}
    for sweep, weights in (("random", "gaussian"), ("trained", "pretrained")):
        parts, maps[sweep] = [], []
        for name in rules:
            call = ["rule.call=tests.tiny:mean_gradient"] if name == "external" else []
            table, tensors = made(
                cell("experiment=attribute", f"weights={weights}", f"rule={name}", "data.limit=3", *call)
            )
            facts = {"model": "own", "weights": weights, "seed": 3, "rule": name, "data": "folder"}
            parts.append(table.assign(**facts, explained="decision"))
            maps[sweep].append((facts, tensors))
        tables[sweep] = pd.concat(parts, ignore_index=True)
    return tables, maps


@pytest.mark.parametrize("rules", [["external"], ["activation"], ["deconvnet", "activation", "lrp", "external"]])
def test_table1_of_any_rules(swept, rules):
    tables, maps = swept(rules)
    numbers = table1.numbers(tables)
    assert set(numbers["rule"]) == set(rules) and numbers["image"].nunique() == table1.SHOWN
    for _, row in numbers.iterrows():  # the maps of a sweep stand in the order of its tables' rows
        if row["key"] == "without_bottom":
            stands = tables[row["sweep"]].iloc[row["index"]]
            assert (stands["image"], stands["rule"], stands["name"]) == (row["image"], row["rule"], row["name"])
    assert numbers["line"].str.startswith("strip").any() == ("activation" in rules)
    text = table1.caption(tables, "demo")
    assert (
        "gaussian weights, seed 3" in text and "(pretrained)" in text and ("strips" in text) == ("activation" in rules)
    )
    figure = table1.draw(numbers, text, maps)
    said = [t.get_text() for t in figure.texts]
    assert all(style.rule_look(name).label in said for name in rules)
    check_texts(figure)
    style.close(figure)


def test_table1_of_different_images_is_refused(swept):
    tables, _ = swept(["gbp"])
    tables["random"] = tables["random"].assign(image="another")
    with pytest.raises(UserError, match="share no image"):
        table1.numbers(tables)


def test_pictures_of_other_rules_stay(cell):
    names = {cell("experiment=attribute", f"rule={name}", "data.limit=1").made[2] for name in ("gbp", "lrp")}
    assert len(names) == 2 and all(path.is_file() for path in names)
    assert [p.suffix for p in cell("experiment=attribute", "experiment.maps=false", "data.limit=1").made] == [
        ".parquet"
    ]


def test_the_maps_file_names_its_rows(cell):
    folder = cell("experiment=attribute", "rule=activation").made[-1].parent
    with safetensors.safe_open(folder / "maps.safetensors", "pt") as file:
        rows = json.loads(file.metadata()["rows"])
    assert rows["image"] == list(pd.read_parquet(folder / "table.parquet")["image"]) and rows["name"] == ["0", "3"] * 5


def test_a_network_without_a_final_linear_layer(cell):
    own = ("model.call=tests.tiny:ends_in_a_pool",)
    table = pd.read_parquet(cell(*own, "rule=lrp").made[-1])
    assert set(table["n"]) == {0, 1, 2} and table["alignment"].notna().any()
    maps = [
        made(cell("experiment=attribute", *own, "rule=excitation_bp", f"rule.contrastive={c}"))[1]["maps"][
            "without_bottom"
        ]
        for c in ("true", "false")
    ]
    assert not torch.allclose(*maps)


def test_the_users_own_weights(cell, tmp_path, monkeypatch):
    """weights=pretrained of a network of one's own are those it comes with; when its code changes, its tables do."""
    code = "import torch\nfrom tests import tiny\ndef net():\n    torch.manual_seed({})\n    return tiny.network()\n"
    (tmp_path / "mine_to_change.py").write_text(code.format(1))
    monkeypatch.syspath_prepend(tmp_path)
    args = ("experiment=attribute", "weights=pretrained", "model.call=mine_to_change:net")
    table, tensors = made(cell(*args))
    torch.manual_seed(1)
    record = trace(tiny.network()).forward(tensors["inputs"]["x"])
    assert list(table["decision"]) == record.logits.argmax(1).tolist()
    assert "changed" not in cell(*args).err
    (tmp_path / "mine_to_change.py").write_text(code.format(2))
    assert "the code of own changed since" in cell(*args).err
