"""Backdoored networks (Section V-B2, Fig. 9): the first network of each attack, triggered images of all classes. The
paper names BadNet and Dynamic of one kind, InputAware and WaNet of another."""

from collections.abc import Callable

import numpy as np

from pipeline.claims.contrasts import RULES
from pipeline.claims.evidence import (
    Part,
    Range,
    at_least,
    at_most,
    auroc,
    mean,
    median,
    nothing,
    share,
    two_peaks,
)
from pipeline.claims.registry import Tables, claim
from pipeline.measures.attacked import ATTACKS, numbered, paired, toxic
from pipeline.measures.tables import Table, where

RIGHT, LEFT = ("badnet", "dynamic"), ("inputaware", "wanet")
PAPERS_ACCURACY = {"badnet": 0.9368, "dynamic": 0.9342, "inputaware": 0.9136, "wanet": 0.9219}
WITHIN = 0.015
ENOUGH = 3  # networks of each attack, for a statement about attacks


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
        name = ATTACKS[attack]
        found.append(part(name, table) if len(table) else nothing(name, target, "no network"))
    return found


def s_of(table: Table) -> np.ndarray:
    return table["s_own"].to_numpy(dtype=float)


TRIGGERED = {"sample": "triggered", "input": "attribution"}


@claim("bd-clean", "attacked")
def clean_accuracies(tables: Tables) -> list[Part]:
    def accuracy(name: str, table: Table) -> Part:
        papers = next(PAPERS_ACCURACY[key] for key, value in ATTACKS.items() if value == name)
        target = Range(papers - WITHIN, papers + WITHIN)
        if {*table["data"]} != {"cifar10"}:
            return nothing(name, target, "no CIFAR-10, on which alone it is judged")
        return share(name, (table["label"] == table["decision"]).to_numpy(), target)

    return of_each(tables, (*RIGHT, *LEFT), Range(), accuracy, sample="clean", input="attribution")


@claim("bd-asr", "attacked")
def attacks_succeed(tables: Tables) -> list[Part]:
    def success(name: str, table: Table) -> Part:
        counted = toxic(table)
        return share(name, (counted["decision"] == counted["goal"]).to_numpy(), at_least(0.99))

    return of_each(tables, (*RIGHT, *LEFT), at_least(0.99), success, **TRIGGERED)


@claim("bd-right", "attacked")
def on_the_right(tables: Tables) -> list[Part]:
    target = at_least(0.1)
    return of_each(tables, RIGHT, target, lambda name, table: median(name, s_of(table), target), **TRIGGERED)


@claim("bd-left", "attacked", "again")
def on_the_left(tables: Tables) -> list[Part]:
    """WaNet's also with the warp once more on R~."""
    target = at_most(-0.1)

    def part(name: str, table: Table) -> Part:
        return median(name, s_of(table), target)

    warped = of_each(tables, ("wanet",), target, part, "again", sample="triggered", input="retriggered")
    found = of_each(tables, LEFT, target, part, **TRIGGERED)
    return found + [part for part in warped if part.few != "no network"]


@claim("bd-consistent", "attacked")
def one_attack_one_role(tables: Tables) -> list[Part]:
    target = at_most(0.1)
    attacks = (*RIGHT, *LEFT)
    return of_each(tables, attacks, target, lambda name, table: two_peaks(name, s_of(table), target), **TRIGGERED)


@claim("bd-alone", "attacked")
def the_trigger_decides_alone(tables: Tables) -> list[Part]:
    """Of the images that the attack changes into the goal class."""
    target = at_least(0.5)

    def probability(name: str, table: Table) -> Part:
        changed = table[table["decision"] == table["goal"]]
        return median(name, changed["probability_star"].to_numpy(dtype=float), target)

    return of_each(tables, RIGHT, target, probability, **TRIGGERED)


@claim("bd-highlight", "highlight", "highlight_clean")
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
def the_pairs_are_apart(tables: Tables) -> list[Part]:
    """P(target | R~) of the former above that of the latter; then S of the images whose decision stays. Networks of an
    attack together: with fewer than three of each it is said of these models."""
    table, target = numbered({"attacked": where(tables["attacked"], **TRIGGERED)})["attacked"], at_least(0.8)
    probability = table["probability_star"].where(table["decision"] == table["goal"])
    stays = table["s_own"].where(table["decision"] == table["decision_star"])
    few = table.groupby("attack")["network"].nunique().min() < ENOUGH
    found = []
    for words, score in (("P", probability), ("S where it stays", stays)):
        for first in RIGHT:
            for second in LEFT:
                pair = table["attack"].isin((first, second)).to_numpy()
                name = f"{words}, {ATTACKS[first]} and {ATTACKS[second]}{', for these models' if few else ''}"
                if {*table["attack"][pair]} != {first, second}:
                    found.append(nothing(name, target, "no network of both"))
                    continue
                there = score[pair].notna().to_numpy()
                up = (table["attack"][pair] == first).to_numpy()[there]
                found.append(auroc(name, score[pair].to_numpy(dtype=float)[there], up, target))
    return found
