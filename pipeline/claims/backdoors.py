"""Backdoored networks (Section V-B2, Fig. 9): the first network of each attack, triggered images of all classes. The
paper names BadNet and Dynamic of one kind, InputAware and WaNet of another."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from itertools import product

import numpy as np

from pipeline.claims.contrasts import RULES
from pipeline.claims.evidence import (
    Part,
    Range,
    at_least,
    at_most,
    auroc_of_networks,
    mean,
    median,
    nothing,
    share,
    two_peaks,
)
from pipeline.claims.registry import Tables, claim
from pipeline.measures.attacked import ATTACKS, GATES, numbered, paired, toxic
from pipeline.measures.tables import Table, torchvisions_cifar10, where

RIGHT, LEFT = ("badnet", "dynamic"), ("inputaware", "wanet")
PAPERS_ACCURACY = {"badnet": 0.9368, "dynamic": 0.9342, "inputaware": 0.9136, "wanet": 0.9219}
WITHIN = 0.015
SMALL = "digits and small networks alone, which show the path and decide nothing"
ENOUGH = 3  # networks of each attack, for a statement about attacks


def not_on_digits(parts: Callable[[Tables], list[Part]]) -> Callable[[Tables], list[Part]]:
    """Evidence whose numbers on digits show the path and decide nothing."""

    @wraps(parts)
    def found(tables: Tables) -> list[Part]:
        table = tables["attacked"] if "attacked" in tables else tables["highlight"]
        small = {*table.get("data", ())} == {"digits"}
        return [replace(part, few=part.few or SMALL) if small else part for part in parts(tables)]

    return found


def attack_of(tables: Tables, sweep: str, attack: str, **chosen: str) -> Table:
    """The rows of the attack's first network; empty where there is none."""
    table = numbered({sweep: tables[sweep]})[sweep]
    return where(table, attack=attack, network=1, **chosen)


def of_each(
    tables: Tables,
    attacks: tuple[str, ...],
    target: Range,
    part: Callable[[str, Table], Part],
    sweep: str = "attacked",
    **chosen: str,
) -> list[Part]:
    """A part per attack; of one without a network, that it has none."""
    found = []
    for attack in attacks:
        table = attack_of(tables, sweep, attack, **chosen)
        name = named(attack, table)
        found.append(part(name, table) if len(table) else nothing(name, target, "no network"))
    return found


def named(attack: str, table: Table) -> str:
    """With a word where one of these networks succeeds too seldom to stand for its attack."""
    counted = toxic(where(table, sample="triggered"))
    least = (counted["decision"] == counted["goal"]).groupby(counted["network"]).mean().min()
    return f"{ATTACKS[attack]} (success {least:.1%}: misses the gate)" if least < GATES[attack] else ATTACKS[attack]


def s_of(table: Table) -> np.ndarray:
    return table["s_own"].to_numpy(dtype=float)


TRIGGERED = {"sample": "triggered", "input": "attribution"}


@claim("bd-clean", "attacked")
@not_on_digits
def clean_accuracies(tables: Tables) -> list[Part]:
    def accuracy(name: str, table: Table) -> Part:
        papers = PAPERS_ACCURACY[table["attack"].iloc[0]]
        target = Range(papers - WITHIN, papers + WITHIN)
        if not torchvisions_cifar10(table):
            return nothing(name, target, "not torchvision's CIFAR-10, on which alone it is judged")
        return share(name, (table["label"] == table["decision"]).to_numpy(), target)

    return of_each(tables, (*RIGHT, *LEFT), Range(), accuracy, sample="clean", input="attribution")


@claim("bd-asr", "attacked")
@not_on_digits
def attacks_succeed(tables: Tables) -> list[Part]:
    def success(name: str, table: Table) -> Part:
        counted = toxic(table)
        return share(name, (counted["decision"] == counted["goal"]).to_numpy(), at_least(0.99))

    return of_each(tables, (*RIGHT, *LEFT), at_least(0.99), success, **TRIGGERED)


@claim("bd-right", "attacked")
@not_on_digits
def on_the_right(tables: Tables) -> list[Part]:
    target = at_least(0.1)
    return of_each(tables, RIGHT, target, lambda name, table: median(name, s_of(table), target), **TRIGGERED)


@claim("bd-left", "attacked", "again")
@not_on_digits
def on_the_left(tables: Tables) -> list[Part]:
    """WaNet's also with the warp once more on R~."""
    target = at_most(-0.1)

    def part(name: str, table: Table) -> Part:
        return median(name, s_of(table), target)

    warped = of_each(tables, ("wanet",), target, part, "again", sample="triggered", input="retriggered")
    found = of_each(tables, LEFT, target, part, **TRIGGERED)
    return found + [part for part in warped if part.few != "no network"]


@claim("bd-consistent", "attacked")
@not_on_digits
def one_attack_one_role(tables: Tables) -> list[Part]:
    target = at_most(0.1)
    attacks = (*RIGHT, *LEFT)
    return of_each(tables, attacks, target, lambda name, table: two_peaks(name, s_of(table), target), **TRIGGERED)


@claim("bd-alone", "attacked")
@not_on_digits
def the_trigger_decides_alone(tables: Tables) -> list[Part]:
    """Of the images that the attack changes into the goal class."""
    target = at_least(0.5)

    def probability(name: str, table: Table) -> Part:
        changed = table[table["decision"] == table["goal"]]
        return median(name, changed["probability_star"].to_numpy(dtype=float), target)

    return of_each(tables, RIGHT, target, probability, **TRIGGERED)


@claim("bd-highlight", "highlight", "highlight_clean")
@not_on_digits
def maps_show_the_trigger(tables: Tables) -> list[Part]:
    """On images not of the goal class, where the trigger is everywhere by rank correlation with the change."""
    named = numbered({sweep: toxic(tables[sweep]) for sweep in ("highlight", "highlight_clean")})
    pairs, target = where(paired(named["highlight"], named["highlight_clean"]), network=1), at_least(0.05)
    found = []
    for attack in (*RIGHT, *LEFT):
        part = pairs[pairs["attack"] == attack]
        measure = "energy" if part["energy"].notna().any() else "rank_correlation"
        for rule in RULES:
            gap = where(part, shown=rule).assign(seed=0)
            gap = gap.assign(gap=gap[measure] - gap[f"{measure}_clean"])
            name = f"{ATTACKS[attack]}, {rule}"
            found.append(mean(name, gap, "gap", target) if len(gap) else nothing(name, target, "no network"))
    return found


@claim("bd-split", "attacked")
@not_on_digits
def the_pairs_are_apart(tables: Tables) -> list[Part]:
    """P(target | R~) of the former above that of the latter, on the images that the attack changes into the goal class;
    then S of the images whose decision stays. Every network of an attack with every one of the other; with fewer than
    three of each it is said of these models."""
    table, target = numbered({"attacked": where(tables["attacked"], **TRIGGERED)})["attacked"], at_least(0.8)
    changed, stays = table[table["decision"] == table["goal"]], table[table["decision"] == table["decision_star"]]
    found = []
    for words, part, score in (("P", changed, "probability_star"), ("S where it stays", stays, "s_own")):
        for pair in product(RIGHT, LEFT):
            all_of_each = [where(table, attack=attack) for attack in pair]
            first, second = (scores_of(part, rows, score, table["image"].unique()) for rows in all_of_each)
            sampled = min(len(first), len(second)) >= ENOUGH
            names = " and ".join(named(attack, rows) for attack, rows in zip(pair, all_of_each, strict=True))
            name = f"{words}, {names}{'' if sampled else ', for these models'}"
            if not (len(first) and len(second)):
                found.append(nothing(name, target, "no network of both"))
                continue
            missing = float(part.loc[part["attack"].isin(pair), score].isna().mean())
            found.append(auroc_of_networks(name, first, second, target, missing, sampled))
    return found


def scores_of(part: Table, rows: Table, score: str, images: np.ndarray) -> np.ndarray:
    """(networks, images) of an attack's rows, NaN where they are not in `part`."""
    counted = rows.assign(score=rows[score].where(rows.index.isin(part.index)))
    wide = counted.pivot(index="network", columns="image", values="score")
    return wide.reindex(columns=images).to_numpy(dtype=float)
