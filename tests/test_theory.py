import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from torch import nn

from pipeline import api
from pipeline.engine.lrp import WPlus
from pipeline.engine.network import trace
from pipeline.engine.rules import GRAD, Activation, Gbp, RectGrad
from pipeline.engine.walk import attribute, one_hot
from pipeline.errors import UserError
from pipeline.experiments import EXPERIMENTS, geometry, nfr, rank1, theorem1, theorem2
from pipeline.figures import fig1, style
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


# ---- Theorem 1 -------------------------------------------------------------------------------------------------------


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


# ---- Theorem 2 -------------------------------------------------------------------------------------------------------

EXACT = theorem2.Options(
    nets=4, inputs=50, neurons=30, dim=40, mixing=[0.0], spread=[0.0], laws=list(theorem2.LAWS), draws=[1], seed=7
)


@pytest.mark.parametrize("rule", [Gbp(), RectGrad(0.9), RectGrad(0.0), z_plus()])
def test_theorem2_holds_over_orthogonal_weights(rule):
    """r along A is never beaten: R is confined to the span of the active neurons, where x's projection is best."""
    table = theorem2.run([rule], EXACT)[0].table
    assert list(table) == theorem2.COLUMNS
    generic = table[~table["equal"] & table["defined"]]
    assert len(generic) >= 2 * 2 * 3 * 50 and generic["holds"].all()
    normal = generic[generic["law"] == "normal"]
    assert (normal["alpha_a"] > normal["alpha_b"] + 1e-6).mean() > 0.9


def test_equality_needs_equal_a_and_a_constant_r():
    """The paper's 'equality if and only if all A are equal': true of the mean of r_b, false of a draw, and of RectGrad
    with one unit left."""
    table = theorem2.run([Gbp()], EXACT)[0].table
    equality = table.groupby(["equal", "law"])["equality"].mean()
    assert equality[True, "constant"] == 1 and equality[True, "normal"] == equality[True, "exponential"] == 0
    assert equality[False].max() == 0
    one_unit = theorem2.Options(**{**vars(EXACT), "neurons": 8})  # .9 of 8 units: one passes
    found = theorem2.run([RectGrad(0.9)], one_unit)[0].table
    assert found[~found["equal"]]["equality"].mean() > 0.1  # with A that are not equal


@pytest.mark.parametrize("rule", [Gbp(), z_plus()])
def test_the_mean_of_many_draws_reaches_equality_where_all_a_are_equal(rule):
    """1 - alpha_b / alpha_a falls as 1 / draws there, and there alone."""
    options = theorem2.Options(**{**vars(EXACT), "laws": ["exponential"], "draws": [1, 16, 256]})
    table = theorem2.run([rule], options)[0].table
    table = table[table["units"] == "active"].assign(gap=lambda t: 1 - t["alpha_b"] / t["alpha_a"])
    gap = table.groupby(["equal", "draws"])["gap"].mean()
    assert 14 < gap[True, 16] / gap[True, 256] < 18
    assert gap[False, 256] > 0.8 * gap[False, 16] > 0.02
    literal = theorem2.run([rule], EXACT)[0].table
    literal = literal[(literal["law"] == "exponential") & (literal["units"] == "active")]
    np.testing.assert_array_equal(literal["alpha_b"], table[table["draws"] == 1]["alpha_b"])


def test_exactly_equal_a_leave_rectgrad_nothing():
    network = shallow(torch.eye(12, dtype=F64), torch.ones(1, 12, dtype=F64))
    record = network.forward(torch.ones(1, 12, dtype=F64))
    assert not theorem2.walk(record, record.activation(1), lambda _: RectGrad(0.9), top=1).any()
    compared = theorem2.compared(torch.tensor([math.nan, 0.4, 0.6]), torch.tensor([0.5, 0.5, 0.5]))
    assert compared["defined"].tolist() == [False, True, True]
    assert compared["holds"].isna().tolist() == [True, False, False] and compared["holds"][1:].tolist() == [False, True]


def test_rounding_picks_no_units():
    """All A are equal but for their last bits: RectGrad passes none of them, and nothing is said of (18)."""
    table = theorem2.run([RectGrad(0.9)], EXACT)[0].table
    equal = table[table["equal"]]
    assert len(equal) > 1000 and not equal["defined"].any() and equal["holds"].isna().all()
    w = theorem2.hidden_weights(EXACT, 0, 0.0, 0.0)
    x = torch.ones(1, 30, dtype=F64) @ torch.linalg.pinv(w).T
    plain = shallow(w, torch.ones(1, 30, dtype=F64)).forward(x)
    assert plain.activation(1).unique().numel() > 1, "as they come out of the layer"
    assert theorem2.snapped(plain.network, x).activation(1).unique().numel() == 1


def test_z_plus_over_w_plus_contradicts_theorem2():
    table = theorem2.run([z_plus("plus")], EXACT)[0].table
    assert not table["holds"].all()


@pytest.mark.parametrize("mixing, spread", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.7)])
def test_the_knobs_of_theorem2(mixing, spread):
    w = theorem2.hidden_weights(EXACT, 1, mixing, spread)
    norms = w.norm(dim=1)
    cosines = (w / norms[:, None]) @ (w / norms[:, None]).T - torch.eye(len(w), dtype=F64)
    assert (cosines.abs().max() < 1e-12) == (mixing == 0) and (norms.std() < 1e-12) == (spread == 0)
    assert spread == 0 or 0.4 < float(norms.log().std()) < 1.0


# ---- condition (13) --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_condition_13_equals_explicit_matrices(bias):
    """(12), (13) literally: W M as a matrix, the filter a diagonal of zeros and ones, sums in loops."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(6, 9, bias=bias), nn.ReLU(), nn.Linear(9, 8, bias=bias), nn.ReLU(), nn.Linear(8, 3, bias=bias)
    ).double()
    network, x = trace(model), torch.randn(4, 6, dtype=F64)
    record = network.forward(x)
    weights = [module.weight.detach() for module in model if isinstance(module, nn.Linear)]
    start = one_hot(record)
    for rule in (Gbp(), RectGrad(0.5), WPlus(first_layer=z_plus().first_layer)):
        r = [row.clone() for row in start]
        for layer, sides in nfr.conditions(record, rule, start):
            for b in range(4):
                a, z, w = record.activation(layer - 1)[b], record.activation(layer)[b], weights[layer - 1]
                r[b] = r[b] / r[b].abs().max().clamp(min=1e-300)
                mask = torch.ones(len(z), dtype=F64) if layer == 3 else (z > 0).double()
                wm = w.T @ torch.diag(mask)  # the paper's W M, (in, out)
                keep = torch.ones(len(z), dtype=F64)
                if layer < 3 and isinstance(rule, Gbp):
                    keep = (r[b] > 0).double()
                if layer < 3 and isinstance(rule, RectGrad):
                    tau = np.quantile((z * r[b]).numpy(), 0.5, method="lower")
                    keep = (z * r[b] > tau).double()
                filtered = wm @ torch.diag(keep)
                removed, possible = float(((r[b] * mask != 0) & (keep == 0)).sum()), float((r[b] * mask != 0).sum())
                if isinstance(rule, WPlus):
                    filtered = wm if layer == 1 else wm * (w.T > 0)
                    pairs = [
                        (i, j) for i in range(len(a)) for j in range(len(z)) if a[i] != 0 and (r[b] * mask)[j] != 0
                    ]
                    removed, possible = (
                        (float(sum(bool(w[j, i] < 0) for i, j in pairs)), float(len(pairs)))
                        if layer > 1
                        else (0.0, 1.0)
                    )
                lhs, rhs = float(a @ (filtered @ r[b])), float(a @ (wm @ r[b]))
                assert math.isclose(float(sides["lhs"][b]), lhs, abs_tol=1e-10) and math.isclose(
                    float(sides["rhs"][b]), rhs, abs_tol=1e-10
                )
                assert math.isclose(float(sides["filtered"][b]), removed / max(possible, 1), abs_tol=1e-12), (
                    rule,
                    layer,
                )
                r[b] = filtered @ r[b]


@pytest.mark.parametrize("seed", range(5))
def test_propositions_without_biases(seed):
    """GBP and z+ without gamma meet (13) strictly wherever they filter; z+ with gamma conserves: both sides equal."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 25, 5, bias=False),
    ).double()  # fmt: skip
    record = trace(model).forward(torch.randn(6, 3, 16, 16, dtype=F64))
    options = nfr.Options(without_gamma=True, tolerance=1e-10)
    onehot = one_hot(record)
    relations = {}
    for rule in (Gbp(), z_plus()):
        for gamma, variant in nfr.variants(rule, options):
            found = relations[type(rule).__name__ + gamma] = set()
            for _, sides in nfr.conditions(record, variant, rule.start(onehot, record.logits)):
                found |= set(nfr.verdict(sides, 1e-10)["relation"])
    assert relations["Gbp"] == {"", "greater"}
    names = sorted(relations)
    kept, dropped = (next(relations[n] for n in names if n.endswith(g)) for g in ("kept", "dropped"))
    assert kept == {"", "equal"} and dropped == {"", "greater"}


def test_rectgrad_breaks_proposition_2():
    """Positive A r below tau go too: of 1 + ... + 10 only the 10 stays."""
    record = shallow(torch.eye(10, dtype=F64), torch.ones(1, 10, dtype=F64)).forward(
        torch.arange(1.0, 11, dtype=F64)[None]
    )
    (sides,) = [
        sides for layer, sides in nfr.conditions(record, RectGrad(0.9), torch.ones(1, 1, dtype=F64)) if layer == 1
    ]
    assert (float(sides["lhs"]), float(sides["rhs"]), float(sides["filtered"])) == (10, 55, 0.9) and float(
        sides["margin"]
    ) < 0


def test_biases_break_proposition_1():
    """W^T A < 0 but the unit is active by its bias: what GBP removes was positive."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
    for parameter, value in zip(model.parameters(), (1.0, 0.0, -1.0, 3.0, -1.0), strict=True):
        parameter.data.fill_(value)
    record = trace(model).forward(torch.ones(1, 1, dtype=F64))
    found = {
        layer: nfr.verdict(sides, 1e-9)["relation"][0]
        for layer, sides in nfr.conditions(record, Gbp(), torch.ones(1, 1, dtype=F64))
    }
    assert found[2] == "less"


@pytest.mark.parametrize("gamma", [0.0, 0.1, 2.0, math.inf])
def test_lrp_gamma_has_one_numerator(gamma):
    """Without biases <A_l, r_l> is the logit's relevance at every layer and for every gamma: (13) is an equality, while
    the alignment of the map changes."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 25, 5, bias=False),
    ).double()  # fmt: skip
    record = trace(model).forward(torch.randn(6, 3, 16, 16, dtype=F64))
    rule = api.rule("lrp_gamma", gamma=gamma)
    EXPERIMENTS["nfr"].refuse("nfr", "lrp_gamma", rule)
    variants = nfr.variants(rule, nfr.Options(without_gamma=True, tolerance=1e-10))
    assert [name for name, _ in variants] == (["kept", "dropped"] if gamma == math.inf else [""])
    sides = [found for _, found in nfr.conditions(record, rule, rule.start(one_hot(record), record.logits))]
    assert max(float(found["margin"].abs().max()) for found in sides) < 1e-12
    assert all((found["filtered"] > 0).any() == (gamma == math.inf) for found in sides[:-1])
    r = attribute(record, rule)
    torch.testing.assert_close((r * record.x).flatten(1).sum(1), torch.ones(6, dtype=F64), rtol=1e-10, atol=1e-10)
    assert alignment(r, record.x).std() > 1e-3


def test_nfr_table(cell):
    table = pd.read_parquet(cell("experiment=nfr", "rule=lrp", "weights=gaussian", "dtype=float64").made[-1])
    assert list(table) == nfr.COLUMNS
    assert len(table) == 5 * 3 * 2 and set(table["gamma"]) == {"kept", "dropped"}
    assert set(table[(table["gamma"] == "dropped") & (table["layer"] > 1)]["relation"]) == {"greater"}
    assert (
        set(table[(table["gamma"] == "kept") & (table["layer"] > 1)]["relation"]) == {"equal"}
        and not table[table["layer"] == 1]["filtered"].any()
    )


def test_rules_that_filter_nothing_are_refused():
    refused = {
        "activation": (Activation(), "no rule"),
        "lrp": (z_plus("zbox"), "first_layer"),
        "lrp_alphabeta": (api.rule("lrp_alphabeta"), "no filter"),
        "lrp_epsilon": (api.rule("lrp_epsilon"), "no filter"),
    }
    for name, (rule, message) in refused.items():
        with pytest.raises(UserError, match=message):
            EXPERIMENTS["nfr"].refuse("nfr", name, rule)
    for rule in (z_plus("split"), api.rule("lrp_alphabeta", alpha=1), api.rule("excitation_bp"), Gbp()):
        EXPERIMENTS["nfr"].refuse("nfr", "", rule)
    with pytest.raises(UserError, match="no class"):
        EXPERIMENTS["rank1"].refuse("rank1", "activation", Activation())


# ---- rank one --------------------------------------------------------------------------------------------------------


def test_positive_matrices_make_all_directions_one():
    """A chain of positive matrices forgets where it started; a single one does not."""
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(20, 20, bias=False), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(20, 4, bias=False)).double()
    for parameter in model.parameters():
        parameter.data = parameter.data.abs() ** 3  # far from rank one
    record = trace(model).forward(torch.rand(3, 20, dtype=F64))
    starts = [one_hot(record, torch.full((3,), k)) for k in (0, 1)]
    cosines = {layer: float(alignment(*pair).mean()) for layer, pair in rank1.descents(record, GRAD, starts)}
    assert cosines[6] < 0.9 and cosines[0] > 0.99 and list(cosines) == list(range(6, -1, -1))
    direct = [torch.autograd.functional.jacobian(model, record.x[0])[k] for k in (0, 1)]
    assert cosines[0] == pytest.approx(float(alignment(*(d[None] for d in direct))), abs=1e-3)


def test_rank1_table(cell):
    table = pd.read_parquet(cell("experiment=rank1", "rule=gbp").made[-1])
    assert list(table) == [*rank1.COLUMNS, rank1.WITH_CENTRED]
    uncentred = pd.read_parquet(cell("experiment=rank1", "rule=gbp", "rank1.centred=false", "data.limit=1").made[-1])
    assert list(uncentred) == rank1.COLUMNS
    assert len(table) == 5 * 2 * 3 and set(table["layer"]) == {0, 1, 2} and (table["target"] != table["other"]).all()
    assert table["cosine"].between(-1 - 1e-9, 1 + 1e-9).all() and "cosine_centred" in table
    again = pd.read_parquet(cell("experiment=rank1", "rule=gbp", "run.batch_size=1", "run.force=true").made[-1])
    pd.testing.assert_frame_equal(table, again, atol=1e-5)


# ---- Fig. 1 ----------------------------------------------------------------------------------------------------------

PLANE = geometry.Options(neurons=8, seed=1021, x_angle=65.0, draws=200)


def test_the_two_sums_are_the_gradient():
    table = geometry.run(PLANE)[0].table
    vectors = table.set_index(["kind", "name"])[["u", "v"]]
    w = torch.tensor(vectors.loc["weight"].to_numpy())
    r = torch.tensor(table[table["kind"] == "weight"]["r"].to_numpy())
    x = torch.tensor(vectors.loc[("input", "x")].to_numpy(), requires_grad=True)
    (gradient,) = torch.autograd.grad(r @ (w @ x).relu(), x)
    sums = {name: torch.tensor(vectors.loc[("sum", name)].to_numpy()) for name in ("R_+", "R_-", "R", "NFR")}
    torch.testing.assert_close(sums["R_+"] + sums["R_-"], gradient)
    torch.testing.assert_close(sums["R"], gradient)
    torch.testing.assert_close(sums["NFR"], sums["R_+"])
    torch.testing.assert_close(torch.tensor(vectors.loc["contribution"].to_numpy()).sum(0), gradient)
    nfr_row = table[table["name"] == "NFR"].iloc[0]
    assert nfr_row["alignment"] > table[table["name"] == "R"].iloc[0]["alignment"] and 0.8 < nfr_row["better"] < 1


def test_fig1_draws_its_table_with_texts_apart():
    tables = {"plane": geometry.run(PLANE)[0].table}
    style.use_style()
    figure = fig1.draw(fig1.numbers(tables), fig1.caption(tables, "demo"))
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in figure.findobj(Text) if t.get_text().strip()]
    for i, (a, p) in enumerate(boxes):
        assert p.x0 > -1 and p.y0 > -1 and p.x1 < figure.bbox.width + 1 and p.y1 < figure.bbox.height + 1, a
        for b, q in boxes[:i]:
            assert not (min(p.x1, q.x1) - max(p.x0, q.x0) > 1 and min(p.y1, q.y1) - max(p.y0, q.y0) > 1), (a, b)
    style.close(figure)
