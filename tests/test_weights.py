import math
from urllib.error import URLError

import pandas as pd
import pytest
import torch
import torchvision

from pipeline.api import rule
from pipeline.engine.walk import attribute
from pipeline.errors import UserError
from pipeline.measures.weights import frame, isotropy, layer_stats
from pipeline.networks.catalogue import Own, Torchvision
from pipeline.weights.laws import (
    Anisotropic,
    BatchNormReset,
    Gaussian,
    HeavyTailed,
    KaimingNormal,
    KaimingUniform,
    Kernel,
    Part,
    Places,
    Removal,
    Ring,
    Scale,
    Touched,
    TruncatedNormal,
    Uniform,
    Uniform01,
)
from pipeline.weights.states import Checkpoint, Pretrained, network_of, original

PLAIN: dict = {"base": None, "depth": None, "part": Part.top, "batchnorm": BatchNormReset.identity}
SHAPE = torch.Size((800, 64, 3, 3))
PINNED = [0.2295478, 0.0231089, -0.018585, 0.1139904]  # weight seed 100, the first layer of VGG16
LAWS = {
    "gaussian": Gaussian(**PLAIN),
    "ring": Ring(0.05, **PLAIN),
    "uniform": Uniform(Scale.he, **PLAIN),
    "truncated_normal": TruncatedNormal(**PLAIN),
    "anisotropic": Anisotropic(10.0, **PLAIN),
    "heavy_tailed": HeavyTailed(3, **PLAIN),
}


def tiny_model(call: str = "tests.tiny:network") -> Own:
    return Own(call, 16, 16, [0.5] * 3, [0.25] * 3, [])


def no_images():
    raise AssertionError("not asked for")


@pytest.mark.parametrize("name", LAWS)
def test_laws_have_he_scale_and_no_mean(name):
    w = LAWS[name].draw(SHAPE, 1, 1).double()
    assert w.shape == SHAPE and abs(float(w.mean())) < 3e-4
    tolerance = 0.15 if name == "heavy_tailed" else 0.01
    assert math.isclose(float(w.pow(2).mean()), 2 / (64 * 9), rel_tol=tolerance)


def test_isotropy_scores_part_the_laws():
    scores = {name: isotropy(law.draw(SHAPE, 1, 1).flatten(1)) for name, law in LAWS.items()}
    for name, (score, mean) in scores.items():
        assert abs(mean) < 0.005
        assert (score > 2) if name == "anisotropic" else abs(score - 1) < 0.05, name
    score, mean = isotropy(Uniform01(Scale.mean, **PLAIN).draw(SHAPE, 1, 1).flatten(1))
    assert score > 100 and abs(mean - 0.75) < 0.01


def test_isotropy_is_that_of_the_law_whatever_n_and_the_basis():
    """M = diag(4, 1, 1) turned, mean 0: 3 * 18 / 36 = 1.5. And with a mean: M + m m^T."""
    rng = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64))[0]
    draws = torch.randn(4000, 20, 3, generator=rng, dtype=torch.float64) * torch.tensor([2.0, 1, 1])
    some = torch.tensor([isotropy(w @ turn) for w in draws])
    assert abs(some.median(0).values[0] - 1.5) < 0.15 and abs(some[:, 1].mean()) < 0.01
    score, mean = isotropy(draws.flatten(0, 1) @ turn)
    assert abs(score - 1.5) < 0.02 and abs(mean) < 1e-3
    shifted = draws.flatten(0, 1) @ turn + torch.tensor([0, 0, 3.0])
    second = turn.T @ torch.diag(torch.tensor([4.0, 1, 1])).double() @ turn
    second[2, 2] += 9
    score, mean = isotropy(shifted)
    assert abs(score - 3 * (second @ second).trace() / second.trace() ** 2) < 0.02 and abs(mean - 9 / 15) < 0.01
    assert all(math.isnan(value) for value in isotropy(draws[0, :1]))


@pytest.mark.parametrize("stride, kernel", [(1, 3), (2, 3), (2, 4), (3, 3)])
def test_the_frame_score_is_that_of_the_matrix(stride, kernel):
    """On a circle of pixels, W W^T basis vector by basis vector."""
    weight, side = torch.randn(5, 2, kernel, kernel, dtype=torch.float64), 12
    basis = torch.eye(2 * side**2, dtype=torch.float64).view(-1, 2, side, side)
    around = torch.nn.functional.pad(basis, (0, kernel - 1, 0, kernel - 1), mode="circular")
    matrix = torch.nn.functional.conv2d(around, weight, stride=stride).flatten(1)
    whole = matrix @ matrix.T
    expected = len(whole) * whole.pow(2).sum() / whole.trace() ** 2
    assert math.isclose(frame(weight, stride), expected, rel_tol=1e-12)


def test_a_tight_frame_scores_one():
    """An orthonormal basis of patches side by side; of a linear layer, more neurons than inputs."""
    patches = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0].view(12, 3, 2, 2)
    assert math.isclose(frame(patches, 2), 1) and frame(patches, 1) > 1 - 1e-12
    linear = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64))[0]
    assert math.isclose(frame(linear, 1), 1) and math.isclose(frame(torch.eye(4)[:1], 1), 4)


def test_only_uniform01_points_one_way():
    rank = {name: layer_stats(law.draw(SHAPE, 1, 1).flatten(1))["participation"] for name, law in LAWS.items()}
    assert all(rank[name] > 200 for name in ("gaussian", "ring", "uniform", "heavy_tailed"))
    assert layer_stats(Uniform01(Scale.mean, **PLAIN).draw(SHAPE, 1, 1).flatten(1))["participation"] < 2


def test_ring_is_the_normalised_gaussian_of_the_same_seed():
    g, r = (LAWS[name].draw(SHAPE, 5, 2).flatten(1) for name in ("gaussian", "ring"))
    assert torch.allclose(torch.nn.functional.cosine_similarity(g, r), torch.ones(800), atol=1e-6)
    norms = r.norm(dim=1) / math.sqrt(2)
    assert 0.95 - 1e-6 <= norms.min() < 0.96 and 1.04 < norms.max() <= 1.05 + 1e-6


def test_uniform_unscaled_is_the_interval():
    w = Uniform(Scale.none, **PLAIN).draw(SHAPE, 0, 1)
    assert -1 <= w.min() < -0.999 and 0.999 < w.max() <= 1


def test_anisotropic_channels_are_log_spaced():
    w = LAWS["anisotropic"].draw(torch.Size((4000, 3, 3, 3)), 0, 1)
    deviations = w.transpose(0, 1).flatten(1).std(dim=1)
    torch.testing.assert_close(deviations / deviations[0], torch.tensor([1.0, math.sqrt(10), 10.0]), rtol=0.03, atol=0)


def test_truncated_normal_is_truncated():
    z = LAWS["truncated_normal"].draw(SHAPE, 0, 1) * math.sqrt(64 * 9 / 2)
    assert z.abs().max() < 2.28 and z.abs().max() > 2.2  # 2 over the standard deviation .880 of what is left


def test_kaiming_uniform_is_torchs_reset():
    layer = torch.nn.Conv2d(64, 800, 3)
    w = KaimingUniform(True, **PLAIN).draw(SHAPE, 0, 1)
    bound = 1 / math.sqrt(64 * 9)
    assert abs(float(w.abs().max()) - bound) < 1e-4 * bound + 1e-6 and layer.weight.abs().max() <= bound
    assert math.isclose(float(w.std()), float(layer.weight.detach().std()), rel_tol=0.01)
    network = network_of(KaimingUniform(True, **PLAIN), tiny_model(), 0, torch.float32, no_images)
    assert all(op.module.bias.abs().max() > 0 for op in network.layers)
    network = network_of(KaimingUniform(False, **PLAIN), tiny_model(), 0, torch.float32, no_images)
    assert all(op.module.bias.abs().max() == 0 for op in network.layers)


def test_kaiming_normal_differs_from_it_by_the_shape_of_its_law_alone():
    normal, uniform = KaimingNormal(True, **PLAIN), KaimingUniform(True, **PLAIN)
    expected = torch.nn.init.kaiming_normal_(torch.empty(SHAPE), a=math.sqrt(5))
    w = normal.draw(SHAPE, 0, 1)
    assert math.isclose(float(w.std()), float(expected.std()), rel_tol=0.01)
    assert math.isclose(float(w.std()), float(uniform.draw(SHAPE, 0, 1).std()), rel_tol=0.01)
    assert abs(float((w / w.std()).pow(4).mean()) - 3) < 0.05  # 1.8 of a uniform law
    both = [network_of(law, tiny_model(), 0, torch.float32, no_images) for law in (normal, uniform)]
    for a, b in zip(*(network.layers for network in both), strict=True):
        assert torch.equal(a.module.bias, b.module.bias) and not torch.equal(a.module.weight, b.module.weight)


def test_each_layer_has_a_stream_of_its_own():
    law = Gaussian(**PLAIN)
    draws = [law.draw(torch.Size((2, 3, 3, 3)), seed, layer) for seed in (0, 1) for layer in (1, 2)]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    assert torch.equal(draws[0], law.draw(torch.Size((2, 3, 3, 3)), 0, 1))


def test_weights_are_pinned():
    """The same seed gives the same weights, now and later: tables of different machines can be compared."""
    w = Gaussian(**PLAIN).draw(torch.Size((64, 3, 3, 3)), 100, 1).flatten()
    torch.testing.assert_close(w[[0, 1, 100, 1727]], torch.tensor(PINNED), rtol=1e-5, atol=1e-6)


def test_random_states_have_zero_biases_and_no_batch_norm():
    network = network_of(Gaussian(**PLAIN), Torchvision("vgg11_bn", []), 7, torch.float64, no_images)
    assert all(op.module.bias is None or op.module.bias.abs().max() == 0 for op in network.layers)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.module.modules())
    assert torch.equal(
        network.layers[2].module.weight, Gaussian(**PLAIN).draw(network.layers[2].module.weight.shape, 7, 3).double()
    )


def normed():
    from tests import tiny

    return tiny.network(batch_norm=True)


def test_calibrated_batch_norm_whitens_channels():
    x = torch.randn(64, 3, 16, 16) * 3 + 1
    network = network_of(
        Gaussian(**PLAIN | {"batchnorm": BatchNormReset.calibrated}),
        tiny_model("tests.test_weights:normed"),
        0,
        torch.float64,
        lambda: x,
    )
    z = network.forward(x.double()).values[network.layers[0].output]
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.var((0, 2, 3), unbiased=False), torch.ones(8, dtype=torch.float64))
    assert network.layers[1].module.bias.abs().max() == 0  # no BatchNorm followed it


def test_checkpoint_of_a_batch_norm_network_is_folded(tmp_path):
    module = normed().eval()
    module[1].running_mean.normal_()
    module[1].running_var.uniform_(0.5, 2)
    torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}, tmp_path / "w.pt")
    network = network_of(
        Checkpoint(str(tmp_path / "w.pt"), []), tiny_model("tests.test_weights:normed"), 0, torch.float64, no_images
    )
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(network.forward(x).logits, module.double()(x))


# ---- pretrained: torchvision's cache, a local file, no network -----------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_pretrained_from_torchvisions_cache_and_from_a_file(cache, tmp_path):
    module = torchvision.models.squeezenet1_1(weights=None)
    name = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
    torch.save(module.state_dict(), cache / name)
    torch.save(module.state_dict(), tmp_path / "mine.pth")
    x = torch.randn(1, 3, 64, 64)
    for weights in (Pretrained("DEFAULT", None), Pretrained("IMAGENET1K_V1", str(tmp_path / "mine.pth"))):
        network = network_of(weights, Torchvision("squeezenet1_1", []), 0, torch.float32, no_images)
        torch.testing.assert_close(network.forward(x).logits, module.eval()(x), atol=1e-5, rtol=1e-4)


def test_pretrained_that_cant_be_downloaded(cache, monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        UserError,
        match=r"vgg16-397923af\.pth can't be downloaded .* put the file into .*checkpoints, or set weights.path",
    ):
        network_of(Pretrained("DEFAULT", None), Torchvision("vgg16", []), 0, torch.float32, no_images)
    with pytest.raises(UserError, match="IMAGENET1K_V1"):
        network_of(Pretrained("V7", None), Torchvision("vgg16", []), 0, torch.float32, no_images)


def test_a_cut_off_cache_file_is_named(cache):
    (cache / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"squeezenet1_1-b8a52dc0\.pth can't be read"):
        network_of(Pretrained("DEFAULT", None), Torchvision("squeezenet1_1", []), 0, torch.float32, no_images)


def test_the_pixel_bounds_follow_the_model():
    network = network_of(Gaussian(**PLAIN), tiny_model(), 0, torch.float32, no_images)
    record = network.forward(torch.rand(2, 3, 16, 16) * 4 - 2)
    assert network.bounds is not None and network.bounds[0].flatten().tolist() == [-2, -2, -2]
    assert attribute(record, rule("dtd", start_at="logit"), bottom=True).isfinite().all()


@pytest.fixture
def trained(tmp_path) -> str:
    """A checkpoint of the tiny network (conv, conv, linear; L = 3) with weights and biases of its own."""
    file = str(tmp_path / "trained.pt")
    torch.save({k: torch.randn_like(v) for k, v in tiny_model().build().state_dict().items()}, file)
    return file


@pytest.mark.parametrize(
    "part, depth, drawn",
    [("top", 2, {2, 3}), ("bottom", 1, {1}), ("single", 2, {2}), ("top", 0, set()), ("top", None, {1, 2, 3})],
)
def test_a_law_touches_the_layers_it_is_told_to(trained, part, depth, drawn):
    law = Gaussian(**PLAIN | {"base": trained, "depth": depth, "part": Part(part)})
    network, before = network_of(law, tiny_model(), 5, torch.float32, no_images), torch.load(trained)
    for number, op in enumerate(network.layers, start=1):
        weight, bias = op.module.weight, op.module.bias
        if number in drawn:
            assert torch.equal(weight, law.draw(weight.shape, 5, number)) and not bias.any()
        else:
            assert torch.equal(weight, before[f"{op.where}.weight"]) and torch.equal(bias, before[f"{op.where}.bias"])
    whole = network_of(original(law), tiny_model(), 5, torch.float32, no_images)
    assert all(torch.equal(whole.module.state_dict()[k], v) for k, v in before.items())


def test_a_depth_that_there_is_not_is_refused(trained):
    for settings, words in (
        ({"depth": 4}, "weights.depth=4 .* L = 3"),
        ({"depth": -1}, "weights.depth=-1"),
        ({"part": Part.single}, "set weights.depth"),
        ({"depth": 0, "part": Part.single}, "weights.depth=0"),
    ):
        with pytest.raises(UserError, match=words):
            network_of(Gaussian(**PLAIN | {"base": trained} | settings), tiny_model(), 5, torch.float32, no_images)


def test_layers_that_are_not_touched_are_gaussian_without_a_base():
    law = Uniform(Scale.he, **PLAIN | {"depth": 1})
    network = network_of(law, tiny_model(), 5, torch.float32, no_images)
    for number, op in enumerate(network.layers, start=1):
        drawn = (law if number == 3 else Gaussian(**PLAIN)).draw(op.module.weight.shape, 5, number)
        assert torch.equal(op.module.weight, drawn)


REMOVAL = {
    "inputs": 0.0025,
    "kernel": Kernel.first,
    "keep_biases": False,
    "places": Places.pattern,
    "layers": Touched.all,
    **PLAIN,
}


def test_removal_keeps_what_the_paper_says():
    law = Removal(**REMOVAL)
    linear = law.keeps(torch.Size((7, 4096)), 1, 3)
    assert (
        linear.sum(1).tolist() == [10] * 7 and (linear == linear[0]).all()
    )  # round(.0025 x 4096), the same for all outputs
    assert not torch.equal(linear, law.keeps(torch.Size((7, 4096)), 2, 3))
    assert law.keeps(torch.Size((2, 100)), 1, 1).sum(1).tolist() == [1, 1]
    kernel = law.keeps(torch.Size((4, 3, 3, 3)), 1, 1)
    assert torch.equal(kernel, torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 0]]).bool().expand(4, 3, 3, 3))
    assert law.keeps(torch.Size((4, 3, 1, 1)), 1, 1).all()
    patterns = {
        Kernel.middle: [[0, 1, 0], [1, 1, 1], [0, 1, 0]],
        Kernel.last: [[0, 0, 1], [0, 0, 1], [1, 1, 1]],
    }
    for name, pattern in patterns.items():
        found = Removal(**REMOVAL | {"kernel": name}).keeps(torch.Size((4, 3, 3, 3)), 1, 1)
        assert torch.equal(found, torch.tensor(pattern).bool().expand(4, 3, 3, 3))
    shared = Removal(**REMOVAL | {"kernel": Kernel.shared_random})
    places = [shared.keeps(torch.Size((4, 3, 3, 3)), seed, layer) for seed in range(5) for layer in (1, 2)]
    assert all((one == one[0, 0]).all() and one[0, 0].sum() == 5 for one in places)
    assert len({str(one[0, 0].tolist()) for one in places}) > 5, "each layer and seed has its own"
    assert Removal(**REMOVAL | {"kernel": Kernel.corner}).keeps(torch.Size((4, 3, 3, 3)), 1, 1).sum() == 12
    thinned = Removal(**REMOVAL | {"places": Places.random})
    for shape in ((7, 4096), (4, 3, 3, 3)):
        places = thinned.keeps(torch.Size(shape), 1, 1)
        assert places.shape == shape and places.sum() == law.keeps(torch.Size(shape), 1, 1).sum()
        assert not torch.equal(places, law.keeps(torch.Size(shape), 1, 1))
    with pytest.raises(ValueError, match="share"):
        Removal(**REMOVAL | {"inputs": 0.0})


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_removal_of_one_kind_of_layers_leaves_the_others(trained, kind):
    before = torch.load(trained)
    law = Removal(**REMOVAL | {"base": trained, "depth": None, "layers": Touched(kind)})
    network = network_of(law, tiny_model(), 1, torch.float32, no_images)
    touched = 0
    for op in network.layers:
        same = torch.equal(op.module.weight, before[f"{op.where}.weight"])
        assert same == ((op.module.weight.ndim == 2) != (kind == "linear"))
        assert torch.equal(op.module.bias, before[f"{op.where}.bias"]) == same
        touched += not same
    assert 0 < touched < len(network.layers)


def test_removal_leaves_trained_weights_where_it_keeps_them(trained):
    before = torch.load(trained)
    for keep in (False, True):
        law = Removal(**REMOVAL | {"base": trained, "depth": 2, "keep_biases": keep})
        network = network_of(law, tiny_model(), 1, torch.float32, no_images)
        for number, op in enumerate(network.layers, start=1):
            weight, kept = (
                before[f"{op.where}.weight"],
                law.keeps(op.module.weight.shape, 1, number) if number > 1 else 1,
            )
            assert torch.equal(op.module.weight, weight * kept)
            assert torch.equal(op.module.bias, before[f"{op.where}.bias"] * (keep or number == 1))


def test_the_original_decision_is_explained(cell, trained):
    modified = ("weights=removal", f"weights.base={trained}", "weights.depth=2")
    targets = {}
    for name, args in {
        "own": modified,
        "original": (*modified, "target=original"),
        "base": ("weights=checkpoint", f"weights.path={trained}"),
    }.items():
        targets[name] = list(pd.read_parquet(cell(*args).made[-1]).drop_duplicates("image")["target"])
    assert targets["original"] == targets["base"] != targets["own"]
