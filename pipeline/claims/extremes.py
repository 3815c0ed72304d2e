"""Large and small activations (Fig. 6)."""

from collections.abc import Iterator

import numpy as np

from pipeline.claims.contrasts import by_rule, complete_means, mean_rank_correlation, minus, spread_out, third
from pipeline.claims.evidence import Part, alike, at_least, at_most, mean, statistic
from pipeline.claims.registry import Tables, claim
from pipeline.measures.tables import Table, where


def of_third(table: Table, top: bool) -> Table:
    depth = table["layer"].max() + 1
    chosen = table["layer"] > depth - third(depth) if top else table["layer"] <= third(depth)
    return complete_means(table[chosen], ["image", "seed", "rule", "part"], ["alignment", "sim_all"])


def against(table: Table, part: str, other: str) -> Iterator[tuple[str, Table]]:
    for rule, found in by_rule(table):
        yield rule, minus(where(found, part=part), where(found, part=other), "alignment")


@claim("ext-top", "extremes")
def the_gap_is_gone_high_up(tables: Tables) -> list[Part]:
    top = of_third(tables["extremes"], top=True)
    return [mean(rule, gap, "alignment", alike()) for rule, gap in against(top, "max", "min")]


@claim("ext-original", "extremes")
def extremes_give_the_original(tables: Tables) -> list[Part]:
    top, found = of_third(tables["extremes"], top=True), []
    for part in ("max", "min"):
        found += [mean(f"{rule}, {part} - all", gap, "alignment", alike()) for rule, gap in against(top, part, "all")]
    return found + [
        mean(f"{rule}, min to all", where(part, part="min"), "sim_all", at_least(0.9)) for rule, part in by_rule(top)
    ]


@claim("ext-control", "extremes")
def any_start_does(tables: Tables) -> list[Part]:
    top, found = of_third(tables["extremes"], top=True), []
    for part in ("random", "constant_max", "constant_min", "noise", "other"):
        found += [mean(f"{rule}, {part} - all", gap, "alignment", alike()) for rule, gap in against(top, part, "all")]
    return found


@claim("ext-bottom", "extremes")
def extremes_differ_low_down(tables: Tables) -> list[Part]:
    def size(cells: np.ndarray) -> np.ndarray:
        return np.abs([np.nanmean(cells)])

    bottom = of_third(tables["extremes"], top=False)
    return [statistic(rule, gap, ["alignment"], size, at_least(0.05)) for rule, gap in against(bottom, "max", "min")]


@claim("ext-trend", "extremes")
def the_gap_shrinks_upward(tables: Tables) -> list[Part]:
    found = []
    for rule, table in by_rule(tables["extremes"]):
        gap = minus(where(table, part="max"), where(table, part="min"), "alignment", "layer")
        wide, columns = spread_out(gap.assign(size=gap["alignment"].abs()), "layer", "size")
        found.append(statistic(rule, wide, columns, mean_rank_correlation, at_most(-0.5)))
    return found
