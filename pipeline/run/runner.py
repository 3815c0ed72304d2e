"""From cells to tables: what is missing is computed, in parts, and stored."""

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
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
from pipeline.weights.planted import Planted, PlantedBy
from pipeline.weights.states import TrainedBy, preprocessing_of, weights_file

PART = 64  # images that are computed and stored together, whatever the batch size


def run_cells(cells: Sequence[Cell], context: Context, force: bool = False) -> list[Path]:
    """Compute the cells that are not in the store, sharing the work of those alike; paths of all tables.

    What can't be computed is refused before anything is. force: compute what is there again (not the networks that
    are trained for it).
    """
    cells = [with_file(cell, context) for cell in cells]
    todo = to_do(cells, context, force)
    for cell in todo:  # all rules before any images are looked for
        cell.spec.refuse(cell.experiment.name, cell.rule.name, cell.rule.value)
    for cell in todo:
        refuse(cell, context)
    if trainings := [by.cell for cell in todo for by in trained_for(cell)]:
        run_cells(trainings, context)
        for cell in cells:
            context.finished.pop(cell.key, None)
        todo = to_do(cells, context, force)  # a network that was trained again may differ
    groups: dict[str, list[Cell]] = {}
    for cell in todo:
        groups.setdefault(cell.shared_key, []).append(cell)
    if groups:
        over_images = [group[0].data.value for group in groups.values() if "images" in group[0].spec.needs]
        total = sum(len(context.image_set(data)) for data in over_images)
        with tqdm(total=total, unit="image", file=sys.stderr, disable=total == 0, dynamic_ncols=True) as bar:
            for i, group in enumerate(groups.values(), start=1):
                bar.set_description(group[0].title)
                run_group(group, context, force, bar)
                if i % 10 == 0:
                    gc.collect()  # left-overs of traced networks, which refer to themselves, scatter over gigabytes
    return [context.store.table_path(cell) for cell in cells]


def to_do(cells: Sequence[Cell], context: Context, force: bool) -> list[Cell]:
    """The different cells that have to be computed."""
    return list({cell.key: cell for cell in cells if force or not current(cell, context)}.values())


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


def current(cell: Cell, context: Context) -> bool:
    """Whether the cell is finished, and of the data and weights that are here now (if they are here at all)."""
    if cell.spec.fresh:
        return False
    if cell.key not in context.finished:
        known = context.store.manifest(cell)
        if known is None:
            return False
        if changed := changes(cell, context, known["fingerprints"]):
            folder = context.store.folder(cell)
            print(f"{' and '.join(changed)} changed since {folder} was computed: computing it again", file=sys.stderr)
            return False
        context.finished[cell.key] = known
    return True


@dataclass
class Given:
    """What an experiment can ask for by the names of its parameters; the network is built when it is first asked
    for."""

    cells: list[Cell]
    context: Context

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
            "target": lambda: Target(cell.target, lambda: context.original(cell)),
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


def run_group(cells: list[Cell], context: Context, force: bool, bar: tqdm) -> None:
    """Compute and store cells that share their work."""
    store = context.store

    def waiting() -> None:
        print("another process computes the same cells: waiting for it", file=sys.stderr)

    with store.lock(cells[0], waiting):
        if force:
            for part in (part for cell in cells for part in store.work(cell).glob("part-*")):
                part.unlink()
        else:  # another process may have finished them meanwhile
            cells = to_do(cells, context, force)
        if not cells:
            return
        rests_on = [fingerprints(cell, context) for cell in cells]
        for cell, found in zip(cells, rests_on, strict=True):
            store.open_work(cell, found)
        started, given, facts = time.monotonic(), Given(cells, context), manifest(cells[0], context)
        if "images" in cells[0].spec.needs:
            results, skipped = in_parts(given, bar)
            facts |= {"images": len(context.image_set(cells[0].data.value)) - len(skipped), "skipped": skipped}
        else:
            results = given.run(cells)
        facts["seconds"] = round(time.monotonic() - started, 3)
        given.forget()
        for cell, result, found in zip(cells, results, rests_on, strict=True):
            about = {"key": cell.identity, "fingerprints": found, **facts}
            context.finished[cell.key] = store.finish(cell, result, about)


def in_parts(given: Given, bar: tqdm) -> tuple[list[Result], list[str]]:
    """Results over all images, and the names of those skipped. Parts that are in the store are not computed again."""
    cells, context, store = given.cells, given.context, given.context.store
    data, run = cells[0].data.value, context.run
    images, pre = context.image_set(data), preprocessing_of(cells[0].weights.value, cells[0].model.value)
    size = run.batch_size or default_batch_size(pre.crop, context.device)
    numbers = range(-(-len(images) // PART))
    for number in numbers:
        first, stop = number * PART, min(len(images), (number + 1) * PART)
        missing = [cell for cell in cells if not store.part(cell, number).is_file()]
        if not missing:
            bar.update(stop - first)
            continue
        part = Images(
            images, first, stop, pre, data.on_error, size, run.workers, context.device, cells[0].dtype.torch, bar.update
        )
        for cell, result in zip(missing, given.run(missing, part), strict=True):
            store.write_part(cell, number, result, part.skipped)
    results, skipped = [], []
    for cell in cells:
        parts, missed = zip(*(store.read_part(cell, number) for number in numbers), strict=True)
        skipped = [name for names in missed for name in names]
        if len(skipped) == len(images):
            raise UserError(f"none of the {len(images)} images of data={cell.data.name} can be read; replace them")
        results.append(joined(parts))
    return results, skipped


def joined(parts: Sequence[Result]) -> Result:
    """One result from those of the parts, tables and tensors in order; parts without rows (no image read, none
    chosen) add nothing."""
    parts = [part for part in parts if len(part.table)] or list(parts[:1])
    tensors = {
        name: {key: torch.cat([part.tensors[name][key] for part in parts]) for key in keys}
        for name, keys in parts[0].tensors.items()
    }
    return Result(pd.concat([part.table for part in parts], ignore_index=True), tensors)


def default_batch_size(side: int, device: torch.device) -> int:
    """2 images of 224 px on the CPU, more of smaller ones and on a GPU."""
    images = 2 * (224 / side) ** 2 * (16 if device.type == "cuda" else 1)
    return int(min(PART, max(1, images)))
