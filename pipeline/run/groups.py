"""Cells that share their work, computed in units: parts of 64 images, or the whole where there are no images.

Each unit is stored by itself, under a lease, so that a run that ends early goes on where it was, and several processes
do it together.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from pipeline.engine.network import Network
from pipeline.errors import UserError
from pipeline.experiments.interface import Result
from pipeline.experiments.targets import Target
from pipeline.images.batches import Images
from pipeline.run.cell import Cell
from pipeline.run.context import Context
from pipeline.run.provenance import changes, fingerprints, manifest
from pipeline.run.store import Part
from pipeline.weights.states import preprocessing_of, weights_file

PART = 64  # images that are computed and stored together, whatever the batch size


@dataclass(frozen=True)
class Group:
    """Cells of one shared_key. numbers: of the parts that are done here (0 stands for the whole); parts: how many there
    are; old: what a finished cell looked like when it was asked for anew; verified: parts that were seen whole."""

    cells: list[Cell]
    numbers: list[int]
    parts: int
    old: Mapping[str, Any]
    verified: set[tuple[str, int]] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)  # parts that the progress bar has seen

    @property
    def over_images(self) -> bool:
        return "images" in self.cells[0].spec.needs

    def open(self, context: Context) -> list[Cell]:
        """The cells that are not finished."""
        return [
            cell
            for cell in self.cells
            if not current(cell, context) or stamp(cell, context) == self.old.get(cell.key, "")
        ]

    def lacking(self, number: int, given: "Given") -> list[Cell]:
        """The cells whose part is not there."""
        store = given.context.store
        open_ = [cell for cell in given.cells if (cell.key, number) not in self.verified]
        there = [cell for cell in open_ if store.has_part(cell, number, given.rests_on[cell.key])]
        self.verified.update((cell.key, number) for cell in there)
        return [cell for cell in open_ if cell not in there]

    def images(self, number: int, context: Context) -> range:
        """Those of one part."""
        return range(len(context.image_set(self.cells[0].data.value)))[number * PART : (number + 1) * PART]


def parts_of(cell: Cell, context: Context) -> int:
    return -(-len(context.image_set(cell.data.value)) // PART) if "images" in cell.spec.needs else 1


def stamp(cell: Cell, context: Context) -> tuple[int, int] | None:
    """Differs from one writing of a cell to the next."""
    try:
        stat = (context.store.folder(cell) / "manifest.json").stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def current(cell: Cell, context: Context) -> bool:
    """Whether the cell is finished, and of the data and weights that are here now (if they are here at all)."""
    if cell.key not in context.finished:
        known = context.store.manifest(cell)
        if known is None or changes(cell, context, known["fingerprints"]):
            return False
        context.finished[cell.key] = known
    return True


def changed(cell: Cell, context: Context) -> list[str]:
    """What is other now than when the finished cell was computed."""
    known = context.store.manifest(cell)
    return changes(cell, context, known["fingerprints"]) if known else []


# ---- one unit after the other ----------------------------------------------------------------------------------------


def advance(group: Group, context: Context, bar: tqdm, beside: bool) -> bool:
    """Do what no other process does; whether nothing is left to do here. beside: also where another process is at the
    same cells."""
    cells = group.open(context)
    if not cells:
        return True
    given = Given(cells, context, {cell.key: fingerprints(cell, context) for cell in cells})
    try:
        if not group.over_images:
            return as_a_whole(group, given)
        there = True
        for number in group.numbers:
            there &= one_part(group, number, given, bar)
            if not there and not beside:
                return False
        done = [merged(group, cell, given) for cell in cells]
        return there and all(done)
    finally:
        given.forget()


def as_a_whole(group: Group, given: "Given") -> bool:
    """Compute and store cells that have no parts; False if another process is at it."""
    context, store = given.context, given.context.store
    with store.lease(given.cells[0], "whole", {"since": time.time()}) as mine:
        if not mine:
            return False
        cells = given.cells = group.open(context)  # another process may have finished them meanwhile
        if not cells:
            return True
        for cell in cells:
            store.open_work(cell, given.rests_on[cell.key])
        started = time.monotonic()
        results, facts = given.run(cells), manifest(cells[0], context)
        facts["seconds"] = round(time.monotonic() - started, 3)
        for cell, result in zip(cells, results, strict=True):
            about = {"key": cell.identity, "fingerprints": given.rests_on[cell.key], **facts}
            context.finished[cell.key] = store.finish(cell, result, about)
    return True


def one_part(group: Group, number: int, given: "Given", bar: tqdm) -> bool:
    """Compute and store one part of the cells that lack it; False if another process is at it."""
    store, which = given.context.store, group.images(number, given.context)
    if group.lacking(number, given):
        about = {"since": time.time(), "part": number + 1, "parts": group.parts}
        with store.lease(given.cells[0], f"part-{number:05d}", about) as mine:
            if not mine:
                return False
            given.cells = group.open(given.context)  # another process may have finished them meanwhile
            if cells := group.lacking(number, given):
                compute_part(cells, number, which, given, bar.update)
                group.counted.add(number)
    if number not in group.counted:
        group.counted.add(number)
        bar.update(len(which))
    return True


def compute_part(
    cells: list[Cell], number: int, which: range, given: "Given", advance: Callable[[int], object]
) -> None:
    context, images = given.context, part_images(cells[0], which, given.context, advance)
    started = time.monotonic()
    results, facts = given.run(cells, images), manifest(cells[0], context)
    about = {"skipped": images.skipped, "seconds": time.monotonic() - started, "facts": facts}
    for cell, result in zip(cells, results, strict=True):
        context.store.write_part(cell, number, Part(result, about), given.rests_on[cell.key])


def merged(group: Group, cell: Cell, given: "Given") -> bool:
    """Make one table of all parts, if they are there; whether that is done, or left to who does the other parts."""
    context, store, rests_on = given.context, given.context.store, given.rests_on[cell.key]
    theirs = len(group.numbers) < group.parts
    broken = {n for n in range(group.parts) if not store.has_part(cell, n, rests_on)}
    group.verified.difference_update((cell.key, number) for number in broken)
    if broken:
        return theirs and not broken & set(group.numbers)
    with store.lease(cell, f"table-{cell.key}", {"since": time.time()}) as mine:
        if not mine:
            return theirs
        if cell not in group.open(context):
            return True
        try:
            parts = [store.read_part(cell, number) for number in range(group.parts)]
        except (OSError, ValueError):  # another process finished it meanwhile, or the folder is gone
            return False
        skipped = [name for part in parts for name in part.about["skipped"]]
        images = len(context.image_set(cell.data.value))
        if len(skipped) == images:
            raise UserError(f"none of the {images} images of data={cell.data.name} can be read; replace them")
        facts = agreed([part.about["facts"] for part in parts])
        seconds = round(sum(part.about["seconds"] for part in parts), 3)
        about = {"key": cell.identity, "fingerprints": rests_on, **facts, "seconds": seconds}
        about |= {"images": images - len(skipped), "skipped": skipped}
        context.finished[cell.key] = store.finish(cell, joined([part.result for part in parts]), about)
    return True


def agreed(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Facts of all parts: each value, or where parts were computed differently a list of those there are."""
    found: dict[str, Any] = {}
    for key in several[0]:
        values = [facts[key] for facts in several]
        different = [value for i, value in enumerate(values) if value not in values[:i]]
        found[key] = different[0] if len(different) == 1 else different
    return found


def joined(parts: Sequence[Result]) -> Result:
    """One result from those of the parts, tables and tensors in order; parts without rows (no image read, none
    chosen) add nothing."""
    parts = [part for part in parts if len(part.table)] or list(parts[:1])
    tensors = {
        name: {key: torch.cat([part.tensors[name][key] for part in parts]) for key in keys}
        for name, keys in parts[0].tensors.items()
    }
    return Result(pd.concat([part.table for part in parts], ignore_index=True), tensors)


def part_images(cell: Cell, which: range, context: Context, advance: Callable[[int], object]) -> Images:
    data, pre = cell.data.value, preprocessing_of(cell.weights.value, cell.model.value)
    return Images(
        context.image_set(data), which.start, which.stop, pre, data.on_error, batch_size(cell, pre.crop, context),
        context.run.workers, context.device, cell.dtype.torch, advance,
    )  # fmt: skip


def batch_size(cell: Cell, side: int, context: Context) -> int:
    """By default 2 images of 224 px on the CPU, more of smaller ones and on a GPU."""
    if context.run.batch_size:
        return context.run.batch_size
    images = 2 * (224 / side) ** 2 * (16 if context.device.type == "cuda" else cell.spec.batch)
    return int(min(PART, max(1, images)))


@dataclass
class Given:
    """What an experiment can ask for by the names of its parameters; the network is built when it is first asked
    for."""

    cells: list[Cell]
    context: Context
    rests_on: dict[str, dict[str, str | None]]  # fingerprints by cell

    @cached_property
    def network(self) -> Network:
        return self.context.network(self.cells[0])

    def forget(self) -> None:
        """Free the network's weights. It refers to itself, and hundreds would pile up until the garbage collector
        comes."""
        if network := self.__dict__.pop("network", None):
            for parameter in network.module.parameters():
                parameter.data = parameter.new_empty(0)

    def run(self, cells: Sequence[Cell], images: Images | None = None) -> list[Result]:
        """The experiment's results: one per cell."""
        cell, context = cells[0], self.context
        values: dict[str, Callable[[], Any]] = {
            "network": lambda: self.network,
            "images": lambda: images,
            "rules": lambda: [cell.rule.value for cell in cells],
            "asked": lambda: [(cell.rule.value, cell.experiment.value) for cell in cells],
            "target": lambda: Target(cell.target, lambda: context.original(cell), context.original_cache),
            "options": lambda: cell.experiment.value,
            "model": lambda: cell.model.value,
            "weights": lambda: cell.weights.value,
            "seed": lambda: cell.seed,
            "data": lambda: cell.data.value,
            "attack": lambda: cell.attack.value,
            "planted": lambda: cell.attack.value.read(weights_file(cell.weights.value)),
            "device": lambda: context.device,
            "random_network": lambda: lambda seed: context.random_network(cell, seed),
            "work": lambda: context.store.work(cell),
        }
        return cell.spec.run(**{name: values[name]() for name in cell.spec.needs})
