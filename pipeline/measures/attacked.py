"""Tables of backdoored and clean networks: which network, whose triggers, which images count."""

from collections.abc import Mapping

import pandas as pd

from pipeline.measures.tables import Table

ATTACKS = {"badnet": "BadNet", "dynamic": "Dynamic", "inputaware": "InputAware", "wanet": "WaNet"}
GATES = {"badnet": 0.99, "dynamic": 0.99, "inputaware": 0.97, "wanet": 0.97}  # least success on other classes
# The first of them that is there is the network that was trained with the trigger.
WHOSE = ("attack.path", "attack.training", "weights.path", "weights.training")


def whose(table: Table) -> pd.Series:
    """Of each row, the network that was trained with the trigger: the row's own, or for a clean network another one."""
    found = pd.Series(None, index=table.index, dtype=object)
    for column in (column for column in WHOSE if column in table):
        found = found.where(found.notna(), table[column])
    return found.fillna("")


def numbered(tables: Mapping[str, Table]) -> dict[str, Table]:
    """Each table with `attack`, the attack's name, and `network`, 1, 2, ... among those of one attack. A clean network
    has the number of the attacked one whose triggers it is shown."""
    numbers: dict[tuple[str, str], int] = {}
    found = {}
    for sweep, table in tables.items():
        names = table["attack.name"].where(table["attack.name"].notna(), table["attack"])
        keys = pd.DataFrame({"attack": names, "whose": whose(table)})
        for attack, trigger in keys.drop_duplicates().itertuples(index=False):
            known = [name for name, _ in numbers]
            numbers.setdefault((attack, trigger), known.count(attack) + 1)
        each = [numbers[attack, trigger] for attack, trigger in keys.itertuples(index=False)]
        found[sweep] = table.assign(attack=names, network=each)
    return found


def toxic(table: Table) -> Table:
    """The images that the attack must change: those not of the goal class."""
    return table[table["label"] != table["goal"]]


def undecided(table: Table) -> Table:
    """Where the trigger has something to decide: what the network does not take for the goal class without it."""
    return table[table["decision_plain"] != table["goal"]]


def kept(table: Table) -> float:
    """Share of inputs that get the decision on the image itself, of those that are there."""
    there = table[table["decision_star"] >= 0]
    return float((there["decision_star"] == there["decision"]).mean())


def success(table: Table) -> float:
    return float((table["decision"] == table["goal"]).mean())


def paired(attacked: Table, clean: Table) -> Table:
    """highlight's rows of attacked networks beside those of the clean ones on the same triggered images (column names
    with `_clean`), one map per image, network and `shown`: the rule, or filter, which is the same for every rule."""
    keys = ["attack", "network", "shown", "image"]

    def once(table: Table) -> Table:
        shown = table["rule"].where(table["map"] != "filter", "filter")
        return table.assign(shown=shown).drop_duplicates(keys)

    right = once(clean)[[*keys, "energy", "rank_correlation"]]
    return once(attacked).merge(right, on=keys, suffixes=("", "_clean"), how="inner")
