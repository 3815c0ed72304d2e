"""The pre-registered claims: their words (ledger.yaml), the evidence for each (a function of tables to parts), and
verdicts.

To add evidence: write a function of the tables of some sweeps of conf/figure/claims.yaml in one of the modules below,
with `@claim(name, sweep, ...)` above it.
"""

import difflib
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

import yaml

from pipeline.claims.readings import of_claim
from pipeline.claims.registry import ENTRIES, Claim
from pipeline.errors import UserError

for _module in (
    "alignment",
    "energies",
    "behaviours",
    "fixed_filter",
    "laws",
    "removal",
    "extremes",
    "weights",
    "sufficiency",
    "backdoors",
    "theory",
):
    import_module(f"pipeline.claims.{_module}")

LEDGER = Path(__file__).parent / "ledger.yaml"
__all__ = ["ENTRIES", "LEDGER", "Claim", "fixed_text", "ledger", "needed"]


@cache
def ledger() -> dict[str, Claim]:
    """The claims by name, in order. Raises ValueError for evidence of a claim that is not among them, and for a claim
    without."""
    claims = {entry["name"]: Claim(**entry) for entry in yaml.safe_load(LEDGER.read_text())["claims"]}
    if unknown := ENTRIES.keys() - claims.keys():
        raise ValueError(f"there is evidence for {', '.join(sorted(unknown))}, and no such claim in {LEDGER.name}")
    if without := claims.keys() - ENTRIES.keys():
        raise ValueError(f"there is no evidence for {', '.join(sorted(without))}, which {LEDGER.name} has")
    return claims


def fixed_text() -> str:
    """The date of the last amendment and a hash of the fixed text."""
    text = LEDGER.read_text()
    return f"fixed {yaml.safe_load(text)['amended']}, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def needed(names: Sequence[str]) -> set[str]:
    """The sweeps of the evidence for these claims, in all readings. Raises UserError for what is no claim."""
    for name in names:
        if name not in ledger():
            close = difflib.get_close_matches(name, ledger(), n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(ENTRIES)}"
            raise UserError(f"there is no claim '{name}'; {hint}")
    if not names:
        raise UserError("claims=[] chooses none; leave it out for all")
    return {
        sweep
        for name in names
        for sweeps in (ENTRIES[name].sweeps, *(reading.sweeps for reading in of_claim(name)))
        for sweep in sweeps
    }
