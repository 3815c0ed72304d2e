import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision import transforms

from pipeline.api import rule
from pipeline.engine import walk
from pipeline.engine.rules import RULES, Method
from pipeline.errors import UserError
from pipeline.experiments import EXPERIMENTS, cascade, directions, geometry, nulls, weight_stats
from pipeline.images.nullmaps import blur, edges, mean_colour, mosaic, noise
from pipeline.measures.maps import alignment
from pipeline.measures.weights import layer_stats
from tests import tiny


def slow_stats(w: np.ndarray) -> dict[str, float]:
    """Literal: every pair of neurons by itself."""
    norms = [float(np.sqrt((row**2).sum())) for row in w]
    kept = [(row, n) for row, n in zip(w, norms, strict=True) if n > 0]
    cosines = [float(a @ b / na / nb) for i, (a, na) in enumerate(kept) for b, nb in kept[i + 1 :]]
    alive = [n for n in norms if n > 0]
    return {
        "zero_norms": len(norms) - len(alive), "cosine_mean": np.mean(cosines), "cosine_std": np.std(cosines),
        "cosine_abs_mean": np.mean(np.abs(cosines)),
        "norm_mean": np.mean(alive), "norm_std": np.std(alive),
    }  # fmt: skip


@pytest.mark.parametrize("n", [2, 30, 1030])
def test_weight_statistics_equal_a_loop_over_pairs(n):
    w = torch.randn(n, 12, dtype=torch.float64) + 0.2
    w[1::7] = 0 if n > 2 else w[1::7]
    found = layer_stats(w)
    for key, value in slow_stats(w.numpy()).items() if n < 100 else []:
        assert np.isclose(found[key], value, atol=1e-12), key
    unit = F.normalize(w[w.norm(dim=1) > 0])
    gram = torch.linalg.eigvalsh(unit @ unit.T)
    assert np.isclose(found["participation"], float(gram.sum() ** 2 / gram.pow(2).sum()))
    above = (unit @ unit.T)[torch.triu_indices(len(unit), len(unit), 1).unbind()]
    assert np.isclose(found["cosine_std"], float(above.std(unbiased=False)), atol=1e-9) and np.isclose(
        found["cosine_abs_mean"], float(above.abs().mean())
    )


def test_weight_stats_table(cell):
    table = pd.read_parquet(cell("experiment=weight_stats", "seed=5").made[-1])
    assert list(table)[:10] == [
        "layer",
        "name",
        "unit",
        "neurons",
        "dim",
        "zero_norms",
        "cosine_mean",
        "cosine_std",
        "cosine_abs_mean",
        "norm_mean",
    ]
    assert (
        list(table["neurons"]) == [8, 8, 5] and list(table["dim"]) == [27, 72, 512] and list(table["unit"]) == [1, 2, 3]
    )
    assert np.allclose(table["norm_mean"], np.sqrt(2), rtol=0.15)  # He


def image(side: int = 32) -> torch.Tensor:
    return F.interpolate(torch.randn(1, 3, 8, 8, dtype=torch.float64), size=side, mode="bilinear")


def test_mosaic_and_mean_colour_are_projections():
    """Averages are projections: <Px, x> = |Px|^2, so the alignment is |Px| / |x|."""
    x = image()
    for r in (mosaic(x, 4), mean_colour(x)):
        assert torch.isclose(alignment(r, x), r.norm() / x.norm())
    blocks = mosaic(x, 4)[0, :, ::8, ::8]
    torch.testing.assert_close(blocks[:, 1, 2], x[0, :, 8:16, 16:24].mean((1, 2)))


def test_edges_are_the_sobel_magnitude():
    x = image(12)
    grey = np.pad(x[0].mean(0).numpy(), 1, mode="edge")
    expected = np.zeros((12, 12))
    for i in range(12):
        for j in range(12):
            p = grey[i : i + 3, j : j + 3]
            gx = p[0, 2] + 2 * p[1, 2] + p[2, 2] - p[0, 0] - 2 * p[1, 0] - p[2, 0]
            gy = p[2, 0] + 2 * p[2, 1] + p[2, 2] - p[0, 0] - 2 * p[0, 1] - p[0, 2]
            expected[i, j] = np.hypot(gx, gy)
    got = edges(x)
    np.testing.assert_allclose(got[0, 0], expected, atol=1e-12)
    assert torch.equal(got[0, 0], got[0, 2])


def test_blur_is_a_gaussian():
    x = torch.zeros(1, 1, 57, 57, dtype=torch.float64)
    x[0, 0, 28, 28] = 1
    t = np.arange(57) - 28
    g = np.exp(-(t**2) / (2 * (57 / 28) ** 2))
    np.testing.assert_allclose(blur(x, 28)[0, 0], np.outer(g, g) / g.sum() ** 2, atol=5e-6)


def test_noise_is_keyed_by_the_image():
    x = torch.zeros(1, 3, 16, 16)
    assert torch.equal(noise(x, "a.png"), noise(x, "a.png")) and not torch.equal(noise(x, "a.png"), noise(x, "b.png"))


def test_nulls_do_not_depend_on_the_batch(cell, tmp_path):
    tables = [
        pd.read_parquet(cell("experiment=nulls", f"run.batch_size={b}", output=tmp_path / str(b)).made[-1])
        for b in (1, 5)
    ]
    pd.testing.assert_frame_equal(*tables)
    assert list(tables[0]) == nulls.COLUMNS
    assert set(tables[0]["null"]) == {"mosaic", "mean_colour", "edges", "blur", "noise", "other"}


def test_naive_cosine_is_kept_beside_the_safe_one(cell):
    """Literal [-1, 1] weights: the safe cosine of float32 equals float64's, whatever the naive one does."""
    safe = pd.read_parquet(cell("weights=uniform", "weights.scale=none", "cascade.naive=true").made[-1])
    double = pd.read_parquet(cell("weights=uniform", "weights.scale=none", "dtype=float64").made[-1])
    assert list(safe) == [*cascade.COLUMNS, cascade.WITH_NAIVE, *cascade.WITH_BANDS, *cascade.CONVENTIONS]
    assert np.allclose(safe["alignment"], double["alignment"], atol=1e-5)
    bare = pd.read_parquet(cell("cascade.bands=false", "cascade.conventions=false", "data.limit=1").made[-1])
    assert list(bare) == cascade.COLUMNS


def test_numerator_norm_and_px(run, tmp_path):
    """Beside each alignment: its parts, by autograd; and what the first layer alone makes of x."""
    file = tmp_path / "net.safetensors"
    module = tiny.network()
    safetensors.torch.save_file(module.state_dict(), file)
    images = tiny.images(tmp_path / "images")
    own = [*tiny.OWN, "data=folder", f"data.root={images}", "weights=checkpoint", f"weights.path={file}"]
    table = pd.read_parquet(run(*own, "rule=gbp", "dtype=float64", "cascade.bands=false").made[-1])
    normed = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    x = torch.stack([normed(transforms.ToTensor()(Image.open(path))) for path in sorted(images.iterdir())])
    x, model = x.double().requires_grad_(), module.double()
    (r,) = torch.autograd.grad(model(x).amax(1).sum(), x)
    first = table[table.n == 0]
    numerator, size = (r * x).flatten(1).sum(1), r.flatten(1).norm(dim=1)
    np.testing.assert_allclose(first.log_numerator, numerator.abs().log().detach(), rtol=1e-5)
    np.testing.assert_allclose(first.log_norm, size.log(), rtol=1e-5)
    assert (np.sign(first.alignment) == np.sign(numerator.detach().numpy())).all()
    z = F.conv2d(x, model[0].weight, None, padding=1)
    (px,) = torch.autograd.grad(z.square().sum() / 2, x)
    expected = F.cosine_similarity(px.flatten(1), x.flatten(1)).detach()
    for _, at in table.groupby("n"):
        np.testing.assert_allclose(at.alignment_px, expected, rtol=1e-5)
    for convention in ("pixels", "minmax", "centred"):
        given = ["rule=gbp", "dtype=float64", "cascade.bands=false", f"cascade.convention={convention}"]
        changed = pd.read_parquet(run(*own, *given).made[-1])
        assert not np.allclose(changed.alignment, table.alignment, atol=1e-3)
        np.testing.assert_array_equal(changed.alignment, table[f"alignment_{convention}"])
        pd.testing.assert_frame_equal(
            changed.drop(columns=["alignment", "alignment_px"]), table.drop(columns=["alignment", "alignment_px"])
        )
    norms = np.tile(x.flatten(1).norm(dim=1).detach().numpy(), (4, 1)).T.ravel()
    np.testing.assert_allclose(
        table.log_numerator, np.log(table.alignment.abs()) + table.log_norm + np.log(norms), rtol=1e-6
    )


# ---- which rules an experiment takes ---------------------------------------------------------------------------------

NO_RULES = {"activation", "external"}
REFUSED = {
    "attribute": set(),
    "cascade": set(),
    "kis": {"activation"},
    "backdoor": {"activation"},
    "highlight": set(),
    "filter": set(),
    "likeness": set(),
    "occlusion": set(),
    "specific": set(),
    "nfr": {*NO_RULES, "lrp_alphabeta", "lrp_epsilon"},
    **dict.fromkeys(("extremes", "failure", "memory", "midalign", "noisy_start", "rank1"), NO_RULES),
    **dict.fromkeys(("theorem1", "theorem2"), NO_RULES),
    **dict.fromkeys(("directions", "nulls", "weight_stats", "train", "geometry", "verify"), frozenset()),  # take none
}


def method(name: str) -> Method:
    return rule(name, **({"call": "tests.tiny:mean_gradient"} if name == "external" else {}))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_refuses_the_rules_that_it_cannot_work_with(experiment):
    refused = set()
    for name in RULES:
        try:
            EXPERIMENTS[experiment].refuse(experiment, name, method(name))
        except UserError as error:
            refused.add(name)
            text = str(error)
            assert f"experiment={experiment}" in text and f"rule={name}" in text and "choose" in text
            assert "\n" not in text
    assert refused == REFUSED[experiment]


@pytest.mark.parametrize("args, named", [
    (["experiment=kis", "rule=activation"], "rule=activation"),
    (["experiment=failure", "rule=external", "rule.call=tests.tiny:mean_gradient"], "rule=external"),
    (["experiment=rank1", "rule=all"], "rule=activation"),
    (["experiment=nfr", "rule=lrp_epsilon"], "rule=lrp_epsilon"),
])  # fmt: skip
def test_it_refuses_them_before_any_work(run, tmp_path, args, named):
    """Before the model, which is none, is built, and the images, which are none, are looked for."""
    nothing = ["model=own", "model.call=tests.tiny:nothing", "data=folder", f"data.root={tmp_path / 'nowhere'}"]
    ended = run(*nothing, *args)
    assert ended.code == 1 and f"{args[0]} can't work with {named}" in ended.complaint
    assert "Traceback" not in ended.err and not list((tmp_path / "outputs").glob("results/*"))


def test_an_external_attribution_descends_for_nothing(cell, monkeypatch):
    monkeypatch.setattr(walk, "step", lambda *args: pytest.fail("no rule runs through the layers"))
    ended = cell("experiment=cascade", "rule=external", "rule.call=tests.tiny:mean_gradient", "data.limit=2")
    assert ended.code == 0, ended.err
    assert list(pd.read_parquet(ended.made[-1])["n"]) == [3, 3]


@pytest.mark.parametrize("module, args", [(geometry, ("geometry.draws=10",)), (directions, ()), (weight_stats, ())])
def test_tables_have_the_columns_that_their_experiment_declares(cell, module, args):
    name = module.__name__.rpartition(".")[2]
    table = pd.read_parquet(cell(f"experiment={name}", *args).made[-1])
    assert list(table) == module.COLUMNS and len(table)
