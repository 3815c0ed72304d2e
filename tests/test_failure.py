import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from matplotlib.text import Text
from torch import nn

from pipeline.api import rule
from pipeline.engine.network import trace
from pipeline.engine.rules import Activation, Gbp
from pipeline.engine.walk import attribute
from pipeline.errors import UserError
from pipeline.experiments import EXPERIMENTS, failure
from pipeline.experiments.targets import Target
from pipeline.figures import fig7, maps, save, style
from pipeline.files import sealed
from pipeline.images.batches import Batch
from pipeline.measures.maps import alignment
from pipeline.networks.catalogue import Own
from pipeline.run import drawn as drawn_tables
from tests import tiny
from tests.models import GuidedRelu

OPTIONS = failure.Options(errors=True, most=None, cases=[], layers=None)
DECISION = Target("decision", lambda: pytest.fail("not asked for"))
MODEL = Own("tests.tiny:network", 16, 16, [0.5] * 3, [0.25] * 3, [])


@pytest.fixture
def module() -> nn.Module:
    return tiny.network().double()


def batches(module: nn.Module, count: int = 12, size: int = 4) -> list[Batch]:
    """Labels: the decision, but for images 2, 3, 7 and 10, which have the class after it."""
    x = (
        torch.randn(count, 3, 16, 16, dtype=torch.float64)
        * torch.linspace(0.5, 4, count).view(-1, 1, 1, 1)[torch.randperm(count)]
    )
    labels = module(x).argmax(1)
    labels[[2, 3, 7, 10]] = (labels[[2, 3, 7, 10]] + 1) % 5
    return [
        Batch(x[i : i + size], tuple(f"i{j}" for j in range(i, i + size)), labels[i : i + size])
        for i in range(0, count, size)
    ]


class Guided(nn.Module):
    def forward(self, z):
        return GuidedRelu.apply(z)


def guided_values(module: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    """x, A_1, A_2 and the logits of the tiny network, whose backward pass is GBP."""
    values = [x]
    for part in module:
        values.append(Guided()(values[-1]) if isinstance(part, nn.ReLU) else part(values[-1]))
    return [values[0], values[2], values[5], values[7]]


def test_maps_are_what_autograd_says(module):
    """Each map again, by autograd with a guided ReLU: A_l, and A_l on the units with r_l > 0, seeded at layer l; e_k at
    the output."""
    images = batches(module)
    (result,) = failure.run(trace(module), images, [Gbp()], DECISION, MODEL, OPTIONS)
    found, table = result.tensors["maps"]["map"], result.table
    assert list(table["image"].unique()) == ["i2", "i3", "i7", "i10"] and len(table) == len(found) == 4 * (
        1 + 2 + 2 * 3
    )
    inputs = {name: batch.x[i : i + 1] for batch in images for i, name in enumerate(batch.names)}
    for (_, row), r in zip(table.iterrows(), found, strict=True):
        x = inputs[row["image"]].clone().requires_grad_()
        values = guided_values(module, x)  # type: ignore[arg-type]
        a = values[row["layer"]]
        if row["start"] == "image":
            expected = x
        elif row["start"] == "rule":
            (expected,) = torch.autograd.grad(a[0, row["target"]], x)
        else:
            seed = a.detach()
            if row["start"] == "credited":
                (r_l,) = torch.autograd.grad(values[3][0, row["target"]], a, retain_graph=True)
                assert 0 < (r_l > 0).double().mean() < 1
                seed = torch.where(r_l > 0, seed, 0)
            (expected,) = torch.autograd.grad((a * seed).sum(), x)
        torch.testing.assert_close(r[None], expected.detach())
        assert np.isclose(row["alignment"], float(alignment(expected.detach(), x.detach())))
        grey = lambda t: t.detach() - t.detach().mean(1, keepdim=True)  # noqa: E731
        assert np.isclose(
            row["colour"], float(nn.functional.cosine_similarity(grey(expected).flatten(1), grey(x).flatten(1)))
        )
        if row["side"] == "rival":
            twin = found[
                table.index[
                    (table[["image", "start", "layer"]] == row[["image", "start", "layer"]]).all(axis=1)
                    & (table["side"] == "target")
                ][0]
            ]
            assert np.isclose(
                row["similarity"], float(nn.functional.cosine_similarity(r.flatten(), twin.flatten(), dim=0))
            )


def test_probabilities_are_softmax_and_the_rival_is_the_label(module):
    images = batches(module)
    table = failure.run(trace(module), images, [Gbp()], DECISION, MODEL, OPTIONS)[0].table.set_index("image")
    x, names = torch.cat([b.x for b in images]), [n for b in images for n in b.names]
    p = np.exp(module(x).detach().numpy())
    p /= p.sum(1, keepdims=True)
    for image, row in table.iterrows():
        own = p[names.index(image)]
        assert row["decision"] == own.argmax() and row["rival"] == row["label"] == (own.argmax() + 1) % 5
        assert np.isclose(row["probability_decision"], own.max()) and np.isclose(
            row["probability_rival"], own[row["rival"]]
        )
        assert np.isnan(row["probability"]) if row["target"] < 0 else np.isclose(row["probability"], own[row["target"]])
    assert set(table.loc[table["side"] == "rival", "target"]) == set(table["rival"])


@pytest.mark.parametrize("size", [1, 4, 12])
@pytest.mark.parametrize("most", [1, 3, None])
def test_the_most_confident_errors_are_chosen(module, most, size):
    images = batches(module, size=size)
    p = {n: v for b in images for n, v in zip(b.names, module(b.x).detach().softmax(1).amax(1).tolist(), strict=True)}
    wrong = ["i2", "i3", "i7", "i10"]
    expected = sorted(wrong, key=lambda n: -p[n])[:most]
    found = [case.image for case in failure.chosen(trace(module), images, DECISION, replace(OPTIONS, most=most))]
    assert found == [n for n in wrong if n in expected]
    every = failure.chosen(trace(module), images, DECISION, replace(OPTIONS, errors=False))
    assert len(every) == 12 and all(case.rival != case.target for case in every)


def test_cases_and_images_without_a_label(module):
    images, network = batches(module), trace(module)
    (first, *_) = failure.chosen(network, images, DECISION, OPTIONS)
    found = failure.chosen(network, images, DECISION, replace(OPTIONS, cases=[[first.label, first.decision]]))
    assert first.image in [c.image for c in found] and {(c.label, c.decision) for c in found} == {
        (first.label, first.decision)
    }
    unknown = [Batch(b.x, b.names, torch.full_like(b.labels, -1)) for b in images]
    cases = failure.chosen(network, unknown, DECISION, OPTIONS)
    assert len(cases) == 12 and all(c.rival == int(c.probabilities.argsort(descending=True)[1]) for c in cases)


def test_what_is_out_of_range_is_refused(module):
    images, network = batches(module), trace(module)
    with pytest.raises(UserError, match="class 7, but the model has the classes 0 to 4"):
        failure.run(network, images, [Gbp()], Target("7", lambda: network), MODEL, OPTIONS)
    far = [Batch(images[0].x, images[0].names, images[0].labels + 900)]
    with pytest.raises(UserError, match=r"i0 has the label 90\d, but the model has the classes 0 to 4"):
        failure.run(network, far, [Gbp()], DECISION, MODEL, OPTIONS)
    with pytest.raises(UserError, match=r"no layer conv9 below its output; .* 0, 3"):
        failure.run(network, images, [Gbp()], DECISION, MODEL, replace(OPTIONS, layers=["conv9"]))
    with pytest.raises(UserError, match="experiment=failure can't work with rule=activation"):
        EXPERIMENTS["failure"].refuse("failure", "activation", Activation())
    for wrong in ({"most": 0}, {"cases": [[633]]}):
        with pytest.raises(ValueError, match="must be"):
            replace(OPTIONS, **wrong)


def test_a_class_index_takes_the_decisions_place(module):
    images, network = batches(module), trace(module)
    cases = failure.chosen(network, images, Target("4", lambda: network), OPTIONS)
    assert {c.target for c in cases} == {4} and all(c.rival == (c.label if c.label != 4 else c.decision) for c in cases)


def test_lrp_credits_classes_of_negative_logits_too(module):
    """Started from R = 1, whatever the logit's sign: z+ gives no unit negative relevance, and the last map is
    walk.attribute's."""
    with torch.no_grad():
        module[-1].bias.sub_(20)
    network, images, lrp = trace(module), batches(module), rule("lrp")
    (result,) = failure.run(network, images, [lrp], DECISION, MODEL, OPTIONS)
    assert len(result.table) and result.table["alignment"].notna().all()
    x = torch.cat([b.x for b in images])[[2, 3, 7, 10]]
    record = network.forward(x)
    ends = result.table[(result.table["start"] == "rule") & (result.table["side"] == "rival")]
    torch.testing.assert_close(
        result.tensors["maps"]["map"][ends.index.to_numpy().copy()],
        attribute(record, lrp, torch.tensor(ends["target"].tolist())),
    )


def test_names_of_classes():
    assert [failure.class_name(k, ["tub", "loupe"]) for k in (-1, 0, 1, 2)] == [
        "",
        "tub",
        "loupe",
        "2",
    ] and failure.class_name(3, None) == "3"


# ---- through the store -----------------------------------------------------------------------------------------------

ALL = ["experiment=failure", "failure.errors=false", "failure.most=null", "failure.layers=['0']"]


@pytest.fixture
def plain(monkeypatch):
    """Without the picture, which takes a second."""
    monkeypatch.setattr(drawn_tables, "draw_figure", lambda *args, **kwargs: Path("picture.pdf"))


def read(path: Path) -> tuple[pd.DataFrame, torch.Tensor]:
    return pd.read_parquet(path), safetensors.torch.load_file(path.parent / "maps.safetensors")[
        "map"
    ].clone()  # the file is mapped into memory


def rows_fit(table: pd.DataFrame, found: torch.Tensor) -> None:
    x = found[torch.tensor(table["start"] == "image")].repeat_interleave(
        int((table["image"] == table["image"][0]).sum()), 0
    )
    assert len(found) == len(table) and np.allclose(alignment(found, x), table["alignment"], equal_nan=True)


def test_maps_of_parts_are_joined_in_the_order_of_the_rows(cell, tmp_path, plain):
    """70 images are two parts; then only images of the second are wrong, then none."""
    folder = tiny.images(tmp_path / "many", count=70)
    made = cell(*ALL, f"data.root={folder}").made[-1]
    table, found = read(made)
    assert table["image"].nunique() == 70
    rows_fit(table, found)
    decisions = table.drop_duplicates("image").set_index("image")["decision"]
    for wrong in (["image065.png", "image069.png"], []):
        lines = [f"{name},{(k + (name in wrong)) % 5}" for name, k in decisions.items()]
        (folder / "labels.csv").write_text("\n".join(["file,class_index", *lines]))
        ended = cell("experiment=failure", f"data.root={folder}", output=tmp_path / f"{len(wrong)} wrong")
        assert ended.code == 0, ended.err
        chosen = pd.read_parquet(ended.made[-1])
        assert list(chosen["image"].unique()) == wrong and list(chosen) == failure.COLUMNS
        if wrong:
            rows_fit(*read(ended.made[-1]))


def test_a_part_without_its_manifest_is_computed_again(cell, tmp_path, plain, monkeypatch):
    """Killed between the files of the second part and its manifest."""
    folder = tiny.images(tmp_path / "many", count=70)
    calls = []

    def dies(facts):
        calls.append(facts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sealed(facts)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.run.store.sealed", dies)
        assert cell(*ALL, f"data.root={folder}").code == 130
    names = {p.name for p in (tmp_path / "outputs").glob("results/failure/.work/*/part-*")}
    files = {f"part-0000{n}.{end}" for n in (0, 1) for end in ("parquet", "maps.safetensors")}
    assert names == {*files, "part-00000.json"}
    for half in (tmp_path / "outputs").glob("results/failure/.work/*/part-00001.*"):
        half.write_bytes(b"of another time")
    (table, found), (whole, expected) = (
        read(cell(*ALL, f"data.root={folder}", output=out).made[-1])
        for out in (tmp_path / "outputs", tmp_path / "whole")
    )
    pd.testing.assert_frame_equal(table, whole)
    assert torch.equal(found, expected)
    assert not list((tmp_path / "outputs").glob("results/failure/.work/*"))


def test_damaged_maps_count_as_not_there(cell, plain):
    made = cell(*ALL).made[-1]
    table, found = read(made)
    file = made.parent / "maps.safetensors"
    assert set(json.loads((made.parent / "manifest.json").read_text())["tensors"]) == {"maps.safetensors"}
    file.write_bytes(file.read_bytes()[:-20])
    again, mended = read(cell(*ALL).made[-1])
    pd.testing.assert_frame_equal(again, table)
    assert torch.equal(mended, found)


# ---- the figure ------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(module):
    """Tables and maps as the runner hands them over, with long names."""
    images = batches(module)
    (result,) = failure.run(trace(module), images, [Gbp()], DECISION, MODEL, OPTIONS)
    facts = {"model": "net", "weights": "gaussian", "seed": 3, "rule": "gbp", "data": "images"}
    table = result.table.replace({"3": "American Staffordshire terrier", "2": "loupe"}).assign(**facts)
    return {"fig7": table}, {"fig7": [(facts, result.tensors)]}


def test_the_figure_draws_the_most_confident_case_of_each_kind(drawn):
    tables, _ = drawn
    numbers = fig7.numbers(tables)
    best = tables["fig7"].sort_values("probability_decision", ascending=False)
    assert numbers["image"].iloc[0] == best["image"].iloc[0] and numbers["image"].nunique() <= fig7.CASES
    assert not numbers.drop_duplicates("image").duplicated(["label", "decision"]).any()
    pd.testing.assert_frame_equal(
        numbers[["image", "alignment"]],
        tables["fig7"].loc[numbers["index"], ["image", "alignment"]].reset_index(drop=True),
    )
    with pytest.raises(UserError, match="set failure"):
        fig7.numbers({"fig7": tables["fig7"].iloc[:0]})


@pytest.mark.parametrize(("weights", "told"), [("gaussian", True), ("trained", False), ("pretrained", False)])
def test_the_caption_names_a_seed_where_one_draws_the_weights(drawn, weights, told):
    tables = {"fig7": drawn[0]["fig7"].assign(weights=weights)}
    assert ("seed 3" in fig7.caption(tables, "demo")) == told


def test_files_and_texts_of_the_figure(drawn, tmp_path):
    tables, tensors = drawn
    pdf = save(fig7, "fig7", tables, "demo", tmp_path, tensors)
    assert (
        sorted(p.name for p in tmp_path.iterdir()) == ["fig7.csv", "fig7.pdf", "fig7.png", "fig7.svg"]
        and len(pdf.read_bytes()) < 2 * 2**20
    )
    figure = fig7.draw(fig7.numbers(tables), fig7.caption(tables, "demo"), tensors)
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    boxes = [(t.get_text(), t.get_window_extent()) for t in figure.findobj(Text) if t.get_text().strip()]
    for i, (text, box) in enumerate(boxes):
        assert box.x0 > -1 and box.x1 < width + 1 and box.y0 > -1 and box.y1 < height + 1, text
        for other, q in boxes[:i]:
            assert min(box.x1, q.x1) - max(box.x0, q.x0) < 1 or min(box.y1, q.y1) - max(box.y0, q.y0) < 1, (text, other)
    style.close(figure)


def test_pictures_of_maps():
    r = torch.linspace(-3, 5, 3 * 20 * 20).view(3, 20, 20)
    picture = maps.image_like(r)
    assert (
        picture.shape == (20, 20, 3)
        and picture.min() == 0
        and picture.max() == 1
        and np.isclose(np.median(picture), 0.5, atol=0.01)
    )
    outlier = r.clone()
    outlier[0, 0, 0] = 1e6
    assert np.abs(maps.image_like(outlier) - picture)[1:].max() < 0.01
    assert np.allclose(maps.image_like(-2 * r), 1 - picture) and (maps.image_like(torch.zeros(1, 4, 4)) == 0.5).all()
    assert np.allclose(maps.image_like(r.double() * 1e200), picture)
    values = maps.signed(r)
    assert (
        np.allclose(values, r.double().sum(0))
        and 0.97 * np.abs(values).max() < maps.limit([values, -values]) <= np.abs(values).max()
    )
    assert maps.limit([np.zeros((2, 2))]) == 1
