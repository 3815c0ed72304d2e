"""Likeness of maps against SciPy and scikit-image, and what is compared with what."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from pipeline.experiments import likeness as experiment
from pipeline.measures.likeness import likeness


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 1, 17, 24)])
def test_the_measures_are_the_libraries(shape):
    a = torch.randn(shape, dtype=torch.float64)
    b = a + 0.5 * torch.randn(shape, dtype=torch.float64)
    b[0] = b[0].round()  # ties
    found = likeness(a, b)
    for i in range(len(a)):
        u, v = (t[i].abs().numpy() for t in (a, b))
        assert np.isclose(found["spearman"][i], spearmanr(u.ravel(), v.ravel()).statistic)
        expected = structural_similarity(
            u / u.max(), v / v.max(), channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )  # fmt: skip
        assert np.isclose(found["ssim"][i], expected)
        assert np.isclose(found["cosine"][i], torch.nn.functional.cosine_similarity(a[i].ravel(), b[i].ravel(), 0))


def test_at_any_scale_and_of_missing_maps():
    a = torch.randn(3, 3, 16, 16)
    b = a + torch.randn(3, 3, 16, 16)
    plain, tiny = likeness(a, b), likeness(1e-30 * a, 1e25 * b)
    for name, values in plain.items():
        torch.testing.assert_close(tiny[name], values, rtol=1e-5, atol=1e-5)
    a[1] = 0
    a[2] = torch.nan
    found = likeness(a, b)
    assert all(values[1:].isnan().all() and values[0].isfinite() for values in found.values())
    assert likeness(a[:, :, :8], b[:, :, :8])["ssim"].isnan().all(), "smaller than the window"
    same = likeness(b, -b)
    assert (same["cosine"] < -0.999).all() and (same["ssim"] > 0.999).all() and (same["spearman"] > 0.999).all()


def table(cell, *args, **more):
    return pd.read_parquet(cell("experiment=likeness", *args, **more).made[-1]).set_index(["image", "against"])


def test_what_is_compared_with_what(cell, tmp_path):
    gbp = table(cell, "rule=gbp", "target=original")
    assert {*gbp.reset_index()} == {*experiment.COLUMNS}
    by = gbp.groupby("against")
    assert by.size().nunique() == 1
    assert (by.get_group("gbp").cosine > 1 - 1e-6).all(), "itself"
    assert (by.get_group("original").cosine > 1 - 1e-6).all(), "no law changed these weights"
    assert (by.get_group("original").decision_changes == 0).all() and by.get_group(
        "edges"
    ).decision_changes.isna().all()
    lrp = table(cell, "rule=lrp", "target=original", output=tmp_path / "lrp")
    np.testing.assert_allclose(by.get_group("lrp").ssim, lrp.groupby("against").get_group("gbp").ssim, rtol=1e-4)
    filtered = pd.read_parquet(cell("experiment=filter", "rule=gbp", "filter.size=3", output=tmp_path / "f").made[-1])
    np.testing.assert_allclose(by.get_group("filter").cosine, filtered.cos_px, rtol=1e-4, atol=1e-6)
    activation = table(cell, "rule=activation", "likeness.against=[bottom,runner_up]", output=tmp_path / "a")
    of = activation.groupby("against")
    assert of.get_group("bottom").cosine.isna().all() and (of.get_group("runner_up").cosine > 1 - 1e-6).all()


def test_changed_weights_are_compared_with_the_unmodified_network(cell, checkpoint, tmp_path):
    """Both maps of the class that it decides for, as experiment=attribute makes them of either network."""
    changed = ["weights=gaussian", f"weights.base={checkpoint}", "weights.depth=2", "target=original", "seed=1"]
    found = table(cell, *changed, "rule=lrp", "likeness.against=[original]").reset_index()

    def attributed(name, *args):
        ended = cell("experiment=attribute", *args, "rule=lrp", output=tmp_path / name)
        folder = ended.made[-1].parent
        return pd.read_parquet(ended.made[-1]), load_file(folder / "maps.safetensors")["without_bottom"]

    own, r = attributed("changed", *changed)
    plain, before = attributed("plain", "weights=checkpoint", f"weights.path={checkpoint}")
    assert list(found["target"]) == list(own["target"]) == list(plain["decision"])
    differs = (own["decision"] != plain["decision"]).astype(float)
    assert differs.sum() > 0 and list(found["decision_changes"]) == list(differs)
    expected = torch.nn.functional.cosine_similarity(r.flatten(1), before.flatten(1))
    np.testing.assert_allclose(found["cosine"], expected, rtol=1e-4, atol=1e-6)
    assert (expected < 0.99).all()


def test_settings(cell):
    for setting, complaint in (("[gpb]", "against has no 'gpb'"), ("[]", "against is empty")):
        ended = cell("experiment=likeness", f"likeness.against={setting}")
        assert ended.code == 1 and complaint in ended.complaint
