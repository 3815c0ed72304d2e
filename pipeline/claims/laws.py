"""Weight law against weight law (Fig. 4)."""

from pipeline.claims.contrasts import gaps, last, over_levels
from pipeline.claims.evidence import Part, Range, alike, at_least, at_most
from pipeline.claims.registry import Tables, claim


def between(tables: Tables, first: str, second: str, target: Range) -> list[Part]:
    """first - second of the mean over N, each rule."""
    one, other = (over_levels(tables[law]) for law in (first, second))
    return gaps(one, other, "alignment", target, f", {first} - {second}")


@claim("gauss~ring", "gaussian", "ring")
def ring_is_like_gaussian(tables: Tables) -> list[Part]:
    return between(tables, "gaussian", "ring", alike())


@claim("uniform-he", "gaussian", "ring", "uniform")
def uniform_is_worse(tables: Tables) -> list[Part]:
    return [part for law in ("gaussian", "ring") for part in between(tables, law, "uniform", at_least(0.05))]


@claim("uniform-raw", "gaussian", "ring", "uniform_raw")
def literal_uniform_is_worse(tables: Tables) -> list[Part]:
    """By the naive cosine of float32, 0 where it overflows."""
    raw = tables["uniform_raw"]
    naive = {**tables, "uniform_raw": raw.assign(alignment=raw["alignment_naive"].astype(float).fillna(0))}
    return [part for law in ("gaussian", "ring") for part in between(naive, law, "uniform_raw", at_least(0.05))]


@claim("aniso", "gaussian", "anisotropic")
def anisotropic_is_worse(tables: Tables) -> list[Part]:
    return between(tables, "gaussian", "anisotropic", at_least(0.05))


@claim("heavy-tail", "gaussian", "heavy_tailed")
def tails_do_not_matter(tables: Tables) -> list[Part]:
    return between(tables, "gaussian", "heavy_tailed", alike())


@claim("prior-gauss", "gaussian", "ring")
def gaussian_is_not_best(tables: Tables) -> list[Part]:
    return [part for part in between(tables, "gaussian", "ring", at_most(0.02)) if part.name.startswith("gbp")]


@claim("uniform-colour", "gaussian", "ring", "uniform")
def uniform_distorts_colour(tables: Tables) -> list[Part]:
    uniform, target = last(tables["uniform"]), at_least(0.05)
    return [
        part
        for law in ("gaussian", "ring")
        for part in gaps(last(tables[law]), uniform, "alignment_chroma", target, f", {law} - uniform")
    ]
