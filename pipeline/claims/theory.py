"""Propositions and theorems (Section III-B, IV-B): exact ones by search, the others on real networks."""

import numpy as np
import pandas as pd

from pipeline.claims.contrasts import by_rule, minus
from pipeline.claims.evidence import Part, Range, at_least, at_most, exact, mean
from pipeline.claims.registry import Tables, claim
from pipeline.measures.tables import Table, where

ROUNDING = 1e-6  # a counterexample is beyond it
UNBIASED = ("nfr_random", "nfr_ring", "nfr_unbiased")


def counterexamples(name: str, tables: Tables, sweeps: tuple[str, ...], rule: str, gamma: str = "") -> Part:
    """Layers of images where a rule filters and (13) is not strict: of how many."""
    cases = [where(tables[sweep], rule=rule, gamma=gamma) for sweep in sweeps]
    filtered = [table[~table["relation"].isin(("", "missing"))] for table in cases]
    against = sum(int((table["margin"] < -ROUNDING).sum()) for table in filtered)
    equal = sum(int((table["margin"].abs() <= ROUNDING).sum()) for table in filtered)
    words = f"{sum(map(len, filtered))} cases, {equal} of them equal"
    return exact(name, against, at_most(0), words)


@claim("prop1", *UNBIASED)
def gbp_filters_negatives(tables: Tables) -> list[Part]:
    return [counterexamples("counterexamples, gbp", tables, UNBIASED, "gbp")]


@claim("prop1-bias", "nfr_trained")
def gbp_filters_with_biases(tables: Tables) -> list[Part]:
    return [counterexamples("counterexamples, gbp", tables, ("nfr_trained",), "gbp")]


@claim("prop2", *UNBIASED)
def rectgrad_filters_negatives(tables: Tables) -> list[Part]:
    return [counterexamples("counterexamples, rectgrad", tables, UNBIASED, "rectgrad")]


@claim("prop3", *UNBIASED)
def z_plus_filters_negatives(tables: Tables) -> list[Part]:
    return [counterexamples("counterexamples, z+ without γ", tables, UNBIASED, "lrp", gamma="dropped")]


def with_z_plus(tables: Tables, sweep: str) -> Table:
    """A sweep and that of z+, whose rule is named with its first layer."""
    z_plus = tables[f"{sweep}_lrp"]
    return pd.concat([tables[sweep], z_plus.assign(rule="z+ " + z_plus["rule.first_layer"])], ignore_index=True)


@claim("thm1", "theorem1", "theorem1_lrp")
def a_layer_returns_its_input(tables: Tables) -> list[Part]:
    """The worst draw and input."""
    found = []
    table = with_z_plus(tables, "theorem1")
    for (law, dim, rule), part in table.groupby(["weights", "dim", "rule"], sort=False):
        words = f"{part['draw'].nunique()} draws, {part['image'].nunique()} images"
        found.append(
            exact(f"lowest alignment, {rule}, {law}, d = {dim}", part["alignment"].min(), at_least(0.99), words)
        )
    return found


@claim("thm1-iso", "theorem1_laws")
def its_rate_is_that_of_its_law(tables: Tables) -> list[Part]:
    """tan^2 of the angle over the predicted one; of weights that are not isotropic the alignment less the predicted."""
    table, found = tables["theorem1_laws"], []
    keys = ["weights", "dim", "neurons"]
    for (law, dim, neurons), part in table.groupby(keys, sort=False):
        name, words = f"{law}, d = {dim}, K = {neurons // dim} d", f"{part['draw'].nunique()} draws"
        if law == "anisotropic":
            gap = (part["alignment"] - (1 - part["predicted"])).mean()
            found.append(exact(f"alignment - predicted, {name}", gap, Range(-0.02, 0.02), words))
        else:
            seen, predicted = (part["alignment"] ** -2 - 1).mean(), ((1 - part["predicted"]) ** -2 - 1).mean()
            found.append(exact(f"tan^2 / predicted, {name}", seen / predicted, Range(0.9, 1.1), words))
    return found


def exact_cases(tables: Tables) -> Table:
    """Of Theorem 2: orthogonal weights of equal norms."""
    return where(with_z_plus(tables, "theorem2"), mixing=0.0, spread=0.0)


@claim("thm2", "theorem2", "theorem2_lrp")
def along_a_is_better(tables: Tables) -> list[Part]:
    found = []
    for rule, part in where(exact_cases(tables), draws=1).groupby("rule", sort=False):
        worse = (part["alpha_a"] < part["alpha_b"] - ROUNDING) & part["defined"]
        found.append(
            exact(f"counterexamples, {rule}", int(worse.sum()), at_most(0), f"{int(part['defined'].sum())} cases")
        )
    return found


@claim("thm2-equal", "theorem2", "theorem2_lrp")
def equal_only_if_all_are(tables: Tables) -> list[Part]:
    """Per draw; and for the mean over m draws of r_b, whose ratio nears 1 as 1 / m if all A are equal, law by law: what
    is constant is equal at once, and says nothing."""
    table, found = exact_cases(tables), []
    table = table[table["defined"].astype(bool) & (table["law"] != "constant")]
    for rule, part in table.groupby("rule", sort=False):
        once = where(part, draws=1)
        for equal, words, target in ((True, "all equal", at_least(1.0)), (False, "not all equal", at_most(0.0))):
            cases = where(once, equal=equal)
            if len(cases):
                name = f"equality per draw, {words}, {rule}"
                found.append(exact(name, cases["equality"].mean(), target, f"{len(cases)} cases"))
        for law, means in where(part, equal=True, units="active").groupby("law", sort=False):
            gaps = (1 - means["alpha_b"] / means["alpha_a"]).groupby(means["draws"]).mean().abs()
            if len(gaps) > 1:
                slope = np.polyfit(np.log(gaps.index), np.log(gaps), 1)[0]
                name = f"slope over draws, all equal, {rule}, {law}"
                found.append(exact(name, slope, Range(-1.1, -0.9), f"{len(gaps)} numbers"))
    return found


@claim("thm2-net", "memory", "memory_random")
def along_a_is_better_in_networks(tables: Tables) -> list[Part]:
    found = []
    for state, sweep in (("random", "memory_random"), ("trained", "memory")):
        table = where(tables[sweep], rule="gbp", start="activation", against="noise")
        table = table.assign(more=table["alignment"] - table["alignment_against"])
        found += [
            mean(f"{state}, {name}", part, "more", at_least(0.02)) for name, part in table.groupby("name", sort=False)
        ]
    return found


@claim("transitive", "noisy_start_random", "noisy_start_trained")
def better_r_better_map(tables: Tables) -> list[Part]:
    found = []
    for state in ("random", "trained"):
        for rule, table in by_rule(tables[f"noisy_start_{state}"]):
            found.append(mean(f"{rule}, {state}", rank_correlations(table), "rank", at_least(0.8)))
    return found


def rank_correlations(table: Table) -> Table:
    """Spearman's of alignment_layer and alignment over shares, the mean over layers: a row per image and seed."""
    keys = ["image", "seed", "layer"]
    ranks = table.groupby(keys)[["alignment_layer", "alignment"]].rank()
    centred = ranks - ranks.groupby([table[key] for key in keys]).transform("mean")
    a, b = centred["alignment_layer"], centred["alignment"]
    sums = table[keys].assign(ab=a * b, aa=a * a, bb=b * b).groupby(keys, as_index=False).sum()
    found = sums.assign(rank=sums["ab"] / np.sqrt(sums["aa"] * sums["bb"]).where(lambda size: size > 0))
    return found.groupby(["image", "seed"], as_index=False)["rank"].mean()


@claim("numerator", "gamma_unbiased", "gamma_margin")
def alignment_without_condition(tables: Tables) -> list[Part]:
    """From LRP-epsilon (gamma 0) to z+ (infinity) on the trained weights without their biases."""
    table, margins = tables["gamma_unbiased"], tables["gamma_margin"]["margin"].abs()
    last, first = (where(table, **{"rule.gamma": value}) for value in (np.inf, 0.0))
    rise = mean("rise of alignment", minus(last, first, "alignment"), "alignment", at_least(0.05))
    return [rise, exact("largest margin of (13)", margins.max(), at_most(1e-9), f"{len(margins)} layers of images")]
