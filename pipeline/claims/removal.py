"""Top layers removed, thinned, or drawn anew (Fig. 5)."""

from pipeline.claims.contrasts import by_rule, minus
from pipeline.claims.evidence import Part, Range, alike, at_least, at_most, mean
from pipeline.claims.registry import Tables, claim
from pipeline.measures.tables import where


def gaps(tables: Tables, first: str, second: str, value: str, target: Range) -> list[Part]:
    return [
        mean(f"{rule}, {first} - {second}", minus(part, where(tables[second], rule=rule), value), value, target)
        for rule, part in by_rule(tables[first])
    ]


@claim("removal-align", "drawn", "thinned", "removed")
def removing_breaks_alignment(tables: Tables) -> list[Part]:
    """Networks that removal leaves dead have no map: they are missing."""
    return [
        part for first in ("drawn", "thinned") for part in gaps(tables, first, "removed", "alignment", at_least(0.05))
    ]


@claim("removal-map", "drawn", "removed")
def removing_changes_the_map(tables: Tables) -> list[Part]:
    return gaps(tables, "drawn", "removed", "similarity", at_least(0.1))


@claim("random-keeps", "trained_maps", "drawn")
def drawing_anew_keeps_alignment(tables: Tables) -> list[Part]:
    return gaps(tables, "trained_maps", "drawn", "alignment", alike())


@claim("prior-invariant", "removed")
def the_top_shows(tables: Tables) -> list[Part]:
    return [mean("lrp", where(tables["removed"], rule="lrp"), "similarity", at_most(0.8))]
