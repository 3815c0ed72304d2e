"""From cells to tables, and from tables to a figure: the only module that sees both."""

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from pipeline.engine.network import Network
from pipeline.errors import UserError
from pipeline.experiments.interface import Result
from pipeline.experiments.targets import Target
from pipeline.files import file_hash, save_atomically
from pipeline.images.batches import Images, load_batches
from pipeline.run.cell import Cell, Choice, digest, network_parts
from pipeline.run.provenance import fingerprints, forget_files, image_set, manifest
from pipeline.run.store import Store
from pipeline.weights.states import HE_GAUSSIAN, TrainedBy, network_of, original, preprocessing_of

PART = 64  # images that are computed and stored together, whatever the batch size
CALIBRATION = 64  # images on which weights=... batchnorm: calibrated looks


@dataclass(frozen=True)
class Run:
    """How to compute, which changes no result: device (auto, cpu, cuda, cuda:1), images per batch (null: by size), processes
    that load images, the output folder, and whether finished cells are computed again."""

    device: str
    batch_size: int | None
    workers: int
    output: str
    force: bool

    def __post_init__(self):
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        if self.workers < 0:
            raise ValueError("workers must be at least 0")


def device_of(name: str) -> torch.device:
    """auto: a GPU if there is one. Raises UserError for a device that is not there. TF32 is off: float32 means float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        device = torch.device(
            "cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name
        )
    except RuntimeError:
        raise UserError(f"run.device={name} is no device; set it to auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"run.device={name} needs a CUDA GPU that torch can use, and here is none; set run.device=cpu")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"run.device={name} is not supported; set it to auto, cpu, cuda or cuda:N")
    return device


def run_cells(cells: Sequence[Cell], run: Run) -> list[Path]:
    """Compute the cells that are not in the store, sharing the work of those that differ in their rule alone; paths of all tables."""
    forget_files()
    _originals.clear()
    store = Store(Path(run.output))
    store.check_writable()
    device = device_of(run.device)
    cells = [with_file(store, cell) for cell in cells]
    todo = to_do(cells, run, store)
    if trainings := [cell.weights.value.cell for cell in todo if isinstance(cell.weights.value, TrainedBy)]:
        run_cells(
            trainings, replace(run, force=False)
        )  # what is asked for anew are the tables, not the networks that they measure
        forget_files()
        todo = to_do(cells, run, store)  # a network that was trained again may differ
    groups: dict[str, list[Cell]] = {}
    for cell in todo:
        groups.setdefault(cell.shared_key, []).append(cell)
    if groups:
        total = sum(len(image_set(group[0])) for group in groups.values() if "images" in group[0].spec.needs)
        with tqdm(total=total, unit="image", file=sys.stderr, disable=total == 0, dynamic_ncols=True) as bar:
            for i, group in enumerate(groups.values(), start=1):
                bar.set_description(group[0].title)
                run_group(group, run, store, device, bar)
                if i % 10 == 0:
                    gc.collect()  # what is left of traced networks, which refer to themselves, would scatter over gigabytes
    return [store.table_path(cell) for cell in cells]


def to_do(cells: Sequence[Cell], run: Run, store: Store) -> list[Cell]:
    """The different cells that have to be computed."""
    return list({cell.key: cell for cell in cells if run.force or not current(store, cell)}.values())


def with_file(store: Store, cell: Cell) -> Cell:
    """The cell, with the place of the weights that another cell trains for it."""
    weights = cell.weights.value
    if not isinstance(weights, TrainedBy):
        return cell
    file = store.folder(weights.cell) / "model.safetensors"
    return replace(cell, weights=replace(cell.weights, value=replace(weights, file=file)))


def current(store: Store, cell: Cell) -> bool:
    """Whether the cell is finished, and of the data and weights that are here now (if they are here at all)."""
    manifest = store.manifest(cell)
    if manifest is None or cell.spec.fresh:
        return False
    now = fingerprints(cell)
    changed = [what for what, value in now.items() if value and manifest["fingerprints"].get(what) != value]
    if changed:
        print(
            f"{' and '.join(changed)} changed since {store.folder(cell)} was computed: computing it again",
            file=sys.stderr,
        )
    return not changed


_originals: dict[str, Network] = {}


@dataclass
class Given:
    """What an experiment can ask for by the names of its parameters; the network is built when it is first asked for."""

    cell: Cell
    store: Store
    device: torch.device
    random_networks: dict[int, Network] = field(default_factory=dict)

    @cached_property
    def network(self) -> Network:
        return build_network(self.cell, self.device)

    def forget(self) -> None:
        """Free the network's weights. It refers to itself, and hundreds would pile up until the garbage collector comes."""
        if network := self.__dict__.pop("network", None):
            for parameter in network.module.parameters():
                parameter.data = parameter.new_empty(0)

    @cached_property
    def original(self) -> Network:
        cell = replace(self.cell, weights=replace(self.cell.weights, value=original(self.cell.weights.value)))
        key = digest({"network": str(network_parts(cell)), "device": str(self.device)})
        if key not in _originals:  # many cells are compared with one network: the last one is kept
            _originals.clear()
            _originals[key] = build_network(cell, self.device)
        return _originals[key]

    def random_network(self, seed: int) -> Network:
        """The model under i.i.d. Gaussian weights. Kept: an experiment's parts ask for it again and again."""
        if seed not in self.random_networks:
            cell = replace(self.cell, weights=Choice("gaussian", HE_GAUSSIAN), seed=seed)
            self.random_networks[seed] = build_network(cell, self.device)
        return self.random_networks[seed]

    def run(self, cells: Sequence[Cell], images: Images | None = None) -> list[Result]:
        """The experiment's results: one per cell, or one."""
        cell = self.cell
        values: dict[str, Callable[[], Any]] = {
            "network": lambda: self.network,
            "images": lambda: images,
            "rules": lambda: [one.rule.value for one in cells],
            "asked": lambda: [(one.rule.value, one.experiment.value) for one in cells],
            "random_network": lambda: self.random_network,
            "target": lambda: Target(cell.target, lambda: self.original),
            "options": lambda: cell.experiment.value,
            "model": lambda: cell.model.value,
            "weights": lambda: cell.weights.value,
            "seed": lambda: cell.seed,
            "data": lambda: cell.data.value,
            "device": lambda: self.device,
            "work": lambda: self.store.work(cell),
        }
        return cell.spec.run(**{name: values[name]() for name in cell.spec.needs})


def run_group(cells: list[Cell], run: Run, store: Store, device: torch.device, bar: tqdm) -> None:
    """Compute and store cells that differ in their rule alone."""
    with store.lock(
        cells[0], waiting=lambda: print("another process computes the same cells: waiting for it", file=sys.stderr)
    ):
        if run.force:
            for part in (part for cell in cells for part in store.work(cell).glob("part-*")):
                part.unlink()
        else:  # another process may have finished them meanwhile
            cells = [cell for cell in cells if not current(store, cell)]
        if not cells:
            return
        for cell in cells:
            store.open_work(cell, fingerprints(cell))
        started, given, facts = time.monotonic(), Given(cells[0], store, device), manifest(cells[0], device)
        if "images" in cells[0].spec.needs:
            results, skipped = in_parts(cells, given, run, bar)
            facts |= {"images": len(image_set(cells[0])) - len(skipped), "skipped": skipped}
        else:
            results = given.run(cells)
        facts["seconds"] = round(time.monotonic() - started, 3)
        given.forget()
        for cell, result in zip(cells, results, strict=True):
            store.finish(cell, result, {"key": cell.identity, **facts})


def in_parts(cells: list[Cell], given: Given, run: Run, bar: tqdm) -> tuple[list[Result], list[str]]:
    """Results over all images, and the names of those skipped. Parts that are in the store are not computed again."""
    images, pre = image_set(cells[0]), preprocessing_of(cells[0].weights.value, cells[0].model.value)
    size = run.batch_size or default_batch_size(pre.crop, given.device)
    numbers = range(-(-len(images) // PART))
    for number in numbers:
        first, stop = number * PART, min(len(images), (number + 1) * PART)
        missing = [cell for cell in cells if not given.store.part(cell, number).is_file()]
        if not missing:
            bar.update(stop - first)
            continue
        part = Images(
            images,
            first,
            stop,
            pre,
            cells[0].data.value.on_error,
            size,
            run.workers,
            given.device,
            cells[0].dtype.torch,
            bar.update,
        )
        for cell, result in zip(missing, given.run(missing, part), strict=True):
            given.store.write_part(cell, number, result, part.skipped)
    results, skipped = [], []
    for cell in cells:
        parts, missed = zip(*(given.store.read_part(cell, number) for number in numbers), strict=True)
        skipped = [name for names in missed for name in names]
        if len(skipped) == len(images):
            raise UserError(f"none of the {len(images)} images of data={cell.data.name} can be read; replace them")
        results.append(joined(parts))
    return results, skipped


def joined(parts: Sequence[Result]) -> Result:
    """One result from those of the parts, tables and tensors in order; parts without rows (no image read, none chosen) add nothing."""
    parts = [part for part in parts if len(part.table)] or list(parts[:1])
    tensors = {
        name: {key: torch.cat([part.tensors[name][key] for part in parts]) for key in keys}
        for name, keys in parts[0].tensors.items()
    }
    return Result(pd.concat([part.table for part in parts], ignore_index=True), tensors)


def build_network(cell: Cell, device: torch.device) -> Network:
    def first_images() -> torch.Tensor:
        images = image_set(cell)
        chosen = images.pick(range(min(CALIBRATION, len(images))))
        batches = load_batches(
            chosen, preprocessing_of(cell.weights.value, cell.model.value), CALIBRATION, 0, cell.data.value.on_error, []
        )
        return torch.cat([batch.x for batch in batches])

    network = network_of(cell.weights.value, cell.model.value, cell.seed, cell.dtype.torch, first_images)
    network.module.to(device)
    return network


def default_batch_size(side: int, device: torch.device) -> int:
    """2 images of 224 px on the CPU, more of smaller ones and on a GPU."""
    images = 2 * (224 / side) ** 2 * (16 if device.type == "cuda" else 1)
    return int(min(PART, max(1, images)))


def draw_figure(figure: str, sweeps: dict[str, list[Cell]], profile: str, run: Run, name: str = "") -> Path:
    """Compute what is missing, read the tables (and the maps, if the figure draws them), draw; path of the figure's pdf (its png and
    csv lie beside it). name: of its files, by default the figure's. What is drawn from the same tables by the same code stays."""
    run_cells([cell for cells in sweeps.values() for cell in cells], run)
    store, folder = Store(Path(run.output)), Path(run.output) / "figures"
    pdf, record = folder / f"{name or figure}.pdf", folder / f".{name or figure}.json"
    drawn_from = {
        "code": drawing_code(),
        "profile": profile,
        "sweeps": {sweep: [store.checksums(cell) for cell in cells] for sweep, cells in sweeps.items()},
    }
    there = all(file.is_file() for file in (pdf, pdf.with_suffix(".png"), pdf.with_suffix(".csv"), record))
    if there and not run.force and record.read_text() == digest(drawn_from):
        return pdf

    from pipeline.figures import FIGURES, draws_maps, save  # seaborn is slow to import, and only figures need it

    module = FIGURES[figure]
    tables = {
        sweep: pd.concat([store.read(cell).assign(**facts(cell)) for cell in cells], ignore_index=True)
        for sweep, cells in sweeps.items()
    }
    maps = (
        {sweep: [(facts(cell), store.tensors(cell)) for cell in cells] for sweep, cells in sweeps.items()}
        if draws_maps(module)
        else None
    )
    save(module, name or figure, tables, profile, folder, maps)
    save_atomically(record, lambda path: path.write_text(digest(drawn_from)))
    return pdf


@cache
def drawing_code() -> str:
    """What a figure depends on beside its tables: the code that draws, and the libraries."""
    here = Path(__file__).parents[1]
    files = [*sorted((here / "figures").glob("*.py")), *sorted((here / "measures").glob("*.py"))]
    return digest(
        {
            "files": [file_hash(file) for file in files],
            "versions": [metadata.version(name) for name in ("matplotlib", "seaborn", "pandas", "numpy", "diptest")],
        }
    )


def facts(cell: Cell) -> dict[str, Any]:
    """Which cell it is, named as on the command line: weights, seed, rule, rule.first_layer ... (`explained` is the setting target)"""
    found: dict[str, Any] = {}
    for group in ("experiment", "model", "weights", "rule", "data"):
        choice = getattr(cell, group)
        found[group] = choice.name
        found |= {
            f"{group}.{k}": v
            for k, v in cell.describe()[group].items()
            if k != "choice" and not isinstance(v, list | dict)
        }
    return {**found, "seed": cell.seed, "explained": cell.target}
