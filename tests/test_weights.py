import math
from urllib.error import URLError

import pytest
import torch
import torchvision

from pipeline.api import rule
from pipeline.errors import UserError
from pipeline.experiments.weight_stats import layer_stats
from pipeline.metrics import isotropy
from pipeline.models import Own, Torchvision
from pipeline.walk import attribute
from pipeline.weights import (
    Anisotropic,
    BatchNormReset,
    Checkpoint,
    Gaussian,
    HeavyTailed,
    KaimingUniform,
    Pretrained,
    Ring,
    Scale,
    TruncatedNormal,
    Uniform,
    Uniform01,
    network_of,
)

IDENTITY = BatchNormReset.identity
SHAPE = torch.Size((800, 64, 3, 3))
PINNED = [0.2295478, 0.0231089, -0.018585, 0.1139904]  # weight seed 100, the first layer of VGG16
LAWS = {
    "gaussian": Gaussian(IDENTITY),
    "ring": Ring(0.05, IDENTITY),
    "uniform": Uniform(Scale.he, IDENTITY),
    "truncated_normal": TruncatedNormal(IDENTITY),
    "anisotropic": Anisotropic(10.0, IDENTITY),
    "heavy_tailed": HeavyTailed(3, IDENTITY),
}


def tiny_model(call: str = "tests.tiny:network") -> Own:
    return Own(call, 16, 16, [0.5] * 3, [0.25] * 3)


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
    assert all(abs(scores[name]) <= 0.02 for name in ("gaussian", "ring", "heavy_tailed"))
    assert all(abs(scores[name]) >= 0.1 for name in ("uniform", "anisotropic"))
    assert isotropy(Uniform01(Scale.mean, IDENTITY).draw(SHAPE, 1, 1).flatten(1)) < -0.1


def test_only_uniform01_points_one_way():
    rank = {name: layer_stats(law.draw(SHAPE, 1, 1).flatten(1))["participation"] for name, law in LAWS.items()}
    assert all(rank[name] > 200 for name in ("gaussian", "ring", "uniform", "heavy_tailed"))
    assert layer_stats(Uniform01(Scale.mean, IDENTITY).draw(SHAPE, 1, 1).flatten(1))["participation"] < 2


def test_ring_is_the_normalised_gaussian_of_the_same_seed():
    g, r = (LAWS[name].draw(SHAPE, 5, 2).flatten(1) for name in ("gaussian", "ring"))
    assert torch.allclose(torch.nn.functional.cosine_similarity(g, r), torch.ones(800), atol=1e-6)
    norms = r.norm(dim=1) / math.sqrt(2)
    assert 0.95 - 1e-6 <= norms.min() < 0.96 and 1.04 < norms.max() <= 1.05 + 1e-6


def test_uniform_unscaled_is_the_interval():
    w = Uniform(Scale.none, IDENTITY).draw(SHAPE, 0, 1)
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
    w = KaimingUniform(True, IDENTITY).draw(SHAPE, 0, 1)
    bound = 1 / math.sqrt(64 * 9)
    assert abs(float(w.abs().max()) - bound) < 1e-4 * bound + 1e-6 and layer.weight.abs().max() <= bound
    assert math.isclose(float(w.std()), float(layer.weight.detach().std()), rel_tol=0.01)
    network = network_of(KaimingUniform(True, IDENTITY), tiny_model(), 0, torch.float32, no_images)
    assert all(op.module.bias.abs().max() > 0 for op in network.layers)
    network = network_of(KaimingUniform(False, IDENTITY), tiny_model(), 0, torch.float32, no_images)
    assert all(op.module.bias.abs().max() == 0 for op in network.layers)


def test_each_layer_has_a_stream_of_its_own():
    law = Gaussian(IDENTITY)
    draws = [law.draw(torch.Size((2, 3, 3, 3)), seed, layer) for seed in (0, 1) for layer in (1, 2)]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    assert torch.equal(draws[0], law.draw(torch.Size((2, 3, 3, 3)), 0, 1))


def test_weights_are_pinned():
    """The same seed gives the same weights, now and later: tables of different machines can be compared."""
    w = Gaussian(IDENTITY).draw(torch.Size((64, 3, 3, 3)), 100, 1).flatten()
    torch.testing.assert_close(w[[0, 1, 100, 1727]], torch.tensor(PINNED), rtol=1e-5, atol=1e-6)


def test_random_states_have_zero_biases_and_no_batch_norm():
    network = network_of(Gaussian(IDENTITY), Torchvision("vgg11_bn"), 7, torch.float64, no_images)
    assert all(op.module.bias is None or op.module.bias.abs().max() == 0 for op in network.layers)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.module.modules())
    assert torch.equal(network.layers[2].module.weight, Gaussian(IDENTITY).draw(network.layers[2].module.weight.shape, 7, 3).double())


def normed():
    from tests import tiny

    return tiny.network(batch_norm=True)


def test_calibrated_batch_norm_whitens_channels():
    x = torch.randn(64, 3, 16, 16) * 3 + 1
    network = network_of(Gaussian(BatchNormReset.calibrated), tiny_model("tests.test_weights:normed"), 0, torch.float64, lambda: x)
    z = network.forward(x.double()).values[network.layers[0].output]
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.var((0, 2, 3), unbiased=False), torch.ones(8, dtype=torch.float64))
    assert network.layers[1].module.bias.abs().max() == 0  # no BatchNorm followed it


def test_checkpoint_of_a_batch_norm_network_is_folded(tmp_path):
    module = normed().eval()
    module[1].running_mean.normal_()
    module[1].running_var.uniform_(0.5, 2)
    torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}, tmp_path / "w.pt")
    network = network_of(Checkpoint(str(tmp_path / "w.pt"), []), tiny_model("tests.test_weights:normed"), 0, torch.float64, no_images)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(network.forward(x).logits, module.double()(x))


# ---- pretrained: torchvision's cache, a local file, no network ------------------------------------------------------------


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
        network = network_of(weights, Torchvision("squeezenet1_1"), 0, torch.float32, no_images)
        torch.testing.assert_close(network.forward(x).logits, module.eval()(x), atol=1e-5, rtol=1e-4)


def test_pretrained_that_cant_be_downloaded(cache, monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"vgg16-397923af\.pth can't be downloaded .* put the file into .*checkpoints, or set weights.path"):
        network_of(Pretrained("DEFAULT", None), Torchvision("vgg16"), 0, torch.float32, no_images)
    with pytest.raises(UserError, match="IMAGENET1K_V1"):
        network_of(Pretrained("V7", None), Torchvision("vgg16"), 0, torch.float32, no_images)


def test_a_cut_off_cache_file_is_named(cache):
    (cache / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"squeezenet1_1-b8a52dc0\.pth can't be read"):
        network_of(Pretrained("DEFAULT", None), Torchvision("squeezenet1_1"), 0, torch.float32, no_images)


def test_the_pixel_bounds_follow_the_model():
    network = network_of(Gaussian(IDENTITY), tiny_model(), 0, torch.float32, no_images)
    record = network.forward(torch.rand(2, 3, 16, 16) * 4 - 2)
    assert network.bounds is not None and network.bounds[0].flatten().tolist() == [-2, -2, -2]
    assert attribute(record, rule("dtd", start_at="logit"), bottom=True).isfinite().all()
