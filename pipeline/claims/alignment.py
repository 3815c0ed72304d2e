"""Cascade substitution (Fig. 2a) and what aligns without a network."""

import numpy as np

from pipeline.claims.contrasts import (
    RULES,
    by_rule,
    gaps,
    last,
    mean_rank_correlation,
    minus,
    over_levels,
    spread_out,
)
from pipeline.claims.evidence import Part, Range, at_least, at_most, mean, statistic
from pipeline.claims.registry import Tables, claim
from pipeline.measures.maps import BANDS
from pipeline.measures.tables import Table, where

STATES = ("random", "trained")
CURVES = (*RULES, "activation")
NULLS = ("noise", "edges", "mean_colour", "mosaic", "other")


@claim("rise", *STATES)
def rise(tables: Tables) -> list[Part]:
    found = []
    for state in STATES:
        for rule, table in by_rule(tables[state], CURVES):
            wide, columns = spread_out(table, "n", "alignment")
            ranks = statistic(f"rank correlation, {rule}, {state}", wide, columns, mean_rank_correlation, at_least(0.8))
            ends = wide.assign(rise=wide[columns[-1]] - wide[columns[0]])
            found += [ranks, mean(f"rise, {rule}, {state}", ends, "rise", at_least(0.05))]
    return found


@claim("rise-steady", *STATES)
def rise_steady(tables: Tables) -> list[Part]:
    def fall(cells: np.ndarray) -> np.ndarray:
        curve = np.nanmean(cells, axis=(0, 1))
        return np.array([(np.maximum.accumulate(curve) - curve).max()])

    found = []
    for state in STATES:
        for rule, table in by_rule(tables[state], CURVES):
            wide, columns = spread_out(table, "n", "alignment")
            found.append(statistic(f"largest fall, {rule}, {state}", wide, columns, fall, Range()))
    return found


@claim("random>trained", *STATES)
def random_above_trained(tables: Tables) -> list[Part]:
    return gaps(over_levels(tables["random"]), over_levels(tables["trained"]), "alignment", at_least(0.05))


@claim("random>trained-bands", *STATES)
def random_above_trained_in_bands(tables: Tables) -> list[Part]:
    found = []
    for band in [f"alignment_band{i}" for i in range(BANDS)]:
        random, trained = (last_of_each(tables[state]) for state in STATES)
        if not random[band].isna().all():  # empty at this size
            found += gaps(random, trained, band, at_least(0.05), f", {band[-5:]}")
    return found


def last_of_each(table: Table) -> Table:
    return last(table[table["rule"].isin(RULES)])


@claim("biases-zero", "random", "unbiased")
def biases_zero(tables: Tables) -> list[Part]:
    return random_above_trained({"random": tables["random"], "trained": tables["unbiased"]})


@claim("act>rules", *STATES)
def activation_above_rules(tables: Tables) -> list[Part]:
    found = []
    for state in STATES:
        table = tables[state]
        between = table[(table["n"] >= 1) & (table["n"] < table["n"].max())]
        activation = where(between, rule="activation")
        for rule, other in by_rule(between):
            gap = minus(activation, other, "alignment", "n")
            found.append(mean(f"{rule}, {state}", over_levels(gap), "alignment", at_least(0.02)))
            for n, at in gap.groupby("n"):
                found.append(mean(f"{rule}, {state}, N = {n}", at, "alignment", at_least(-0.02)))
    return found


@claim("zplus-input", "random_plus", "trained_plus")
def literal_z_plus(tables: Tables) -> list[Part]:
    return [mean(state, last(tables[f"{state}_plus"]), "alignment", at_most(0.1)) for state in STATES]


def above_best_null(name: str, table: Table, nulls: Table) -> list[Part]:
    known = nulls[nulls["null"].isin(NULLS)]
    best = known.groupby("null")["alignment"].mean().idxmax()
    other = where(known, null=best).assign(seed=0)
    return [
        mean(f"{rule}, {name} ({best})", minus(part, other, "alignment"), "alignment", at_least(0.02))
        for rule, part in by_rule(last_of_each(table))
    ]


@claim("above-null", "random", "ring", "uniform", "nulls")
def above_null(tables: Tables) -> list[Part]:
    return [
        part
        for state in ("random", "ring", "uniform")
        for part in above_best_null(state, tables[state], tables["nulls"])
    ]


@claim("above-null-trained", "trained", "nulls")
def above_null_trained(tables: Tables) -> list[Part]:
    return above_best_null("trained", tables["trained"], tables["nulls"])


@claim("mid-align", "midalign_random", "midalign_trained", "midalign_drawn")
def mid_align(tables: Tables) -> list[Part]:
    found = []
    for state in ("random", "trained", "drawn"):
        table = tables[f"midalign_{state}"]
        table = table[table["layer"] > 0]  # 0 is the map
        gradient = over_levels(where(table, rule="grad"))
        for rule, part in by_rule(table):
            gap = minus(over_levels(part), gradient, "alignment")
            found.append(mean(f"{rule}, {state}", gap, "alignment", at_least(0.05)))
    return found


@claim("act-rebuild", "random", "starts")
def activation_rebuilds(tables: Tables) -> list[Part]:
    first = where(tables["starts"], layer=tables["starts"]["layer"].min())
    return [
        mean("activation of layer 1", first, "alignment", at_least(0.9)),
        *(
            mean(f"minus {rule}", minus(first, part, "alignment"), "alignment", at_least(0.05))
            for rule, part in by_rule(last_of_each(tables["random"]))
        ),
    ]
