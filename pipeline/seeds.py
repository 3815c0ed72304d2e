"""Seeds derived from integers and names: every random number has a key, none depends on what was drawn before."""

import hashlib

import numpy as np
import torch
from torch import Tensor


def derived_seed(*key: int) -> int:
    """A 63-bit seed from integers, well mixed."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def name_seed(name: str) -> int:
    """A 63-bit seed from a name, such as an image's."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def keyed(*key: int) -> torch.Generator:
    """A generator of its own for each key."""
    return torch.Generator().manual_seed(derived_seed(*key))


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)
