"""The engine against autograd, Captum and Zennit, in float64."""

from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import Tensor, fx, nn
from torchvision.models.resnet import ResNet

from pipeline.engine.lrp import Add, AlphaBeta, FirstLayer, Start
from pipeline.engine.network import Network, Record, trace
from pipeline.engine.rules import GRAD, Gbp
from pipeline.engine.walk import attribute
from pipeline.oracles import peers
from tests.models import NETS, images, seeded

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = {"vgg16": 32, "vgg11_bn": 32, "alexnet": 64, "resnet18": 33}
LIBRARY = [
    "plain",
    "no_bias",
    "grouped",
    "pools",
    "average_pools",
    "normalised",
    "saturated",
]  # modules in a row, as Zennit wants them


@dataclass(frozen=True)
class Case:
    model: nn.Module
    network: Network
    record: Record
    target: Tensor

    @property
    def peer(self) -> nn.Module:
        """What Zennit gets: the folded module, in the form that it has a canonizer for."""
        if isinstance(self.model, torchvision.models.ResNet):
            return folded_resnet(self.model, self.network.module)
        return self.network.module


def folded_resnet(model: ResNet, folded: fx.GraphModule) -> ResNet:
    """The ResNet class, for whose blocks Zennit has a canonizer, with the weights after folding."""
    model = peers.twin(model)  # type: ignore[assignment]
    for name, m in list(model.named_modules()):
        if isinstance(m, nn.Conv2d):
            model.set_submodule(name, folded.get_submodule(name))
        elif isinstance(m, nn.BatchNorm2d):
            model.set_submodule(name, nn.Identity())
    return model


def case_of(model: nn.Module, x: Tensor) -> Case:
    network = trace(model, mean=MEAN, std=STD)
    record = network.forward(x)
    return Case(model, network, record, record.logits.argmin(1))  # argmin: logits below 0


def library(name: str) -> nn.Module:
    """torchvision's network with 10 classes; 256 units for 4096 between its linear layers, which only cost time."""
    model = torchvision.models.get_model(name, num_classes=10)
    for path, m in list(model.named_modules()):
        if isinstance(m, nn.Linear):
            narrow = (256 if width == 4096 else width for width in (m.in_features, m.out_features))
            model.set_submodule(path, nn.Linear(*narrow))
    return model


@pytest.fixture(scope="module", params=SIZES)
def case(request) -> Case:
    return case_of(seeded(lambda: library(request.param)), images(2, (3, SIZES[request.param], SIZES[request.param])))


@pytest.fixture(scope="module", params=LIBRARY)
def small(request) -> Case:
    return case_of(seeded(NETS[request.param]), images())


def distance(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape and b.isfinite().all() and b.norm() > 0
    return float((a - b).norm() / b.norm())


def box() -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (0 - mean) / std, (1 - mean) / std


def lrp(case: Case, bottom: FirstLayer, start: Start) -> Tensor:
    rule = AlphaBeta(alpha=1.0, first_layer=FirstLayer.plain, bottom=bottom, start_at=start, add_by=Add.proportional)
    return attribute(case.record, rule, case.target, bottom=True)


def test_grad(case):
    assert distance(case.record.logits, case.model(case.record.x).detach()) < 1e-10
    assert (
        distance(attribute(case.record, GRAD, case.target), peers.autograd(case.model, case.record.x, case.target))
        < 1e-10
    )


def test_gbp(case):
    r = attribute(case.record, Gbp(), case.target)
    assert distance(r, peers.captum_gbp(case.network.module, case.record.x, case.target)) < 1e-10
    assert distance(r, peers.zennit_gbp(case.network.module, case.record.x, case.target)) < 1e-10


def test_lrp(case):
    assert (
        distance(
            lrp(case, FirstLayer.split, Start.unit), peers.zennit_lrp(case.peer, case.record.x, case.target, "unit")
        )
        < 1e-9
    )


def test_dtd(case):
    assert (
        distance(
            lrp(case, FirstLayer.zbox, Start.logit),
            peers.zennit_lrp(case.peer, case.record.x, case.target, "logit", box()),
        )
        < 1e-9
    )


def test_gbp_on_small_nets(small):
    if any(isinstance(m, nn.ReLU6) for m in small.model.modules()):
        pytest.skip("neither library takes a ReLU6 for a ReLU")
    r = attribute(small.record, Gbp(), small.target)
    assert distance(r, peers.captum_gbp(small.network.module, small.record.x, small.target)) < 1e-10
    assert distance(r, peers.zennit_gbp(small.network.module, small.record.x, small.target)) < 1e-10


@pytest.mark.parametrize("start", Start)
def test_lrp_on_small_nets(small, start):
    assert (
        distance(
            lrp(small, FirstLayer.split, start), peers.zennit_lrp(small.peer, small.record.x, small.target, start.value)
        )
        < 1e-9
    )


@pytest.mark.parametrize("start", Start)
def test_dtd_on_small_nets(small, start):
    assert (
        distance(
            lrp(small, FirstLayer.zbox, start),
            peers.zennit_lrp(small.peer, small.record.x, small.target, start.value, box()),
        )
        < 1e-9
    )
