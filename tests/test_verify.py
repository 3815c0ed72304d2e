import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision
from torch import nn

from pipeline.engine import lrp
from pipeline.engine.gradients import GRADIENTS
from pipeline.engine.lrp import AlphaBeta
from pipeline.engine.network import trace
from pipeline.engine.place import Place
from pipeline.engine.rules import RULES, DeconvNet, Gbp, RectGrad
from pipeline.errors import UserError
from pipeline.experiments import verify
from pipeline.images.batches import Preprocessing
from pipeline.networks.catalogue import Model
from pipeline.oracles import local
from tests import dense, tiny
from tests.models import NETS, conv, images, seeded

ROOT = Path(__file__).parents[1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPTIONS = verify.Options(images=2, side=None, biases=True, tolerance=1e-10)


class Drawn(Model):
    """A network of tests.models as a model of the command line."""

    def __init__(self, network, side: int = 13):
        self.network, self.side = network, side

    def build(self) -> nn.Module:
        return self.network()

    def preprocessing(self, enum: str = "") -> Preprocessing:
        return Preprocessing(self.side, self.side, MEAN, STD, "bilinear")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(verify, "tqdm", lambda checks, **_: checks)


@pytest.fixture
def table_of(monkeypatch):
    """The table of a network of tests.models, whose images are not square."""

    def call(name: str, options: verify.Options = OPTIONS) -> pd.DataFrame:
        monkeypatch.setattr(verify, "noise", lambda *_: images(options.images))
        (result,) = verify.run(trace(seeded(NETS[name]), mean=MEAN, std=STD), Drawn(NETS[name]), options)
        return result.table

    return call


def wrong(table: pd.DataFrame) -> set[tuple[str, str]]:
    """(rule, reference) of the rows that are off."""
    off = table[table["ok"].eq(False).fillna(False)]
    return set(zip(off["rule"], off["reference"], strict=True))


@pytest.mark.parametrize("name", NETS)
def test_every_rule_is_right(table_of, name):
    table = table_of(name)
    assert not wrong(table), verify.report(table)[0]
    silent = table[table["ok"].isna()]
    assert list(silent["rule"] + " " + silent["reference"]) == (["dtd zennit"] * 2 if name == "padded" else []), list(
        silent["note"]
    )
    assert set(table["rule"]) == {"forward", *RULES} - {"external"} and (table["dtype"] == "float64").all()
    assert (table.loc[table["ok"].notna(), "sites"] > 0).all() and table["ok"].dtype == "boolean"
    assert ("BatchNorm folded" in set(table["setting"])) == (name in ("normalised", "not_affine"))


def test_resnet18():
    model = Drawn(lambda: torchvision.models.resnet18(num_classes=10), side=224)
    table = verify.run(trace(seeded(model.build), mean=MEAN, std=STD), model, verify.Options(1, 33, True, 1e-9))[
        0
    ].table
    assert not wrong(table) and table["ok"].notna().all() and set(table["side"]) == {33}, verify.report(table)[0]


# ---- planted bugs ----------------------------------------------------------------------------------------------------


def with_bias(relevance, at, negative=False):
    if negative:
        return contributions(relevance, at, negative)
    a, up, down, bias = at.input, at.weight.clamp(min=0), at.weight.clamp(max=0), at.op.module.bias
    total = at.apply(a.clamp(min=0), up) + at.apply(a.clamp(max=0), down)
    if bias is not None:
        total = total + bias.clamp(min=0).view(-1, *[1] * (total.ndim - 2))
    share = lrp.ratio(relevance, total)
    return torch.where(a >= 0, at.transpose(share, up), at.transpose(share, down))


def at_least(self, r, at):
    product = (at.output * r).flatten(1)
    tau = product.sort(1).values[:, int(self.quantile * (product.shape[1] - 1))]
    return r * (product >= tau[:, None]).view_as(r)


def swapped(relevance, at):
    low, high = at.bounds
    return z_box(
        relevance,
        type(
            "At", (), {**{k: getattr(at, k) for k in ("weight", "input", "apply", "transpose")}, "bounds": (high, low)}
        ),
    )


z_box, contributions = lrp.z_box, lrp.contributions
FILTERED = {"captum", "zennit", "autograd, filtered", "dense"}
BUGS = {  # what is patched, the network that shows it, and the rows (rule, reference) that must be off
    "gbp without its cut": ((Gbp, "relu", lambda self, r, at: r * at.mask), "plain", {("gbp", r) for r in FILTERED}),
    "gbp without the mask": (
        (Gbp, "relu", lambda self, r, at: r.clamp(min=0)), "plain", {("gbp", r) for r in FILTERED},
    ),
    "deconvnet with the mask": ((DeconvNet, "relu", Gbp.relu), "bottleneck", {("deconvnet", r) for r in FILTERED}),
    "rectgrad with >=": (
        (RectGrad, "relu", at_least), "plain", {("rectgrad", "autograd, filtered"), ("rectgrad", "dense")},
    ),
    "z+ with the bias": (
        (lrp, "contributions", with_bias), "plain",
        {(n, r) for n in ("lrp", "dtd", "excitation_bp") for r in ("zennit", "dense")},
    ),
    "z^B with l and h exchanged": ((lrp, "z_box", swapped), "plain", {("dtd", "zennit"), ("dtd", "dense")}),
    "relevance starts as the gradient": (
        (AlphaBeta, "start", Gbp.start), "plain", {("lrp", "zennit"), ("dtd", "zennit")},
    ),
    "a saturated ReLU6 stops relevance": (
        (Place, "gain", Place.mask), "saturated", {("lrp", "zennit"), ("lrp", "dense")},
    ),
    "sums halve r": (
        (GRADIENTS, "add", lambda r, record, op: (r / 2, r / 2)), "residual",
        {("grad", "autograd"), ("lrp", "zennit"), ("gbp", "captum")},
    ),
    "averages are sums": (
        (GRADIENTS, "mean", lambda r, record, op: (r[..., None, None].expand(*r.shape, 7, 6),)), "bottleneck",
        {("grad", "autograd"), ("lrp", "zennit")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_shows_in_its_rows(table_of, monkeypatch, bug):
    (owner, name, planted), net, rows = BUGS[bug]
    (monkeypatch.setitem if isinstance(owner, dict) else monkeypatch.setattr)(owner, name, planted)
    table = table_of(net)
    assert rows <= wrong(table), verify.report(table)[0]
    if not isinstance(owner, dict):  # and in no other rule
        assert {rule for rule, _ in wrong(table)} <= {rule for rule, _ in rows} | {
            "lrp_alphabeta",
            "dtd",
            "excitation_bp",
            "lrp_epsilon",
            "lrp_gamma",
        }


def test_a_bias_must_not_be_zero_to_be_seen(table_of, monkeypatch):
    monkeypatch.setattr(lrp, "contributions", with_bias)
    for biases in (True, False):
        table = table_of("no_bias", verify.Options(1, None, biases, 1e-10))
        assert {("lrp", "dense"), ("lrp", "zennit"), ("dtd", "zennit")} <= wrong(table) if biases else not wrong(table)


# ---- the table's edges -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["captum", "zennit"])
def test_a_missing_library_is_a_note(table_of, monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package] + [package, f"{package}.attr"]:
        monkeypatch.setitem(sys.modules, name, None)
    table = table_of("plain")
    noted = table[table["ok"].isna()]
    assert (
        set(noted["reference"]) == {package}
        and noted["error_max"].isna().all()
        and noted["note"].str.contains("pip install captum zennit").all()
    )
    assert not wrong(table) and verify.report(table)[1] is None and f"{len(noted)} not run" in verify.report(table)[0]


def test_logits_of_zero_are_not_explained(table_of, monkeypatch):
    """A network that ends in a ReLU, like SqueezeNet: relevance 1 has no gradient form there."""

    def rectified() -> nn.Module:
        return nn.Sequential(conv(3, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 9), nn.ReLU())

    monkeypatch.setitem(NETS, "rectified", rectified)
    table = table_of("rectified")
    assert table["ok"].all(), verify.report(table)[0]
    with torch.no_grad():
        dead = rectified()
        dead[4].weight.zero_(), dead[4].bias.fill_(-1)
    monkeypatch.setitem(NETS, "rectified", lambda: dead)
    with pytest.raises(UserError, match="logits are zero"):
        table_of("rectified")


def test_a_rule_without_reference_is_listed(table_of, monkeypatch):
    monkeypatch.setitem(RULES, "mine", Gbp)
    table = table_of("plain")
    assert (
        list(table.query("rule == 'mine'")["reference"]) == ["none"]
        and table.query("rule == 'mine'")["ok"].isna().all()
    )


def test_images_are_pixels_and_as_large_as_the_model_takes():
    picky, pre = nn.Sequential(nn.Flatten(), nn.Linear(3 * 13 * 13, 2)).double(), Drawn(None).preprocessing()
    cpu = torch.device("cpu")
    assert verify.noise(pre, verify.Options(2, 8, True, 1.0), picky, cpu).shape == (2, 3, 13, 13)
    x = verify.noise(pre, verify.Options(2, 8, True, 1.0), nn.Identity(), cpu)
    pixels = x * torch.tensor(STD).double().view(3, 1, 1) + torch.tensor(MEAN).double().view(3, 1, 1)
    assert x.shape == (2, 3, 8, 8) and -1e-9 < float(pixels.min()) < 0.1 and 0.9 < float(pixels.max()) < 1 + 1e-9


def test_errors():
    b = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]])
    a = torch.tensor([[3.0, 4.5], [0.0, 0.0], [float("nan"), 2.0]])
    (largest, l2, count), zero, nan = verify.relative_errors(a, b)
    assert (largest, count) == (0.125, 2) and abs(l2 - 0.1) < 1e-6 and zero == (0, 0, 2) and nan[0] == float("inf")
    assert verify.relative_errors(torch.ones(1, 2), torch.zeros(1, 2))[0][:2] == (float("inf"), float("inf"))
    assert verify.relative_errors(torch.ones(2, 3), torch.ones(2, 2))[0][0] == float("inf")


@pytest.mark.parametrize(
    "layer",
    [conv(4, 6, groups=2, stride=2, dilation=(1, 2)), conv(3, 4, 3, "same", dilation=2), conv(3, 4, 1, "valid")],
)
def test_local_steps_are_those_of_the_whole_matrix(layer):
    """im2col against the matrix of the layer's values at every basis vector, and its loops."""
    shape = (layer.in_channels, 5, 6)
    layer = layer.double().requires_grad_(False)
    w, _ = dense.matrix(layer, shape)
    a = images(1, shape)[0]
    relevance = torch.randn(layer(a[None]).shape[1:], dtype=torch.float64)
    expected = (
        torch.tensor(dense.z_plus(w, a.flatten().tolist(), relevance.flatten().tolist()))
        .view(*shape)
        .double()
        .flatten(1)
    )
    gradient = torch.tensor(dense.times(w, relevance.flatten().tolist())).view(*shape).double().flatten(1)
    matrices = local.layer_of(layer)
    for place in range(30):
        torch.testing.assert_close(
            local.shared_step(matrices, a, place, relevance, [local.Term(local.positive)], None).float(),
            expected[:, place].float(),
        )
        torch.testing.assert_close(
            local.plain_step(matrices, shape[1:], place, relevance).float(), gradient[:, place].float()
        )


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_shows_the_table_and_ends_well(run):
    ended = run(*tiny.OWN, "experiment=verify")
    assert ended.code == 0 and len(ended.made) == 1 and "comparisons on 2 images of 16 px" in ended.err
    table = pd.read_parquet(ended.made[0])
    assert list(table) == verify.COLUMNS
    assert table["ok"].all() and table["error_max"].max() < 1e-12
    before = ended.made[0].stat().st_mtime_ns
    again = run(*tiny.OWN, "experiment=verify", "dtype=float64")  # it judges the code of now, so nothing is kept
    assert again.made == ended.made and again.made[0].stat().st_mtime_ns > before


def test_the_command_fails_where_a_row_does(run, monkeypatch):
    monkeypatch.setattr(Gbp, "relu", lambda self, r, at: r * at.mask)
    ended = run(*tiny.OWN, "experiment=verify")
    assert ended.code == 1 and "see the rows that say NO" in ended.complaint and " NO " in ended.err
    assert ended.made[-1].is_file()


def test_make_knows_models_by_their_yaml_and_torchvisions_by_name():
    def command(model: str) -> str:
        return subprocess.run(
            ["make", "-n", "verify", f"MODEL={model}", "PYTHON=python"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert "experiment=verify model=vgg16_cifar" in command(
        "vgg16_cifar"
    ) and "model=vgg16 model.name=resnet34" in command("resnet34")
