"""The ledger: each claim of the paper with its evidence and the verdict."""

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.claims import ENTRIES, Claim, fixed_text, ledger
from pipeline.claims.evidence import Part
from pipeline.claims.readings import Reading, applied, of_claim
from pipeline.claims.verdicts import FAILS, HOLDS, UNDECIDED, Verdict, decisions, judge
from pipeline.figures import captions, style

COLUMNS = [
    "claim", "reading", "group", "headline", "place", "words", "number", "tags", "verdict", "why", "strict", "part",
    "estimate", "low", "high", "decision_low", "decision_high", "target_low", "target_high", "n",
]  # fmt: skip
OPEN, DESCRIBED = "not computed", "described"
OPPOSITE = {HOLDS, FAILS}
COLOURS = {HOLDS: "#117733", FAILS: "#CC3311", UNDECIDED: "#888888", OPEN: "#BBBBBB", DESCRIBED: "#000000"}
LINE, HEAD, FOOT = 0.15, 0.5, 0.75  # inches
TEXT = """
Profile {profile}: {state}; ledger {fixed}. Each claim's number with its 95 % interval, the target, and the verdict at
the level of decision, 1 - .05 R / m, m = {total} claims with an interval (false discovery rate 5 %); dagger: also at
1 - .05 / m. Of several parts the one nearest to its target's wrong side is shown. On the right a dot for each other
reading of the claim, in the colour of the verdict in it (the csv names them).
"""


def numbers(tables: Mapping[str, pd.DataFrame], absent: Mapping[str, str]) -> pd.DataFrame:
    """A row per claim and part of it: COLUMNS. low, high: 95 % interval; decision_*: at the level of decision; strict:
    decided at 1 - .05 / m as well. A claim without evidence has one row without numbers, which says why. reading: "",
    or another reading of the claim, with the verdict in it at the same level."""
    claims = ledger()
    evidence = {
        name: entry.parts(tables) for name, entry in ENTRIES.items() if all(sweep in tables for sweep in entry.sweeps)
    }
    judged = {name: parts for name, parts in evidence.items() if not claims[name].described}
    exact = [name for name in judged if claims[name].exact]
    verdicts, level, strict = decisions(judged, exact, total_of(claims))
    rows, read = [], {name: read_otherwise(name, tables, level, verdicts.get(name)) for name in evidence}
    for name, one in claims.items():
        verdict = verdicts.get(name) or (
            Verdict(DESCRIBED) if name in evidence else Verdict(OPEN, lacking(name, absent))
        )
        flips = [reading.flips for reading, _, other in read.get(name, []) if {verdict.word, other.word} == OPPOSITE]
        why = "; ".join(filter(None, [verdict.why, *flips]))
        about = [one.group, one.headline, one.place, one.claim, one.number, one.tags]
        for part in evidence.get(name, [None]):
            values = cells(part, level) if part else [""] + [np.nan] * 7 + [""]
            rows.append([name, "", *about, verdict.word, why, name in strict, *values])
        for reading, parts, other in read.get(name, []):
            labels = [name, reading.name, *about, other.word, other.why, False]
            rows += [[*labels, *cells(part, level)] for part in parts]
    return pd.DataFrame(rows, columns=COLUMNS).assign(level=level)


def read_otherwise(
    name: str, tables: Mapping[str, pd.DataFrame], level: float, verdict: Verdict | None
) -> list[tuple[Reading, list[Part], Verdict]]:
    """What other readings say of a claim that has a verdict."""
    found = []
    for reading in of_claim(name) if verdict else ():
        given = applied(reading, tables, ENTRIES[name].sweeps)
        if given is not None and (parts := ENTRIES[name].parts(given)):
            found.append((reading, parts, judge(parts, level)))
    return found


def lacking(name: str, absent: Mapping[str, str]) -> str:
    """Why a claim has no evidence here."""
    return next((absent[sweep] for sweep in ENTRIES[name].sweeps if sweep in absent), "not asked for")


def total_of(claims: Mapping[str, Claim]) -> int:
    """m: claims with an interval and a verdict."""
    return sum(not (one.exact or one.described) for one in claims.values())


def cells(part: Part, level: float) -> list:
    shown, decided = (part.interval(at) if np.isfinite(part.estimate) else (np.nan, np.nan) for at in (0.95, level))
    return [part.name, part.estimate, *shown, *decided, part.target.low, part.target.high, part.n]


def caption(tables: Mapping[str, pd.DataFrame], profile: str) -> str:
    first = next(iter(tables.values()))
    return captions.words(
        TEXT,
        {},
        profile=profile,
        state=f"{first['model'].iloc[0]}, {first['image'].nunique()} images of {first['data'].iloc[0]}"
        if "image" in first
        else profile,
        fixed=fixed_text(),
        total=total_of(ledger()),
    )


def draw(numbers: pd.DataFrame, text: str) -> Figure:
    """A line per claim, by group."""
    groups = [(group, [*part.groupby("claim", sort=False)]) for group, part in numbers.groupby("group", sort=False)]
    height = HEAD + FOOT + LINE * (len({*numbers["claim"]}) + 1.5 * len(groups))
    figure = style.page(height)
    readings = numbers[numbers["reading"] != ""].groupby("claim")["reading"].nunique()
    apart = min(0.008, 0.11 / readings.max()) if len(readings) else 0
    y = height - HEAD + LINE
    for title, x in (("claim", 0.02), ("number [95 %], target", 0.57), ("verdict", 0.79), ("readings", 0.88)):
        figure.text(x, (y + LINE) / height, title, fontsize=6.5, weight="bold")
    for group, claims in groups:
        y -= 0.5 * LINE
        figure.text(0.01, y / height, group, fontsize=6.5, weight="bold", va="center")
        y -= LINE
        for name, parts in claims:
            others = parts[parts["reading"] != ""].drop_duplicates("reading")["verdict"]
            parts = parts[parts["reading"] == ""]
            row, mark = parts.iloc[0], COLOURS[parts["verdict"].iloc[0]]
            figure.text(0.01, y / height, "●", fontsize=5, color=mark, va="center")
            figure.text(0.02, y / height, name, fontsize=5.8, va="center")
            figure.text(
                0.17, y / height, textwrap.shorten(row["words"], 79, placeholder=" ..."), fontsize=5.2, va="center"
            )
            figure.text(0.57, y / height, number_text(parts), fontsize=5.2, va="center")
            words = f"{row['verdict']}{'†' if row['strict'] else ''}"
            figure.text(0.79, y / height, words, fontsize=5.4, color=mark, va="center")
            for i, word in enumerate(others):
                figure.text(0.88 + apart * i, y / height, "●", fontsize=4, color=COLOURS[word], va="center")
            y -= LINE
    counts = numbers[numbers["reading"] == ""].drop_duplicates("claim")["verdict"].value_counts()
    found = ", ".join(f"{count} {word}" for word, count in counts.items())
    style.caption(figure, f"{text} Level: {numbers['level'].iloc[0]:.4f}; {found}.", y=0.06 / height)
    return figure


def number_text(parts: pd.DataFrame) -> str:
    """Of the part that is worst placed."""
    if (row := worst(parts)) is None:
        return ""
    return f"{estimate_text(row)}, {target_text(row) or 'no target'}" + (
        f", {len(parts)} parts" if len(parts) > 1 else ""
    )


def worst(parts: pd.DataFrame) -> pd.Series | None:
    """Of several parts the one nearest to its target's wrong side; None of what is not computed."""
    known = parts.dropna(subset="estimate")
    if known.empty:
        return None
    slack = np.minimum(known["decision_low"] - known["target_low"], known["target_high"] - known["decision_high"])
    return known.loc[slack.fillna(-np.inf).idxmin()]


def estimate_text(row: pd.Series) -> str:
    interval = "" if row["low"] == row["high"] else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['estimate']:.2f}{interval}"


def target_text(row: pd.Series) -> str:
    """ "" of what has none."""
    low, high = row["target_low"], row["target_high"]
    if not np.isfinite([low, high]).any():
        return ""
    return f"≥ {low:g}" if high == np.inf else f"≤ {high:g}" if low == -np.inf else f"{low:g} to {high:g}"
