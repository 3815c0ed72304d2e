"""What is there of the cells of a command: done, running (where, since when, how far), failed (why), missing."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.run.cell import Cell
from pipeline.run.context import Context
from pipeline.run.groups import current
from pipeline.run.leases import BEATS, age, here, holder, last_touch, lives
from pipeline.run.runner import trained_for, with_file

STATES = ("done", "running", "failed", "missing")


@dataclass(frozen=True)
class State:
    cell: Cell
    state: str  # of STATES
    about: str


def states(cells: Sequence[Cell], context: Context) -> list[State]:
    """Of the cells, and of those that are trained for them."""
    return [state_of(cell, context) for cell in with_trainings(cells, context)]


def with_trainings(cells: Sequence[Cell], context: Context) -> list[Cell]:
    """Each once, those that are trained for others first."""
    placed = [with_file(cell, context) for cell in cells]
    trained = [with_file(by.cell, context) for cell in placed for by in trained_for(cell)]
    return list({cell.key: cell for cell in [*trained, *placed]}.values())


def state_of(cell: Cell, context: Context) -> State:
    store = context.store
    if current(cell, context):
        return State(cell, "done", str(store.table_path(cell)))
    there = len([*store.work(cell).glob("part-*.json")])
    parts = f"{there} parts are there" if there else ""
    running = [
        about
        for path in sorted(store.leases_folder(cell).glob(f"{cell.shared_key}.*"))
        if (about := running_text(path)) and ("table-" not in path.name or path.name.endswith(cell.key))
    ]
    if running:
        return State(cell, "running", "; ".join([*running, *([parts] if parts else [])]))
    try:
        failed = json.loads(store.failure(cell).read_text())
        return State(cell, "failed", f"{when(failed['when'])}: {failed['why']}")
    except (OSError, ValueError, KeyError):
        return State(cell, "missing", parts)


def running_text(lease: Path) -> str:
    """Who holds a lease, since when, and at what; "" if that is dead as far as can be seen at one glance."""
    known, touched = holder(lease), last_touch(lease)
    if known is None or touched is None:
        return ""
    alive = lives(known) if known["here"] == here() else age(lease, touched) < BEATS * known["beat"]
    part = f", part {known['part']} of {known['parts']}" if "part" in known else ""
    return f"{known['here'].split(' ')[0]} process {known['pid']} since {when(known['since'])}{part}" if alive else ""


def when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def report(cells: Sequence[Cell], context: Context) -> str:
    """A line for each cell, and their numbers."""
    found = states(cells, context)
    lines = [f"{one.state:8}{title(one.cell)}{f'   {one.about}' if one.about else ''}" for one in found]
    counts = Counter(one.state for one in found)
    return "\n".join([*lines, f"{len(found)} tables: {', '.join(f'{counts[state]} {state}' for state in STATES)}"])


def title(cell: Cell) -> str:
    return f"{cell.title} {cell.rule.name}" if {"rules", "asked"} & set(cell.spec.needs) else cell.title
