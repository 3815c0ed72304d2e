"""Top layers removed, thinned, or drawn anew (Fig. 5)."""

from pipeline.claims.contrasts import gaps
from pipeline.claims.evidence import Part, Range, alike, at_least, at_most, mean
from pipeline.claims.registry import Tables, claim
from pipeline.measures.tables import where


def between(tables: Tables, first: str, second: str, value: str, target: Range) -> list[Part]:
    return gaps(tables[first], tables[second], value, target, f", {first} - {second}")


@claim("removal-align", "drawn", "thinned", "removed")
def removing_breaks_alignment(tables: Tables) -> list[Part]:
    """Networks that removal leaves dead have no map: they are missing."""
    return [
        part
        for first in ("drawn", "thinned")
        for part in between(tables, first, "removed", "alignment", at_least(0.05))
    ]


@claim("removal-map", "drawn", "removed")
def removing_changes_the_map(tables: Tables) -> list[Part]:
    return between(tables, "drawn", "removed", "similarity", at_least(0.1))


@claim("random-keeps", "trained_maps", "drawn")
def drawing_anew_keeps_alignment(tables: Tables) -> list[Part]:
    return between(tables, "trained_maps", "drawn", "alignment", alike())


@claim("prior-invariant", "removed")
def the_top_shows(tables: Tables) -> list[Part]:
    return [mean("lrp", where(tables["removed"], rule="lrp"), "similarity", at_most(0.8))]
