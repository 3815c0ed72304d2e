"""README's findings, from what figure=claims has written: python scripts/findings.py outputs/figures/claims.csv

The csv is kept beside README's picture, where its numbers can be looked up; without an argument they are written anew
from there.
"""

import shutil
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pipeline.claims.readings import READINGS
from pipeline.figures.claims import OPEN, estimate_text, target_text, worst
from scripts.blocks import README, written

KEPT = README.parent / ".github" / "ledger.csv"
MARKS = "<!-- findings: scripts/findings.py -->", "<!-- end -->"
SHOWN = ("random>trained", "uniform-he", "rules-insensitive", "filter-carries", "kis-beyond")  # one of each subject

FLIPS = {reading.flips for reading in READINGS}  # said of a verdict that another reading turns into its opposite


def findings(ledger: pd.DataFrame) -> str:
    """A line for each claim shown: its words, verdict, number [95 % interval] and target; then how many there are."""
    main = ledger[ledger["reading"].isna()]
    lines = []
    for name in SHOWN:
        parts = main[main["claim"] == name]
        first, row = parts.iloc[0], worst(parts)
        number = "" if row is None else f": {row['part']} {estimate_text(row)}, target {target_text(row)}"
        flips = [why for why in str(first["why"]).split("; ") if why in FLIPS]
        why = f" ({'; '.join(flips)})" if flips else ""
        words = first["words"].rstrip(".")
        lines.append(f"- {words[0].upper()}{words[1:]} (`{name}`): **{first['verdict']}**{why}{number}")
    one = main.drop_duplicates("claim")
    counts = one["verdict"].value_counts(sort=False)
    counted = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    left = ", ".join(f"`{name}`" for name in one.loc[one["verdict"] == OPEN, "claim"])
    rest = f" Not computed in that run: {left}." if left else ""
    return "\n".join([*lines, "", f"Of all {counts.sum()} claims, in the demo profile: {counted}.{rest}"])


def main() -> None:
    if len(sys.argv) > 1:
        shutil.copyfile(sys.argv[1], KEPT)
    README.write_text(written(README.read_text(), MARKS, findings(pd.read_csv(KEPT))))


if __name__ == "__main__":
    main()
