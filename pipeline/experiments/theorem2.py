"""Theorem 2: over orthogonal weights of equal norms, r along A aligns at least as well as i.i.d. r, (18); when does
equality hold, and how far do the conditions bend?"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.network import Network, Record
from pipeline.engine.walk import walk
from pipeline.experiments.interface import Result
from pipeline.measures.maps import alignment
from pipeline.networks.shallow import shallow
from pipeline.seeds import keyed, normal

ROUNDING = 1e-9  # of a cosine in float64
DECIMALS = 12  # of pre-activations: some are made equal, and RectGrad would tell them apart by their rounding
LAWS: dict[str, Callable[..., Tensor]] = {
    "normal": lambda shape, g: normal(g, *shape),
    "exponential": lambda shape, g: torch.empty(shape, dtype=torch.float64).exponential_(generator=g),
    "constant": lambda shape, g: torch.ones(shape, dtype=torch.float64),  # i.i.d. too, and the mean of a positive law
}
# What the pre-activations are where x is made for them: (on which units, are all A > 0 equal) -> from a normal (B, K).
CASES: dict[tuple[str, bool], Callable[[Tensor], Tensor]] = {
    ("all", False): torch.abs,
    ("all", True): torch.ones_like,
    ("active", True): torch.sign,
}
NET, GENERIC, INPUT, BACKWARD = 0, 1, 2, 3  # streams
COLUMNS = [
    "mixing", "spread", "net", "input", "units", "equal", "law", "draws", "alpha_a", "alpha_b", "defined", "holds",
    "equality",
]  # fmt: skip


@dataclass(frozen=True)
class Options:
    """nets x inputs: cases of each setting; neurons, dim: K <= d; mixing: shares of a random matrix in the orthogonal
    one; spread: SDs of the log norms, each knob alone; laws: of r_b; draws: over exact weights, of how many draws the
    mean is r_b; seed: of everything."""

    nets: int
    inputs: int
    neurons: int
    dim: int
    mixing: list[float]
    spread: list[float]
    laws: list[str]
    draws: list[int]
    seed: int

    def __post_init__(self):
        if not 1 <= self.neurons <= self.dim:
            raise ValueError("neurons must lie between 1 and dim: more vectors are never orthogonal")
        if unknown := [law for law in self.laws if law not in LAWS]:
            raise ValueError(f"there is no law {unknown[0]}; choose from {', '.join(LAWS)}")
        if not (self.mixing or self.spread) or not self.laws:
            raise ValueError("mixing, spread and laws are empty; give one at least")
        if 1 not in self.draws or min(self.draws) < 1:
            raise ValueError("draws must have 1, the theorem's own case, and nothing below")
        if (
            min(self.nets, self.inputs) < 1
            or min([*self.mixing, *self.spread], default=0) < 0
            or max(self.mixing, default=0) > 1
        ):
            raise ValueError("nets and inputs must be at least 1, mixing in [0, 1], spread at least 0")


def run(rules: Sequence[Rule], options: Options) -> list[Result]:
    """One table per rule, a row per case: COLUMNS.

    units: all (x activates every unit) or active (some); equal: all A of active units are; law: of r_b, the mean of
    so many `draws`; defined: neither R is 0; holds: (18), missing where that is not defined, as for RectGrad of equal
    A, of which none passes;
    equality: to 1e-9.
    """
    tables: list[list[pd.DataFrame]] = [[] for _ in rules]
    for mixing, spread in settings(options):
        for net in range(options.nets):
            w = hidden_weights(options, net, mixing, spread)
            z = normal(keyed(options.seed, net, INPUT), options.inputs, options.neurons)
            exact = mixing == spread == 0
            backward = means_of_draws(options.laws, options.draws if exact else [1], z.shape, options.seed, net)
            for units, equal, x in inputs(options, net, w, z):
                record = snapped(shallow(w, torch.ones(1, options.neurons, dtype=torch.float64)), x)
                facts = {
                    "mixing": mixing,
                    "spread": spread,
                    "net": net,
                    "input": range(options.inputs),
                    "units": units,
                    "equal": equal,
                }
                for (law, draws), r_b in backward.items():
                    for table, rule in zip(tables, rules, strict=True):
                        a, b = (
                            alignment(walk(record, r, lambda _, rule=rule: rule, top=1), x)
                            for r in (record.activation(1), r_b)
                        )
                        table.append(pd.DataFrame({**facts, "law": law, "draws": draws, **compared(a, b)}))
    return [Result(pd.concat(table, ignore_index=True)) for table in tables]


def means_of_draws(
    laws: Sequence[str], draws: Sequence[int], shape: torch.Size, seed: int, net: int
) -> dict[tuple[str, int], Tensor]:
    """By law and number of draws, of which the smaller ones are the first of the larger."""
    found = {}
    for law in laws:
        g = keyed(seed, net, BACKWARD, list(LAWS).index(law))
        drawn = torch.stack([LAWS[law](shape, g) for _ in range(max(draws))])
        found |= {(law, n): drawn[:n].mean(0) for n in draws}
    return found


def snapped(network: Network, x: Tensor) -> Record:
    """Its forward pass, in numbers of so many decimals."""
    return network.forward(x, lambda _, value: value.round(decimals=DECIMALS))


def settings(options: Options) -> list[tuple[float, float]]:
    """(mixing, spread), one of them 0."""
    return list(dict.fromkeys([(m, 0.0) for m in options.mixing] + [(0.0, s) for s in options.spread]))


def hidden_weights(options: Options, net: int, mixing: float, spread: float) -> Tensor:
    """(K, d): (1 - mixing) orthonormal rows + mixing random rows of norm 1, brought to norm 1 and then to log-normal
    norms of median 1."""
    g = keyed(options.seed, net, NET)
    q = torch.linalg.qr(normal(g, options.dim, options.neurons)).Q.T
    other = torch.nn.functional.normalize(normal(g, *q.shape))
    norms = torch.exp(spread * normal(g, len(q), 1))
    return torch.nn.functional.normalize((1 - mixing) * q + mixing * other) * norms


def inputs(options: Options, net: int, w: Tensor, z: Tensor) -> Iterator[tuple[str, bool, Tensor]]:
    """x (B, d) of each case: normal, which activates about half of the units; or with the pre-activations that the case
    asks for and as much at random outside the neurons' span. The cases of equal A: at exact weights only."""
    generic = normal(keyed(options.seed, net, GENERIC), len(z), options.dim)
    inverse = torch.linalg.pinv(w)  # (d, K)
    outside = generic - generic @ w.T @ inverse.T
    exact = torch.allclose(w @ w.T, torch.eye(len(w), dtype=w.dtype), atol=1e-12)
    yield "active", False, generic
    for (units, equal), activations in CASES.items():
        if exact or not equal:
            yield units, equal, activations(z) @ inverse.T + outside


def compared(a: Tensor, b: Tensor) -> dict[str, Any]:
    """alpha_a, alpha_b and what (18) says of them: nothing where an R is 0, for that has no alignment."""
    defined = ~(a.isnan() | b.isnan())
    return {
        "alpha_a": a,
        "alpha_b": b,
        "defined": defined,
        "holds": pd.Series((a >= b - ROUNDING).tolist(), dtype="boolean").where(defined.numpy()),
        "equality": (a - b).abs() <= ROUNDING,
    }
