"""The network of Theorems 1 and 2, one hidden layer without biases, for the engine: f(x) = V sigma(W x)."""

import torch
from torch import Tensor, nn

from pipeline.engine.network import Network, trace


def shallow(weight: Tensor, readout: Tensor) -> Network:
    """A traced network of L = 2 layers, x (B, d) -> (B, C); weight: (K, d), a row per neuron; readout: (C, K). The
    tensors are used, not copied."""
    with torch.device("meta"):  # neither allocated nor initialised
        model = nn.Sequential(
            nn.Linear(weight.shape[1], len(weight), bias=False),
            nn.ReLU(),
            nn.Linear(len(weight), len(readout), bias=False),
        )
    network = trace(model)
    for op, value in zip(network.layers, (weight, readout), strict=True):
        op.module.weight = nn.Parameter(value, requires_grad=False)  # type: ignore[union-attr]
    return network
