"""Verdicts: from evidence to holds, does not hold or not decided, with the false discovery rate under control."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.claims.evidence import MOST_MISSING, Part, Range

RATE = 0.05  # of false decisions among all
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "not decided"


@dataclass(frozen=True)
class Verdict:
    """why: what stands in the way, or how it misses; "" if there is nothing to say."""

    word: str
    why: str = ""


def judge(parts: Sequence[Part], level: float) -> Verdict:
    """Does not hold if one part lies wholly outside its range with its interval at 1 - (1 - level) / k, of k parts that
    have one; holds if every part lies inside at this level; else not decided. A part of too few images or seeds, or
    with too much missing, says neither."""
    if not parts:
        return Verdict(UNDECIDED, "there is nothing to judge")
    stricter = 1 - (1 - level) / max(1, sum(part.target != Range() for part in parts))
    able = [part for part in parts if not weakness(part)]
    for part in able:
        low, high = part.interval(stricter)
        if low > part.target.high or high < part.target.low:
            return Verdict(FAILS, miss(part, low, high))
    if len(able) < len(parts):
        return Verdict(UNDECIDED, next(filter(None, map(weakness, parts))))
    if all(inside(part, *part.interval(level)) for part in parts):
        return Verdict(HOLDS)
    return Verdict(UNDECIDED, "at this n")


def weakness(part: Part) -> str:
    """Why a part decides nothing, "" if it can."""
    if part.few:
        return f"at this n: {part.name} has {part.few}"
    return "" if part.missing <= MOST_MISSING else f"{part.missing:.0%} of {part.name} are missing"


def inside(part: Part, low: float, high: float) -> bool:
    return part.target.low <= low and high <= part.target.high


def miss(part: Part, low: float, high: float) -> str:
    """Which part is outside, and whether what was claimed is there but smaller."""
    smaller = low > 0 and high < part.target.low
    return f"{part.name}{' is smaller than claimed' if smaller else ''}"


def decisions(
    evidence: Mapping[str, Sequence[Part]], exact: Sequence[str], total: int
) -> tuple[dict[str, Verdict], float, set[str]]:
    """(the verdict of every claim, the level of decision, the claims that are decided at 1 - RATE / total as well).

    The level is 1 - RATE R / total, R the largest number of claims that are decided at it (Benjamini and Hochberg, of
    either direction). exact: claims without an interval, which no level concerns; total: claims with one, those without
    evidence too.
    """
    with_interval = [name for name in evidence if name not in exact]

    def decided(level: float) -> list[str]:
        return [name for name in with_interval if judge(evidence[name], level).word != UNDECIDED]

    level = 1 - RATE / total
    for count in range(total, 0, -1):
        if len(decided(1 - RATE * count / total)) >= count:
            level = 1 - RATE * count / total
            break
    found = {name: judge(parts, level) for name, parts in evidence.items()}
    return found, level, {*decided(1 - RATE / total)}
