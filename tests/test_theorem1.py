"""Theorem 1: a random hidden layer returns its input, at the rate and with the constant that the algebra gives."""

import math

import pandas as pd
import pytest
import torch

from pipeline import api
from pipeline.engine.rules import GRAD, Gbp
from pipeline.experiments import theorem1
from pipeline.measures.maps import alignment
from pipeline.networks.shallow import shallow
from pipeline.weights.laws import (
    Anisotropic,
    BatchNormReset,
    Gaussian,
    HeavyTailed,
    Part,
    Ring,
    Scale,
    Uniform,
    Uniform01,
)

F64 = torch.float64

WHOLE: dict = {"base": None, "depth": None, "part": Part.top, "batchnorm": BatchNormReset.identity}


LAWS = {
    "gaussian": Gaussian(**WHOLE),
    "ring": Ring(0.05, **WHOLE),
    "uniform": Uniform(Scale.he, **WHOLE),
    "heavy_tailed": HeavyTailed(3, **WHOLE),
    "anisotropic": Anisotropic(10.0, **WHOLE),
}


def z_plus(first_layer="plain"):
    return api.rule("lrp", first_layer=first_layer)


def test_shallow_network_equals_the_closed_form():
    """GBP and z+ over W_1 return sum_i r_i+ M_i w_i, the gradient sum_i r_i M_i w_i; with W_1+ and split, a literal
    loop over the products."""
    w, v, x = torch.randn(40, 7, dtype=F64), torch.randn(1, 40, dtype=F64), torch.randn(5, 7, dtype=F64)
    network = shallow(w, v)
    on = (x @ w.T > 0).double()
    torch.testing.assert_close(network.forward(x).logits, (x @ w.T).clamp(min=0) @ v.T)
    gap = dict(
        zip(
            ("grad", "gbp", "plain", "split"),
            theorem1.aligned(network, x, [GRAD, Gbp(), z_plus(), z_plus("split")]),
            strict=True,
        )
    )
    torch.testing.assert_close(gap["grad"], alignment((on * v) @ w, x))
    torch.testing.assert_close(gap["gbp"], alignment((on * v.clamp(min=0)) @ w, x))
    torch.testing.assert_close(gap["plain"], gap["gbp"])
    for b in range(5):
        r = torch.zeros(7, dtype=F64)
        for j in range(40):
            z = float(w[j] @ x[b])
            if z > 0 and v[0, j] > 0:
                positive = [max(float(w[j, i] * x[b, i]), 0) for i in range(7)]
                r += torch.tensor(
                    [p / sum(positive) * z * float(v[0, j]) / float(x[b, i]) for i, p in enumerate(positive)], dtype=F64
                )
        torch.testing.assert_close(gap["split"][b], alignment(r[None], x[b : b + 1])[0])


def test_theorem1_has_the_rate_1_over_k_and_the_constant_of_its_docstring():
    x = torch.randn(30, 12, dtype=F64)
    gaps = []
    for neurons in (400, 6400):
        found = [
            theorem1.aligned(theorem1.hidden_layer(Ring(width=0.05, **WHOLE), 12, neurons, draw), x, [Gbp()])[0]
            for draw in range(12)
        ]
        gaps.append(float((torch.stack(found) ** -2 - 1).mean()))
        assert math.isclose(gaps[-1], math.pi**2 * 11 / neurons, rel_tol=0.25)
    assert abs(math.log(gaps[1] / gaps[0]) / math.log(16) + 1) < 0.1


@pytest.mark.parametrize("law", [*LAWS])
def test_theorem1_has_the_predicted_alignment(law):
    """By the moments of the law, heavy tails and directions of unequal variance included."""
    x, dim = torch.randn(8, 48, dtype=F64), 48
    for ratio in (10, 100):
        predicted = 1 - theorem1.predicted_gap(LAWS[law], x, ratio * dim)
        found = torch.stack(
            [theorem1.aligned(theorem1.hidden_layer(LAWS[law], dim, ratio * dim, i), x, [Gbp()])[0] for i in range(12)]
        )
        assert float((found.mean(0) - predicted).abs().mean()) < 0.02
        if law != "anisotropic":
            tangent = (found**-2 - 1).mean() / (predicted**-2 - 1).mean()
            assert abs(float(tangent) - 1) < (0.2 if law == "heavy_tailed" else 0.1)
    if law == "anisotropic":  # it goes nowhere else, however many the neurons
        limit = 1 - theorem1.predicted_gap(LAWS[law], x, 10**12)
        sigma = torch.logspace(0, 2, 48, dtype=F64)
        torch.testing.assert_close(limit, alignment(x * sigma, x), rtol=1e-6, atol=1e-6)
        assert float(limit.max()) < 0.9


def test_the_effective_width_of_a_t_distribution():
    spread = (3 / torch.randn(400_000, 3, dtype=F64).square().sum(1)).sqrt() / math.sqrt(3)
    assert abs(HeavyTailed(3, **WHOLE).effective_width - float(spread.mean()) ** 2) < 0.01
    assert HeavyTailed(400, **WHOLE).effective_width > 0.995
    assert math.isnan(float(theorem1.predicted_gap(Uniform01(Scale.he, **WHOLE), torch.ones(1, 4, dtype=F64), 40)))


def test_theorem1_table(cell):
    small = [
        "theorem1.sides=[3]",
        "theorem1.neurons_per_dim=[10,30,100]",
        "theorem1.draws=3",
        "data.limit=2",
        "rule=gbp",
    ]
    found = {}
    for law in ("gaussian", "ring", "anisotropic", "uniform01"):
        found[law] = pd.read_parquet(cell("experiment=theorem1", f"weights={law}", *small).made[-1])
        assert list(found[law]) == theorem1.COLUMNS and len(found[law]) == 2 * 3 * 3 * 3
        assert found[law]["draw"].nunique() == 3
    table = pd.concat(found, names=["law"]).reset_index()
    slopes = table[table["input"] != "corner"].groupby("law")["slope"].mean()
    assert (
        abs(slopes["gaussian"] + 1) < 0.2
        and abs(slopes["ring"] + 1) < 0.2
        and slopes["anisotropic"] > -0.5
        and abs(slopes["uniform01"]) < 0.1
    )
    best = table[table["neurons"] == 2700].groupby(["law", "input"])["alignment"].mean()
    assert best["gaussian"].min() > 0.93 and best["anisotropic", "random"] < 0.85


def test_theorem1_takes_a_laws_settings_and_refuses_what_is_none(cell):
    """ring.width reaches it: norms between 0 and twice sqrt(2) scatter R more than a thin ring's."""
    small = ("experiment=theorem1", "theorem1.sides=[3]", "theorem1.neurons_per_dim=[10]", "theorem1.draws=20")
    thin, wide = (
        pd.read_parquet(cell(*small, "weights=ring", f"ring.width={width}").made[-1])["alignment"] for width in (0, 1)
    )
    assert wide.mean() < thin.mean() - 0.005
    refused = cell(*small, "weights=removal")
    assert refused.code == 1 and "experiment=theorem1 draws from a law; choose weights=gaussian" in refused.complaint


def test_theorem1_without_a_readable_image_ends_in_a_sentence(cell, tmp_path):
    for file in (tmp_path / "images").iterdir():
        file.write_bytes(file.read_bytes()[:60])
    ended = cell("experiment=theorem1", "theorem1.sides=[3]", "data.on_error=skip")
    assert ended.code == 1 and "none of the 5 images of data=folder can be read" in ended.complaint


def test_a_patch_is_cut_from_the_image():
    image = torch.arange(3 * 9 * 9, dtype=F64).view(3, 9, 9)
    x = theorem1.patch(image, "a.png", 3).view(3, 3, 3)
    top, left = divmod(int(x[0, 0, 0]), 9)
    assert torch.equal(x, image[:, top : top + 3, left : left + 3]) and torch.equal(
        x.flatten(), theorem1.patch(image, "a.png", 3)
    )


def test_uniform_weights_miss_the_corner_hardly():
    """Without isotropy, by quadrature: R ~ (1/2 - t^2/6, t/3), so alpha = .9933 at the worst t."""
    t = theorem1.CORNER
    limit = alignment(torch.tensor([[1 / 2 - t**2 / 6, t / 3]], dtype=F64), torch.tensor([[1, t]], dtype=F64))
    assert 0.9932 < float(limit) < 0.9934
    network = theorem1.hidden_layer(Uniform(scale=Scale.he, **WHOLE), 2, 400_000, 0)
    found = theorem1.aligned(network, torch.tensor([[1, t]], dtype=F64), [Gbp()])[0]
    assert abs(float(found - limit)) < 5e-4


def test_an_input_that_activates_nothing_has_no_alignment():
    network = shallow(torch.ones(4, 3, dtype=F64), torch.ones(1, 4, dtype=F64))
    found = theorem1.aligned(network, torch.tensor([[1.0, 1, 1], [-1, -1, -1]], dtype=F64), [z_plus()])[0]
    assert float(found[0]) == pytest.approx(1) and bool(found[1].isnan())
