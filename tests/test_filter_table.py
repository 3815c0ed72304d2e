"""experiment=filter against a literal transcription."""

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch.nn import functional as F

from pipeline import explained_by_filter, trace
from pipeline.engine import walk
from pipeline.engine.filters import alike_in_spectrum, first_layer_filter, two_layer_filter
from pipeline.engine.rules import Gbp
from pipeline.errors import UserError
from pipeline.experiments import filter as filters
from pipeline.experiments.rank1 import other_classes
from pipeline.images.batches import Batch
from pipeline.measures.maps import alignment
from pipeline.measures.ridge import held_out, moments
from pipeline.seeds import name_seed
from pipeline.weights.draw import randomise
from pipeline.weights.laws import BatchNormReset, Gaussian, Part
from tests import tiny

MEAN, STD = (torch.tensor(v).double().view(-1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture
def given(tmp_path, run):
    """The command line on the tiny network and five images, and both by hand."""
    module, file = tiny.network().double(), tmp_path / "net.safetensors"
    safetensors.torch.save_file(module.float().state_dict(), file)
    module = module.double()
    folder = tiny.images(tmp_path / "images")
    names = sorted(path.name for path in folder.iterdir())
    pixels = [np.asarray(Image.open(folder / name)) / 255 for name in names]
    x = (torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2) - MEAN) / STD  # the program reads them in float32

    def call(*args: str, **more):
        at = [*tiny.OWN, "data=folder", f"data.root={folder}", "dtype=float64", "experiment=filter"]
        law = any(arg.startswith("weights=") for arg in args)
        weights = [f"weights.base={file}"] if law else ["weights=checkpoint", f"weights.path={file}"]
        return run(*at, *weights, *args, **more)

    return call, module, x, names


def test_the_table(given):
    call, module, x, names = given
    table = pd.read_parquet(call("rule=gbp", "filter.size=3").made[-1])
    assert list(table) == filters.COLUMNS and list(table.image) == names
    record = trace(module).forward(x)
    classes = record.logits.argmax(1)
    others = other_classes(Batch(x, tuple(names), -torch.ones(5).long()), record.logits, classes)
    runner_up, drawn = others.values()
    assert torch.equal(runner_up, record.logits.topk(2).indices[:, 1]) and (drawn != classes).all()
    r = [walk.attribute(record, Gbp(), of) for of in (classes, runner_up, drawn)]
    px = first_layer_filter(record)
    w, b = module[0].weight, module[0].bias
    act = F.conv2d(x, w, b, padding=1).relu()
    expected = {
        "alignment": x,
        "cos_px": px,
        "cos_px_other": px.roll(-1, 0),
        "cos_px_random": torch.cat(
            [first_layer_filter(record, x[i : i + 1], alike_in_spectrum(w, name_seed(n))) for i, n in enumerate(names)]
        ),
        "cos_linear2": two_layer_filter(record),
        "cos_act1": F.conv_transpose2d(act, w, padding=1),
    }
    for name, other in expected.items():
        np.testing.assert_allclose(table[name], alignment(r[0], other.detach()), rtol=1e-5, atol=1e-6, err_msg=name)
    scaled = x / px.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    fits = held_out([moments(a, torch.stack(maps), 3) for a, *maps in zip(scaled, *r, strict=True)], 1e-3)
    seen = [fit for fit, _ in fits]
    np.testing.assert_allclose(table.ridge_share, [fit.share[0] for fit in seen], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.cos_ridge, [fit.cosine[0] for fit in seen], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.residual_alignment, [fit.alignment[0] for fit in seen], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.residual_runner_up, [fit.residuals[0, 1] for fit in seen], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.residual_random_class, [fit.residuals[0, 2] for fit in seen], rtol=1e-4, atol=1e-5)


def test_all_rules_together_are_each_alone(given, tmp_path):
    """They share one fit; some know no class."""
    call, *_ = given
    some = ["rule=grad,gbp,activation,external", "external.call=tests.tiny:mean_gradient"]
    made = call("-m", *some, "filter.size=3").made
    tables = {path: pd.read_parquet(path) for path in made if path.suffix == ".parquet"}
    assert len(tables) == 4
    grad, gbp, activation, external = tables.values()
    alone = pd.read_parquet(call("rule=gbp", "filter.size=3", output=tmp_path / "alone").made[-1])
    pd.testing.assert_frame_equal(gbp, alone, rtol=1e-9, atol=1e-12)
    pd.testing.assert_frame_equal(grad, external, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(activation.residual_runner_up, 1)
    assert (grad.residual_runner_up < 0.99).all()


def test_the_function_says_the_same(given):
    call, module, x, _ = given
    expected = pd.read_parquet(call("rule=lrp", "filter.size=3", "target=2").made[-1])
    found = explained_by_filter(trace(module), x, "lrp", target=torch.full((5,), 2), size=3)
    assert list(found) == filters.COLUMNS and list(found.image) == list("01234")
    drawn = ["image", "cos_px_random", "residual_random_class"]  # by the images' names
    np.testing.assert_allclose(found.drop(columns=drawn), expected.drop(columns=drawn), rtol=1e-4, atol=1e-5)
    assert explained_by_filter(trace(module), x, size=3, classes=False).iloc[:, -2:].isna().all(axis=None)
    with pytest.raises(UserError, match="no setting 'sise'"):
        explained_by_filter(trace(module), x, sise=3)


def test_a_tight_first_layer_is_the_image_itself():
    """W_1 W_1^T = I: P x = x, to both of which every map is as close."""
    first = torch.nn.Conv2d(3, 27, 3, stride=3).double()
    first.weight.data = torch.linalg.qr(torch.randn(27, 27).double())[0].view(27, 3, 3, 3)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(27 * 16, 5).double())
    found = explained_by_filter(trace(model), torch.randn(4, 3, 12, 12).double(), size=3)
    np.testing.assert_allclose(found.alignment, found.cos_px, rtol=1e-12)
    np.testing.assert_allclose(found.cos_px_random, found.cos_px, rtol=1e-12)


def test_against_the_network_before_its_weights_were_changed(given, run):
    """The class is the unmodified network's; with all but the first layer drawn anew, P is the same one."""
    call, module, x, _ = given
    law = ["weights=gaussian", "target=original", "filter.original=true", "filter.size=3", "rule=gbp"]

    def table(*more: str) -> pd.DataFrame:
        return pd.read_parquet(call(*law, *more).made[-1])

    record = trace(module).forward(x)
    before = walk.attribute(record, Gbp())
    upper, first = table("weights.depth=2"), table("weights.depth=1", "weights.part=bottom")
    assert list(upper) == [*filters.COLUMNS, *filters.WITH_ORIGINAL]
    np.testing.assert_allclose(upper.cos_px, upper.cos_px_original, rtol=1e-9)
    assert upper.target.tolist() == first.target.tolist() == record.logits.argmax(1).tolist()
    cell = Gaussian(base=None, depth=1, part=Part.bottom, batchnorm=BatchNormReset.identity)
    changed = trace(module)
    randomise(changed, cell, 100, [1])
    now = changed.forward(x)
    r, px = walk.attribute(now, Gbp(), record.logits.argmax(1)), first_layer_filter(record)
    np.testing.assert_allclose(first.similarity, alignment(r, before), rtol=1e-6)
    np.testing.assert_allclose(first.cos_px_original, alignment(r, px), rtol=1e-6)
    np.testing.assert_allclose(first.cos_px, alignment(r, first_layer_filter(now)), rtol=1e-5)
    scaled = x / first_layer_filter(now).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    fits = held_out([moments(a, torch.stack(maps), 3) for a, *maps in zip(scaled, r, before, strict=True)], 1e-3)
    np.testing.assert_allclose(first.residual_original, [fit.residuals[0, 1] for fit, _ in fits], rtol=1e-4)


def test_maps_that_are_shown(given):
    call, _, x, _ = given
    made = call("rule=gbp", "filter.size=3", "filter.shown=2").made[-1]
    maps, table = safetensors.torch.load_file(made.parent / "shown.safetensors"), pd.read_parquet(made)
    assert {key: tuple(value.shape) for key, value in maps.items()} == dict.fromkeys(
        ("x", "r", "px", "ridge", "residual"), (2, 3, 16, 16)
    )
    torch.testing.assert_close(maps["r"], maps["ridge"] + maps["residual"])
    for row, i in enumerate((0, 1)):
        assert alignment(maps["x"][row : row + 1], x[i : i + 1]) > 1 - 1e-9
        assert abs(alignment(maps["r"], maps["px"])[row] - table.cos_px[i]) < 1e-12
        assert abs(alignment(maps["r"], maps["ridge"])[row] - table.cos_ridge[i]) < 1e-12
        assert abs(alignment(maps["residual"], maps["x"])[row] - table.residual_alignment[i]) < 1e-9
        assert abs(1 - maps["residual"][row].square().sum() - table.ridge_share[i]) < 1e-9


def test_one_image_alone_has_no_other(given):
    call, *_ = given
    table = pd.read_parquet(call("rule=gbp", "data.limit=1").made[-1])
    missing = [*filters.COLUMNS[8:], "cos_px_other"]
    assert table[missing].isna().all(axis=None) and table.drop(columns=missing).notna().all(axis=None)


@pytest.mark.parametrize("setting, complaint", [("size=4", "odd number of pixels"), ("penalty=-1", "negative")])
def test_settings_out_of_range(given, setting, complaint):
    ended = given[0]("rule=gbp", f"filter.{setting}")
    assert ended.code == 1 and complaint in ended.complaint
