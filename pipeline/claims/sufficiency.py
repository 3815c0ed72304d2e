"""Key information sufficiency (Section V-B, Fig. 8): all test images; one network, or five and more that differ in
their training seed alone."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps

import numpy as np

from pipeline.claims.evidence import (
    Part,
    Range,
    at_least,
    at_most,
    auroc,
    auroc_gain,
    median,
    nothing,
    over_networks,
    share,
    two_peaks,
)
from pipeline.claims.registry import Tables, claim
from pipeline.measures.attacked import whose
from pipeline.measures.gain import FOLDS, out_of_fold
from pipeline.measures.tables import Table, torchvisions_cifar10, where

PAPERS_ACCURACY, WITHIN = 0.9247, 0.015
ENOUGH = 5  # networks, for a statement about training seeds
CONTROLS = ("edge", "noise", "blur")


def of_networks(parts: Callable[[Tables], list[Part]]) -> Callable[[Tables], list[Part]]:
    """Evidence of each network of the table: over all of them if they are enough, else of the first one."""

    @wraps(parts)
    def found(tables: Tables) -> list[Part]:
        table = tables["kis"]
        each = [parts({**tables, "kis": one}) for _, one in table.groupby(whose(table), sort=False)]
        return over_networks(each) if len(each) >= ENOUGH else each[0]

    return found


def scores(table: Table, by: str = "input") -> tuple[Mapping[str, np.ndarray], np.ndarray]:
    """S by input (or another column) and whether the decision is right, (n,), of labelled images."""
    table = table[table["correct"].notna()]
    wide = table.pivot(index="image", columns=by, values="s_own")
    right = table.drop_duplicates("image").set_index("image")["correct"].reindex(wide.index)
    return {name: wide[name].to_numpy(dtype=float) for name in wide.columns}, right.to_numpy(dtype=bool)


def gain(name: str, tables: Tables, first: str, second: str, target: Range) -> Part:
    s, right = scores(tables["kis"])
    return auroc_gain(name, s[first], s[second], right, target)


@claim("clean-acc", "kis")
@of_networks
def the_network_is_as_accurate(tables: Tables) -> list[Part]:
    table, target = tables["kis"], Range(PAPERS_ACCURACY - WITHIN, PAPERS_ACCURACY + WITHIN)
    if not torchvisions_cifar10(table):
        return [nothing("accuracy", target, "not torchvision's CIFAR-10, on which alone it is judged")]
    return [share("accuracy", scores(table)[1], target)]


@claim("kis-peaks", "kis")
@of_networks
def a_peak_on_each_side(tables: Tables) -> list[Part]:
    return [two_peaks("V", scores(tables["kis"])[0]["attribution"], at_least(0.1))]


@claim("kis-control", "kis")
@of_networks
def controls_have_one_peak(tables: Tables) -> list[Part]:
    s, _ = scores(tables["kis"])
    return [two_peaks(f"V, {name}", s[name], at_most(0.1)) for name in CONTROLS]


@claim("kis-strong", "kis")
@of_networks
def s_tells_right_from_wrong(tables: Tables) -> list[Part]:
    s, right = scores(tables["kis"])
    return [auroc("AUROC", s["attribution"], right, at_least(0.7))]


@claim("kis-acc", "kis")
@of_networks
def right_ones_suffice_more(tables: Tables) -> list[Part]:
    s, right = scores(tables["kis"])
    return [median("right - wrong", s["attribution"][right], at_least(0.05), less=s["attribution"][~right])]


@claim("ins-weak", "kis")
@of_networks
def insertion_is_weak(tables: Tables) -> list[Part]:
    s, right = scores(tables["kis"])
    return [auroc("AUROC of insertion", s["insertion"], right, at_most(0.6))]


@claim("kis>magnitude", "kis")
@of_networks
def better_than_magnitude(tables: Tables) -> list[Part]:
    return [gain("attribution - by magnitude", tables, "attribution", "insertion_magnitude", at_least(0.02))]


@claim("magnitude>ins", "kis")
@of_networks
def magnitude_is_better(tables: Tables) -> list[Part]:
    return [gain("by magnitude - insertion", tables, "insertion_magnitude", "insertion", at_least(0.02))]


@claim("kis-beyond", "kis")
@of_networks
def more_than_confidence(tables: Tables) -> list[Part]:
    """By cross-validated models of the margin and whether the decision stays, with S and without it."""
    labelled = where(tables["kis"], input="attribution").dropna(subset=["correct"])
    table = labelled.dropna(subset=["s_own", "margin"])
    right, target = table["correct"].to_numpy(dtype=bool), at_least(0.01)
    if min(right.sum(), (~right).sum()) < FOLDS:
        return [nothing("with S - without", target, f"{right.sum()} right and {(~right).sum()} wrong")]
    score, margin = (table[name].to_numpy(dtype=float) for name in ("s_own", "margin"))
    found = out_of_fold(score, right, margin, (table["decision_star"] == table["decision"]).to_numpy())
    gained = auroc_gain("with S - without", found.with_score, found.without, right, target)
    return [replace(gained, missing=1 - len(table) / len(labelled))]


@claim("kis-own-map", "kis")
@of_networks
def it_takes_this_map(tables: Tables) -> list[Part]:
    others = ("runner_up", "random_network", "other")
    return [gain(f"attribution - {name}", tables, "attribution", name, at_least(0.05)) for name in others]


@claim("filter-kis", "kis")
@of_networks
def the_attribution_is_not_needed(tables: Tables) -> list[Part]:
    return [gain("attribution - P x", tables, "attribution", "filter", at_most(0.02))]


@claim("threshold", "kis_removed")
def insertion_hangs_on_its_threshold(tables: Tables) -> list[Part]:
    """The best share of removed scores against the worst; which they are is not drawn again."""
    s, right = scores(where(tables["kis_removed"], input="insertion"), by="experiment.removed")
    found = {removed: auroc("", values, right, at_least(0.05)).estimate for removed, values in s.items()}
    best, worst = max(found, key=found.__getitem__), min(found, key=found.__getitem__)
    return [auroc_gain(f"{best:g} - {worst:g} removed", s[best], s[worst], right, at_least(0.05))]
