"""How random weights get into a network: streams of random numbers, one per layer, and what to do with the draw."""

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.engine.network import Network, Op
from pipeline.seeds import derived_seed

WEIGHT, EXTRA = 0, 1  # streams of one layer: its weights, and whatever else a law draws


def stream(seed: int, layer: int, purpose: int = WEIGHT) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, layer, purpose))


def fan_in(shape: Iterable[int]) -> int:
    """Inputs of one neuron: in / groups x kernel height x kernel width."""
    return math.prod(tuple(shape)[1:])


def he(shape: Iterable[int]) -> float:
    """He's standard deviation, sqrt(2 / fan_in): keeps the scale of activations through a ReLU network."""
    return math.sqrt(2 / fan_in(shape))


def standard_normal(shape: Iterable[int], seed: int, layer: int) -> Tensor:
    return torch.randn(tuple(shape), generator=stream(seed, layer))


def unit_interval(shape: Iterable[int], seed: int, layer: int) -> Tensor:
    return torch.rand(tuple(shape), generator=stream(seed, layer))


class Law(Protocol):
    """What randomise asks of a law (laws.py)."""

    def weight(self, old: Tensor, seed: int, layer: int) -> Tensor: ...
    def bias(self, old: Tensor, shape: torch.Size, seed: int, layer: int) -> Tensor: ...


@torch.no_grad()
def randomise(network: Network, law: Law, seed: int, layers: Iterable[int]) -> None:
    """Give these layers (numbers of conv and linear layers from 1) the weights and biases that a law draws, or
    leaves."""
    chosen = set(layers)
    for number, op in enumerate(network.layers, start=1):
        if number in chosen:
            module: Any = op.module
            shape, bias = module.weight.shape, module.bias
            set_parameter(module, "weight", law.weight(module.weight, seed, number))
            if bias is not None:
                set_parameter(module, "bias", law.bias(bias, shape, seed, number))


def set_parameter(module: Any, name: str, value: Tensor) -> None:
    """Replace a parameter, keeping its precision, device and memory layout; the value is taken over where it has
    these."""
    old = getattr(module, name)
    alike = value.dtype == old.dtype and value.device == old.device and value.stride() == old.stride()
    if not alike or value.untyped_storage().data_ptr() == old.untyped_storage().data_ptr():
        value = torch.empty_like(old, memory_format=torch.preserve_format).copy_(value)
    setattr(module, name, nn.Parameter(value.detach(), requires_grad=False))


@torch.no_grad()
def calibrate(network: Network, x: Tensor, layers: Iterable[int] | None) -> None:
    """Give these layers (None: all), where they had a BatchNorm, outputs of mean 0 and variance 1 per channel on the
    batch x, in order, by their own weights."""
    chosen = {op.output for number, op in enumerate(network.layers, start=1) if layers is None or number in set(layers)}

    def visit(op: Op, value: Any) -> Any:
        if op.output not in chosen or not op.norm:
            return value
        module: Any = op.module
        if module.bias is None:
            module.bias = nn.Parameter(value.new_zeros(value.shape[1]), requires_grad=False)
        axes, channels = (0, *range(2, value.ndim)), (1, -1, *[1] * (value.ndim - 2))
        mean, deviation = value.mean(axes), value.var(axes, unbiased=False).sqrt().clamp(min=1e-12)
        module.weight.div_(deviation.view(-1, *[1] * (module.weight.ndim - 1)))
        module.bias.sub_(mean).div_(deviation)
        return (value - mean.view(channels)) / deviation.view(channels)

    network.forward(x, visit)
