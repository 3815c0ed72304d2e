"""What an entry of the ledger is, and the table of evidence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.claims.evidence import Part
from pipeline.measures.tables import Table

Tables = Mapping[str, Table]


@dataclass(frozen=True)
class Claim:
    """Words of the ledger. tags: X exact, D description, else with interval and verdict; headline: which of the ten,
    with what would refute it; amended: whether its number is not the first one."""

    name: str
    group: str
    place: str
    claim: str
    number: str
    tags: str
    headline: int = 0
    refuted: str = ""
    amended: bool = False

    @property
    def exact(self) -> bool:
        return "X" in self.tags.split()

    @property
    def described(self) -> bool:
        return "D" in self.tags.split()


@dataclass(frozen=True)
class Evidence:
    """sweeps: whose tables it needs."""

    sweeps: tuple[str, ...]
    parts: Callable[[Tables], list[Part]]


ENTRIES: dict[str, Evidence] = {}


def claim(name: str, *sweeps: str) -> Callable[[Callable[[Tables], list[Part]]], Callable[[Tables], list[Part]]]:
    def enter(parts: Callable[[Tables], list[Part]]) -> Callable[[Tables], list[Part]]:
        ENTRIES[name] = Evidence(sweeps, parts)
        return parts

    return enter
