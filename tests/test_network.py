import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from pipeline.engine.network import trace
from pipeline.engine.rules import GRAD
from pipeline.engine.walk import attribute
from pipeline.errors import UserError
from pipeline.networks.catalogue import vgg_layer_names
from pipeline.oracles import peers
from tests.models import NETS, Net, conv, images, plain, residual, seeded


@pytest.mark.parametrize("name", NETS)
def test_forward_and_module_compute_the_model(name):
    model, x = seeded(NETS[name]), images()
    expected = model(x.clone())
    network = trace(model)
    torch.testing.assert_close(network.forward(x).logits, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network.module(x.clone()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_forward_leaves_x(name):
    x = images()
    trace(seeded(NETS[name])).forward(x)
    assert torch.equal(x, images())


def fingerprint(model: nn.Module) -> tuple:
    flags = [
        (n, m.training, getattr(m, "inplace", None), getattr(m, "return_indices", None), len(m._forward_hooks))
        for n, m in model.named_modules()
    ]
    return flags, [p.requires_grad for p in model.parameters()], repr(model)


@pytest.mark.parametrize("name", NETS)
def test_trace_leaves_the_model(name):
    model = seeded(NETS[name]).train()
    state, before = copy.deepcopy(model.state_dict()), fingerprint(model)
    network = trace(model)
    network.forward(images())
    attribute(network.forward(images()), GRAD)
    with torch.no_grad():
        for p in network.module.parameters():
            p.zero_()
    assert fingerprint(model) == before
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_vgg16_units():
    with torch.device("meta"):
        model = torchvision.models.vgg16()
        network = trace(model, names=vgg_layer_names(model))
        record = network.forward(torch.empty(1, 3, 32, 32))
    names = [f"conv{block}_{i}" for block, size in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, size + 1)] + [
        "fc6",
        "fc7",
        "fc8",
    ]
    assert network.depth == 16
    assert [network.unit_name(layer) for layer in range(1, 17)] == names
    kinds = {op.output: op.kind for op in network.ops}
    assert all(kinds[end] == "relu" for end in network.ends[1:16])
    assert record.activation(2).shape == (1, 64, 32, 32)  # before the pool
    assert record.activation(3).shape == (1, 128, 16, 16)
    assert record.activation(16).shape == (1, 1000)


def test_activations_are_relu_outputs_before_pools():
    model, x = seeded(plain), images()
    record = trace(model).forward(x)
    for layer, stop in enumerate((0, 2, 5, 9, 11)):
        torch.testing.assert_close(record.activation(layer), model[:stop](x), rtol=1e-12, atol=1e-12)


def test_resnet18_units():
    model = seeded(lambda: torchvision.models.resnet18(num_classes=10))
    blocks = [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)]
    network, x = trace(model), images(2, (3, 33, 33))
    assert network.depth == 10
    assert [network.unit_name(layer) for layer in range(1, 11)] == ["conv1", *blocks, "fc"]
    expected = [x, F.relu(model.bn1(model.conv1(x)))]
    value = model.maxpool(expected[1])
    for name in blocks:
        value = model.get_submodule(name)(value)
        expected.append(value)
    record = network.forward(x)
    for layer, a in enumerate([*expected, model(x)]):
        torch.testing.assert_close(record.activation(layer), a, rtol=1e-9, atol=1e-9)


def test_units_end_where_branches_meet():
    network = trace(seeded(residual))
    assert [{op.where for op in network.unit(layer) if op.kind == "conv"} for layer in (1, 2, 3)] == [
        {"a"},
        {"b1", "b2"},
        {"c1", "c2", "shortcut"},
    ]


def test_only_layers_on_the_input_are_first():
    assert [op.where for op in trace(seeded(NETS["added_in_place"])).layers if op.first] == ["a", "b"]
    assert [op.where for op in trace(seeded(residual)).layers if op.first] == ["a"]


def test_names():
    network = trace(seeded(plain), names=["one", "two", "three", "four"])
    assert [network.unit_name(layer) for layer in range(1, 5)] == ["one", "two", "three", "four"]


def test_dropped_batch_norm_is_the_identity():
    model, x = seeded(NETS["normalised"]), images()
    without = copy.deepcopy(model)
    for i, module in enumerate(model):
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            without[i] = nn.Identity()
    torch.testing.assert_close(trace(model, batch_norm="drop").forward(x).logits, without(x), rtol=1e-12, atol=1e-12)


def branch(m, x):
    x = m.a(x)
    return m.fc((x if x.sum() > 0 else -x).mean((2, 3)))


def pooled(x):
    return x.mean((2, 3))


# what is not known, and what the message must name: the operation and where it stands
UNKNOWN = {
    "function": (lambda m, x: m.fc(pooled(torch.sigmoid(m.a(x)))), {}, ("sigmoid",)),
    "method": (lambda m, x: m.fc(pooled(m.a(x).clamp(min=0))), {}, ("clamp",)),
    "module": (lambda m, x: m.fc(pooled(m.norm(m.a(x)))), {"norm": nn.GroupNorm(2, 4)}, ("GroupNorm", "norm")),
    "nested": (
        lambda m, x: m.fc(pooled(m.inner(m.a(x)))), {"inner": nn.Sequential(nn.ReLU(), nn.Tanh())}, ("Tanh", "inner.1"),
    ),
    "in a submodule's forward": (
        lambda m, x: m.fc(pooled(m.inner(m.a(x)))), {"inner": Net(lambda m, x: torch.tanh(x))}, ("tanh", "inner"),
    ),
    "leaky": (lambda m, x: m.fc(pooled(m.act(m.a(x)))), {"act": nn.LeakyReLU()}, ("LeakyReLU", "act")),
    "transposed": (
        lambda m, x: m.fc(pooled(m.up(m.a(x)))), {"up": nn.ConvTranspose2d(4, 4, 3)}, ("ConvTranspose2d", "up"),
    ),
    "reflected": (
        lambda m, x: m.fc(pooled(m.wide(m.a(x)))), {"wide": conv(4, 4, padding_mode="reflect")}, ("Conv2d", "wide"),
    ),
    "BatchNorm on x": (lambda m, x: m.fc(pooled(m.a(m.norm(x)))), {"norm": nn.BatchNorm2d(3)}, ("BatchNorm", "norm")),
    "BatchNorm after a ReLU": (
        lambda m, x: m.fc(pooled(m.norm(F.relu(m.a(x))))), {"norm": nn.BatchNorm2d(4)}, ("BatchNorm", "norm"),
    ),
    "product": (lambda m, x: m.fc(pooled(m.a(x) * m.a(x))), {}, ("mul",)),
    "gate": (lambda m, x: (lambda h: m.fc(pooled(h + h * h)))(m.a(x)), {}, ("mul",)),
    "scaled": (lambda m, x: m.fc(pooled(m.a(x) * 2)), {}, ("mul",)),
    "slice": (lambda m, x: m.fc(pooled(m.a(x)[:, :, 1:])), {}, ("getitem",)),
    "constant": (lambda m, x: m.fc(pooled(m.a(x) + 1)), {}, ("add",)),
    "weighted sum": (lambda m, x: m.fc(pooled(torch.add(m.a(x), m.a(x), alpha=2))), {}, ("add",)),
    "broadcast": (
        lambda m, x: (lambda h: m.fc(pooled(h + h.mean((2, 3), keepdim=True))))(m.a(x)), {}, ("broadcast", "add"),
    ),
    "filled pad": (lambda m, x: m.fc(pooled(m.a(F.pad(x, (1, 1), value=1.0)))), {}, ("pad",)),
    "even same": (lambda m, x: m.fc(pooled(m.even(m.a(x)))), {"even": conv(4, 4, 2, padding="same")}, ("same", "even")),
    "control flow": (branch, {}, ("control flow",)),
    "parameter": (lambda m, x: m.fc(pooled(m.a(x))) + m.fc.bias, {}, ("fc.bias",)),
    "two outputs": (lambda m, x: (m.fc(pooled(m.a(x))), x), {}, ("more than one",)),
    "no layer": (lambda m, x: pooled(F.relu(x)), {}, ("no convolution or linear layer",)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_operations_are_refused_by_name(case):
    run, modules, words = UNKNOWN[case]
    model = seeded(lambda: Net(run, a=conv(3, 4), fc=nn.Linear(4, 5), **modules))
    with pytest.raises(UserError) as error:
        attribute(trace(model).forward(images()), GRAD)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_submodules_may_be_named_like_operations():
    def run(m, x):
        h = m.a(x)
        h = m.add_(h.relu() + h)
        return m.fc(m.view(m.relu_(m.b(m.relu(h)))))

    named = {"relu": nn.ReLU(inplace=True), "relu_": nn.ReLU(), "add_": conv(4, 4), "view": nn.Flatten()}
    model, x = seeded(lambda: Net(run, a=conv(3, 4), b=conv(4, 4), fc=nn.Linear(4 * 13 * 11, 5), **named)), images()
    expected = model(x)
    network = trace(model)
    torch.testing.assert_close(network.forward(x).logits, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network.module(x), expected, rtol=1e-12, atol=1e-12)


def test_operations_may_take_keywords():
    def run(m, x):
        h = m.a(input=x)
        F.relu(input=h, inplace=True)
        h = m.b(h)
        m.relu(input=h)
        h = torch.add(h, h)
        torch.relu_(input=h)
        return m.fc(torch.flatten(input=F.max_pool2d(input=h, kernel_size=2), start_dim=1))

    model, x = (
        seeded(lambda: Net(run, a=conv(3, 4), b=conv(4, 4), relu=nn.ReLU(inplace=True), fc=nn.Linear(4 * 6 * 5, 5))),
        images(),
    )
    expected = model(x)
    try:
        record = trace(model).forward(x)
    except UserError:
        return
    torch.testing.assert_close(record.logits, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        attribute(record, GRAD), peers.autograd(model, x, expected.argmax(1)), rtol=1e-10, atol=1e-13
    )


VIEWS = {
    "of the overwritten": lambda m, h: (h.flatten(1), F.relu_(h))[0],
    "overwritten": lambda m, h: (F.relu_(h.flatten(1)), h.flatten(1))[1],
    "overwritten, read alone": lambda m, h: F.relu_(h.flatten(1)),
}


@pytest.mark.parametrize("case", VIEWS)
def test_in_place_through_a_view_is_right_or_refused(case):
    model, x = (
        seeded(lambda: Net(lambda m, x: m.fc(VIEWS[case](m, m.a(x))), a=conv(3, 1), fc=nn.Linear(143, 5))),
        images(),
    )
    expected = model(x)
    try:
        logits = trace(model).forward(x).logits
    except UserError:
        return
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


def test_two_inputs_are_refused():
    with pytest.raises(UserError, match="more than one input"):
        trace(TwoInputs())
