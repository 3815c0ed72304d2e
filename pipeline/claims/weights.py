"""Orthogonality, norms and isotropy of weights (Fig. 2b, 2c), as stored (a reading: in the balanced gauge)."""

from collections.abc import Callable

from pipeline.claims.evidence import Part, at_least, exact
from pipeline.claims.registry import Tables, claim
from pipeline.measures.tables import Table

SWEEPS = ("random_weights", "trained_weights")


def beyond_every_seed(tables: Tables, value: Callable[[Table], Table], above: bool) -> list[Part]:
    """The share of layers in which the trained network's number lies beyond that of every random seed."""
    random, trained = (tables[f"{state}_weights"].assign(value=value) for state in ("random", "trained"))
    each = random.groupby("layer")["value"]
    extreme, own = (each.max() if above else each.min()), trained.groupby("layer")["value"].mean()
    beyond = (own > extreme) if above else (own < extreme)
    words = f"{len(beyond)} layers, {random['seed'].nunique()} seeds"
    return [exact("share of layers", beyond.mean(), at_least(0.8), words)]


@claim("ortho-trained", *SWEEPS)
def less_orthogonal(tables: Tables) -> list[Part]:
    return beyond_every_seed(tables, lambda t: t["cosine_abs_mean"], above=True)


@claim("norm-trained", *SWEEPS)
def less_equal_in_norm(tables: Tables) -> list[Part]:
    return beyond_every_seed(tables, lambda t: t["norm_std"] / t["norm_mean"], above=True)


@claim("iso-trained", *SWEEPS)
def less_isotropic(tables: Tables) -> list[Part]:
    return beyond_every_seed(tables, lambda t: t["participation"], above=False)
