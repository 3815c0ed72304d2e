"""From cells to tables: what is missing is computed and stored, as far as no other process does it."""

import gc
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from pipeline.errors import UserError
from pipeline.run.cell import Cell
from pipeline.run.context import Context, shard_of
from pipeline.run.groups import Group, advance, changed, current, parts_of, stamp
from pipeline.run.launch import tasks_of
from pipeline.weights.planted import Planted, PlantedBy
from pipeline.weights.states import TrainedBy, weights_file


def run_cells(cells: Sequence[Cell], context: Context, force: bool = False) -> list[Path]:
    """Compute the cells that are not in the store, sharing the work of those alike; paths of all tables.

    What can't be computed is refused before anything is; what fails later, after the others. force: compute what is
    there again (not the networks that are trained for it). Where context.run says so (shard, groups), only a share is
    computed, and some tables may not be there.
    """
    cells = [with_file(cell, context) for cell in cells]
    for folder in {context.store.leases_folder(cell) for cell in cells}:
        context.store.leases.sweep(folder)
    todo = to_do(cells, context, force)
    check(todo, context)
    groups = groups_of(cells, todo, context, force)
    if trainings := trainings_of([cell for group in groups for cell in group.cells], todo, context):
        run_cells(trainings, replace(context, run=replace(context.run, shard=None, groups=None)))
        for cell in cells:
            context.finished.pop(cell.key, None)
        todo = to_do(cells, context, force)  # a network that was trained again may differ
        groups = groups_of(cells, todo, context, force)
    if groups:
        total = sum(len(group.images(number, context)) for group in groups for number in group.numbers)
        with tqdm(total=total, unit="image", file=sys.stderr, disable=total == 0, dynamic_ncols=True) as bar:
            run_groups(groups, context, bar)
    return [context.store.table_path(cell) for cell in cells]


def launched(cells: Sequence[Cell], context: Context, launch: Callable[[list[list[str]]], None]) -> None:
    """Let other processes compute the cells that are not in the store, first what others are trained for. `launch`
    takes tasks, lists of shared keys, and returns when they are done or on their way. Raises UserError, before any
    work, for what can't be computed."""
    cells = [with_file(cell, context) for cell in cells]
    todo = to_do(cells, context, context.run.force)
    check(todo, context)
    trainings = {by.cell.key: with_file(by.cell, context) for cell in todo for by in trained_for(cell)}
    for some in (list(trainings.values()), cells):
        force = context.run.force and some is cells
        if tasks := tasks_of(some, to_do(some, context, force)):
            launch(tasks)
        context.finished.clear()
        if some is not cells and to_do(some, context, False):
            raise UserError("networks are being trained first; run the same command again when they are there")


def check(cells: Sequence[Cell], context: Context) -> None:
    """Raises UserError for cells that can't be computed, as far as that is known before."""
    for cell in cells:  # all rules before any images are looked for
        cell.spec.refuse(cell.experiment.name, cell.rule.name, cell.rule.value)
    for cell in cells:
        refuse(cell, context)


def out_of_reach(cells: Sequence[Cell], context: Context) -> str:
    """Why cells that are not in the store can't be computed, as far as that is known before; "" if they can."""
    placed = [with_file(cell, context) for cell in cells]
    try:
        check([cell for cell in placed if not current(cell, context)], context)
    except UserError as error:
        return str(error)
    return ""


def trainings_of(needed_by: Sequence[Cell], todo: Sequence[Cell], context: Context) -> list[Cell]:
    """What has to be trained for these cells, and what context.run.groups names of the trainings for the others."""
    named = context.run.groups or ()
    found = [by.cell for cell in needed_by for by in trained_for(cell)]
    return found + [by.cell for cell in todo for by in trained_for(cell) if by.cell.shared_key in named]


def groups_of(cells: Sequence[Cell], todo: Sequence[Cell], context: Context, force: bool) -> list[Group]:
    """What is to do here: units of `todo` are dealt out by the order of all cells, which is the same in each process,
    whatever is finished when it starts."""
    wanted, shard = context.run.groups, context.run.shard and shard_of(context.run.shard)
    firsts = first_units(cells, context)
    found: dict[str, list[Cell]] = {}
    for cell in todo:
        if wanted is None or cell.shared_key in wanted:
            found.setdefault(cell.shared_key, []).append(cell)
    groups = []
    for key, alike in found.items():
        parts = parts_of(alike[0], context)
        numbers = [number for number in range(parts) if not shard or firsts[key] + number in shard]
        old = {cell.key: stamp(cell, context) for cell in alike if force or cell.spec.fresh}
        if numbers:
            groups.append(Group(alike, numbers, parts, old))
        for cell in alike if force else ():
            context.store.forget_parts(cell)
    return groups


def first_units(cells: Sequence[Cell], context: Context) -> dict[str, int]:
    """The number of each group's first unit among those of all groups, by shared key."""
    alike = {cell.shared_key: cell for cell in cells}
    firsts, units = {}, 0
    for key in sorted(alike):
        firsts[key] = units
        try:
            units += parts_of(alike[key], context)
        except UserError:  # of what is finished the images may not be here
            units += 1
    return firsts


def run_groups(groups: Sequence[Group], context: Context, bar: tqdm) -> None:
    """One group after the other; what other processes are at is waited for when everything else is done. Raises at the
    end what went wrong."""
    total = sum(len(group.cells) for group in groups)
    failed: list[tuple[Cell, Exception]] = []
    left, rounds = list(groups), 0
    while left:
        busy: list[Group] = []
        apart: list[Group] = []
        for i, group in enumerate(left, start=1):
            bar.set_description(group.cells[0].title)
            try:
                if not advance(group, context, bar, beside=rounds > 0):
                    busy.append(group)
            except OSError:  # a full disk concerns all
                raise
            except Exception as error:
                if len(group.cells) > 1:  # one of them may be the bad one
                    apart += [replace(group, cells=[cell], verified=set()) for cell in group.cells]
                    continue
                failed.append((group.cells[0], error))
                note(group.cells[0], error, context, total)
            if i % 10 == 0:
                gc.collect()  # left-overs of traced networks, which refer to themselves, scatter over gigabytes
        if busy and rounds == 1:
            bar.write("another process computes the same cells: waiting for it", file=sys.stderr)
        if busy and rounds:
            time.sleep(min(1.0, context.run.heartbeat))
        left, rounds = busy + apart, rounds + 1
    if failed:
        cell, error = failed[0]
        if total == 1:
            raise error
        reason = str(error).rstrip(".") or type(error).__name__
        raise UserError(f"{len(failed)} of {total} tables could not be computed; the first, {cell.title}: {reason}")


def note(cell: Cell, error: Exception, context: Context, total: int) -> None:
    """Why a cell failed, for `status`; where it is one of several it is said at once."""
    context.store.fail(cell, str(error) or type(error).__name__)
    if total > 1 and isinstance(error, UserError):
        tqdm.write(f"{cell.title}: {error}", file=sys.stderr)
    elif total > 1:
        traceback.print_exception(error)


def left_out(cells: Sequence[Cell], context: Context) -> list[Cell]:
    """Those that are not there, for this process does a share only; says so."""
    left = [cell for cell in cells if not current(with_file(cell, context), context)]
    if left:
        print(f"{len(left)} of {len(cells)} tables are left to the processes with the other shares", file=sys.stderr)
    return left


def to_do(cells: Sequence[Cell], context: Context, force: bool) -> list[Cell]:
    """The different cells that have to be computed; says which files changed since they were."""
    found = {cell.key: cell for cell in cells if force or cell.spec.fresh or not current(cell, context)}
    for cell in found.values():
        if not force and (names := changed(cell, context)):
            folder = context.store.folder(cell)
            print(f"{' and '.join(names)} changed since {folder} was computed: computing it again", file=sys.stderr)
    return list(found.values())


def refuse(cell: Cell, context: Context) -> None:
    """Raises UserError for a cell that can't be computed, as far as that is known before."""
    least = cell.spec.least_images(cell.experiment.value)
    if "images" in cell.spec.needs and len(context.image_set(cell.data.value)) < least:
        raise UserError(
            f"{cell.title} needs at least {least} images, for it compares one with another; set data.limit to more, "
            "or choose other data"
        )
    attack = cell.attack.value
    if "attack" in cell.spec.needs and isinstance(attack, Planted | PlantedBy):
        raise UserError(
            "attack=planted is a backdoor that a network has, and none to train it under; choose attack=none, or one "
            "of the others"
        )
    if "planted" in cell.spec.needs:
        if not isinstance(attack, Planted | PlantedBy):
            raise UserError(
                f"experiment={cell.experiment.name} shows images with the trigger of a trained attack; set "
                "attack=planted, for that of the network's own weights, and planted.path for another's"
            )
        if isinstance(attack, Planted) and not (attack.path is None and isinstance(cell.weights.value, TrainedBy)):
            attack.read(weights_file(cell.weights.value))  # it is there, and what it should be


def with_file(cell: Cell, context: Context) -> Cell:
    """The cell, with the places of what other cells train for it."""

    def placed(by: TrainedBy) -> TrainedBy:
        return replace(by, path=context.store.folder(by.cell) / "model.safetensors")

    weights, attack = cell.weights, cell.attack
    if not isinstance(weights.value, TrainedBy) and not isinstance(attack.value, PlantedBy):
        return cell  # with what it has found out about itself
    if isinstance(weights.value, TrainedBy):
        weights = replace(weights, value=placed(weights.value))
    if isinstance(attack.value, PlantedBy):
        attack = replace(attack, value=replace(attack.value, by=placed(attack.value.by)))
    return replace(cell, weights=weights, attack=attack)


def trained_for(cell: Cell) -> list[TrainedBy]:
    """What other cells train for it."""
    weights, attack = cell.weights.value, cell.attack.value
    found = [weights] if isinstance(weights, TrainedBy) else []
    if isinstance(attack, PlantedBy) and "planted" in cell.spec.needs:
        found.append(attack.by)
    return found
