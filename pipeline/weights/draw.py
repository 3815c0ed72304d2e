"""How random weights get into a network: streams of random numbers, one per layer, and what to do with the draw."""

import math
from collections.abc import Iterable
from typing import Any

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


@torch.no_grad()
def randomise(network: Network, law: Any, seed: int, layers: Iterable[int]) -> None:
    """Give these layers (numbers of conv and linear layers from 1) the weights that a law (laws.py) draws, or leave them what it keeps."""
    chosen = set(layers)
    for number, op in enumerate(network.layers, start=1):
        if number in chosen:
            module: Any = op.module
            shape = module.weight.shape
            set_parameter(
                module,
                "weight",
                law.draw(shape, seed, number)
                if hasattr(law, "draw")
                else module.weight * law.keeps(shape, seed, number),
            )
            if module.bias is not None and not getattr(law, "keep_biases", False):
                set_parameter(
                    module,
                    "bias",
                    law.draw_bias(shape, seed, number) if hasattr(law, "draw_bias") else torch.zeros(shape[0]),
                )


def set_parameter(module: Any, name: str, value: Tensor) -> None:
    """Replace a parameter, keeping its precision, device and memory layout."""
    old = getattr(module, name)
    new = torch.empty_like(old, memory_format=torch.preserve_format).copy_(value)
    setattr(module, name, nn.Parameter(new, requires_grad=False))


@torch.no_grad()
def calibrate(network: Network, x: Tensor, layers: Iterable[int] | None) -> None:
    """Give these layers (None: all), where they had a BatchNorm, outputs of mean 0 and variance 1 per channel on the batch x, in order,
    by their own weights."""
    chosen = {op.output for number, op in enumerate(network.layers, start=1) if layers is None or number in set(layers)}

    def visit(op: Op, value: Any) -> Any:
        if op.output not in chosen or not op.norm:
            return value
        if op.module.bias is None:  # type: ignore[union-attr]
            op.module.bias = nn.Parameter(value.new_zeros(value.shape[1]), requires_grad=False)  # type: ignore[union-attr]
        axes = (0, *range(2, value.ndim))
        mean, deviation = value.mean(axes), value.var(axes, unbiased=False).sqrt().clamp(min=1e-12)
        per_channel = lambda v: v.view(1, -1, *[1] * (value.ndim - 2))  # noqa: E731
        op.module.weight.div_(deviation.view(-1, *[1] * (op.module.weight.ndim - 1)))  # type: ignore[union-attr,operator]
        op.module.bias.sub_(mean).div_(deviation)  # type: ignore[union-attr,operator]
        return (value - per_channel(mean)) / per_channel(deviation)

    network.forward(x, visit)
