"""How long the missing tables of a command take, and how much memory: of each kind of table a few images are computed
on this device (cost.py), the rest is multiplication."""

import heapq
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm import tqdm

from pipeline.run.cell import Cell, digest
from pipeline.run.context import Context
from pipeline.run.cost import Cost, measure, planter, stand_ins
from pipeline.run.groups import Group
from pipeline.run.provenance import device_name
from pipeline.run.runner import first_units, groups_of, to_do, trained_for, with_file

DEVICES = (1, 8, 64)
SECONDS = 60.0  # of measuring in all; each kind takes at least what its smallest batches take


@dataclass(frozen=True)
class Work:
    """Tables that share their work. title: their kind in words; first: number of the first unit among all, by which
    they are dealt out, -1 for a training; images: in each unit."""

    title: str
    tables: int
    first: int
    images: tuple[int, ...]
    cost: Cost

    @property
    def units(self) -> list[float]:
        return [self.cost.unit + images * self.cost.image for images in self.images]

    @property
    def seconds(self) -> float:
        return self.cost.begin + sum(self.units)


def report(cells: Sequence[Cell], context: Context) -> str:
    """A line for each kind of missing table. Raises UserError for what can't be measured."""
    context = replace(context, run=replace(context.run, shard=None, groups=None))
    cells = [with_file(cell, context) for cell in cells]
    todo = to_do(cells, context, context.run.force)
    trainings = list({by.cell.key: by.cell for cell in todo for by in trained_for(cell)}.values())
    trainings = to_do([with_file(cell, context) for cell in trainings], context, force=False)
    if not todo and not trainings:
        return f"all {len({cell.key for cell in cells})} tables are there"
    absent = stand_ins([*todo, *trainings], context)
    groups, firsts = groups_of(cells, todo, context, force=False), first_units(cells, context)
    kinds: dict[str, list[Group]] = {}
    for group in [*(Group([cell], [0], 1, {}) for cell in trainings), *groups]:
        kinds.setdefault(kind(group.cells), []).append(group)
    works = []
    with tqdm(kinds.values(), file=sys.stderr, unit="kind", dynamic_ncols=True) as bar:
        for alike in bar:
            bar.set_description(alike[0].cells[0].title)
            cost = measure(alike[0], context, SECONDS / len(kinds))
            for group in alike:
                images = tuple(len(group.images(n, context)) for n in group.numbers) if group.over_images else (0,)
                first = firsts.get(group.cells[0].shared_key, -1)  # trainings are not dealt out
                works.append(Work(title(alike[0]), len(group.cells), first, images, cost))
    return "\n".join([*lines(works), *closing(cells, todo, absent, context)])


def kind(cells: Sequence[Cell]) -> str:
    """What costs the same: whatever the weights and the seed are."""

    def costly(cell: Cell) -> dict[str, Any]:
        found = {name: part for name, part in cell.identity.items() if name not in ("weights", "seed", "data")}
        if cell.experiment.name == "train":
            found["options"] = {name: value for name, value in found["options"].items() if name != "seed"}
        images = cell.data.name if {"images", "data"} & {*cell.spec.needs} else ""
        return {**found, "attack": attack_of(cell) if "attack" in found else "", "images": images}

    return digest({"cells": sorted(digest(costly(cell)) for cell in cells)})


def attack_of(cell: Cell) -> str:
    """Its name, for a planted one as far as that is known."""
    by = planter(cell)
    return by.attack.name if by else getattr(cell.attack.value, "name", None) or cell.attack.name


def title(group: Group) -> str:
    """A kind in words."""
    cell = group.cells[0]
    named = {"model": cell.model.name, "images": cell.data.name, "attack": attack_of(cell)}
    needs = {*cell.spec.needs} | ({"model"} if "network" in cell.spec.needs else set())
    needs |= ({"images"} if "data" in needs else set()) | ({"attack"} if "planted" in needs else set())
    words = [text for need, text in named.items() if need in needs and text != "none"]
    ruled = {"rules", "asked"} & {*cell.spec.needs}
    rules = list(dict.fromkeys(one.rule.name for one in group.cells)) if ruled else []
    several = f"{len(group.cells)} x {len(rules)} rules" if len(rules) > 3 else " ".join(rules)
    return " ".join([cell.experiment.name, *words, *([several] if several else [])])


# ---- adding up -------------------------------------------------------------------------------------------------------


def on_devices(works: Sequence[Work], count: int) -> float:
    """Seconds until so many devices have done everything: trainings first, each by the device that is free first, then
    every device its shard of the units (run.shard), for which it builds the network of each group once."""
    free = [0.0] * count
    for work in works:
        if work.first < 0:
            heapq.heapreplace(free, free[0] + work.seconds)
    busy = [0.0] * count
    for work in works:
        begun = set()
        for number, seconds in enumerate(work.units if work.first >= 0 else ()):
            device = (work.first + number) % count
            busy[device] += seconds + (0.0 if device in begun else work.cost.begin)
            begun.add(device)
    return max(free) + max(busy)


def lines(works: Sequence[Work]) -> list[str]:
    """A table: kinds, and all of them."""
    kinds: dict[str, list[Work]] = {}
    for work in works:
        kinds.setdefault(work.title, []).append(work)
    head = ["", "tables", "images", "a table", "memory", *(f"{n} device{'s' * (n > 1)}" for n in DEVICES)]
    rows = [head, *(row(name, alike) for name, alike in kinds.items())]
    if len(kinds) > 1:
        rows.append(row("in all", works))
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(head))]
    return [
        "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
        for cells in rows
    ]


def row(name: str, works: Sequence[Work]) -> list[str]:
    tables, images = sum(work.tables for work in works), {sum(work.images) for work in works}
    each = clock(sum(work.seconds for work in works) / tables)
    some = str(max(images)) if len(images) == 1 and images != {0} else "" if images == {0} else f"to {max(images)}"
    memory = f"{max(work.cost.memory for work in works) / 1e9:.1f} GB"
    return [name, str(tables), some, each, memory, *(clock(on_devices(works, count)) for count in DEVICES)]


def closing(cells: Sequence[Cell], todo: Sequence[Cell], absent: Sequence[str], context: Context) -> list[str]:
    device = context.device
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    there = len({cell.key for cell in cells}) - len(todo)
    notes = [f"estimated from what some images took on {device_name(device)}{threads}; on several devices by run.shard"]
    if there:
        notes.append(f"{there} tables are there and are not counted")
    return notes + [f"measured with {what}, which are not here" for what in absent]


def clock(seconds: float) -> str:
    """0.5 s, 12 s, 3 min, 1 h 20 min, 3 days 4 h."""
    if seconds < 100:
        return f"{seconds:{'.0f' if seconds >= 10 else '.1f' if seconds >= 1 else '.1g'}} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"
