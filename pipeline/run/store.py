"""Tables on disk: written whole or not at all, read only if whole.

results/<experiment>/<key>/{table.parquet, config.yaml, manifest.json[, *.safetensors]}. A cell under way keeps its
finished parts in results/<experiment>/.work/<key>/, and who computes what stands in .leases/. Manifests are written
last, hold the checksums of the other files, and are sealed by their own.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from pipeline.errors import UserError
from pipeline.experiments.interface import Result
from pipeline.files import file_hash, flush, save_atomically, sealed, unsealed
from pipeline.run.cell import Cell
from pipeline.run.leases import Leases

SCHEMA = 2  # of the manifest and the folder; 1: without a seal
OF_CELL = {"table": "table.parquet", "config": "config.yaml"}  # whose checksums a cell's manifest has


def save_tensors(tensors: Mapping[str, Tensor], path: Path, head: dict[str, str] | None = None) -> None:
    """head: texts by name, the file's metadata."""
    try:
        safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=head)
    except SafetensorError as error:  # which hides what the system said
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None
        raise


def rows_named(table: pd.DataFrame) -> dict[str, str]:
    """The head of a file of maps, which names its rows: {"rows": JSON of the columns that are no measurements}."""
    return {"rows": json.dumps(table.select_dtypes(exclude="float").to_dict("list"))}


def replace_folder(new: Path, place: Path) -> None:
    """Put the folder `new` in its place, and away what is there: also what another writer puts there meanwhile."""
    old = new.with_name(f"{new.name}.old")  # the name of `new` is nobody else's
    while True:
        with contextlib.suppress(FileNotFoundError):
            os.rename(place, old)
        shutil.rmtree(old, ignore_errors=True)
        try:
            os.rename(new, place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            flush(place.parent)
            return


@dataclass(frozen=True)
class Part:
    """Of a cell under way: a result over some of its images. about: names of those that were skipped, seconds, the
    manifest of what computed it."""

    result: Result
    about: dict[str, Any]


@dataclass(frozen=True)
class Store:
    root: Path  # the output folder
    leases: Leases = field(default_factory=lambda: Leases(beat=15.0))

    def check_writable(self) -> None:
        """Raises UserError if nothing can be written below the output folder."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"the output folder {self.root} can't be written ({error.strerror}); set run.output to one that can"
            ) from None

    def folder(self, cell: Cell) -> Path:
        return self.root / "results" / cell.experiment.name / cell.key

    def table_path(self, cell: Cell) -> Path:
        return self.folder(cell) / "table.parquet"

    def work(self, cell: Cell) -> Path:
        """Where a cell under way keeps what it would not like to lose."""
        return self.root / "results" / cell.experiment.name / ".work" / cell.key

    def manifest(self, cell: Cell) -> dict[str, Any] | None:
        """The manifest of a finished cell; None if the cell is not there, not whole, or of another schema."""
        return whole(self.folder(cell) / "manifest.json")

    def read(self, cell: Cell) -> pd.DataFrame:
        return pd.read_parquet(self.table_path(cell))

    def tensors(self, cell: Cell) -> dict[str, dict[str, Tensor]]:
        """What lies beside the table: {file: {key: tensor}}."""
        return {
            path.stem: safetensors.torch.load_file(path) for path in sorted(self.folder(cell).glob("*.safetensors"))
        }

    def open_work(self, cell: Cell, fingerprints: Mapping[str, str | None]) -> None:
        """Make the place of a cell under way; what is there of other data, weights or code than are here now goes."""
        file = self.work(cell) / "fingerprints.json"
        if file.is_file() and json.loads(file.read_text()) != fingerprints:
            shutil.rmtree(self.work(cell))
        save_atomically(file, lambda path: path.write_text(json.dumps(fingerprints)))

    def part(self, cell: Cell, number: int) -> Path:
        """The part's manifest; it is written last, so the part is finished when this is there."""
        return self.work(cell) / f"part-{number:05d}.json"

    def write_part(self, cell: Cell, number: int, part: Part, fingerprints: Mapping[str, str | None]) -> None:
        """fingerprints: what it rests on."""
        path, result = self.part(cell, number), part.result
        save_atomically(path.with_suffix(".parquet"), lambda file: result.table.to_parquet(file, index=False))
        for name, tensors in result.tensors.items():
            save_atomically(path.with_suffix(f".{name}.safetensors"), partial(save_tensors, tensors))
        files = [path.with_suffix(end) for end in (".parquet", *(f".{name}.safetensors" for name in result.tensors))]
        sums = {file.name: file_hash(file) for file in files}
        facts = {"schema": SCHEMA, "tensors": sums, "fingerprints": dict(fingerprints), "about": part.about}
        save_atomically(path, lambda file: file.write_text(sealed(facts)))

    def has_part(self, cell: Cell, number: int, fingerprints: Mapping[str, str | None]) -> bool:
        """Whether a finished part is there, whole, and of the data, weights and code that are here now."""
        facts = whole(self.part(cell, number))
        return facts is not None and facts["fingerprints"] == fingerprints

    def read_part(self, cell: Cell, number: int) -> Part:
        path = self.part(cell, number)
        facts = unsealed(path.read_text())
        tensors = {
            name.split(".")[1]: safetensors.torch.load_file(path.with_name(name))
            for name in facts["tensors"]
            if name.endswith(".safetensors")
        }
        return Part(Result(pd.read_parquet(path.with_suffix(".parquet")), tensors), facts["about"])

    def forget_parts(self, cell: Cell) -> None:
        for path in self.work(cell).glob("part-*"):
            path.unlink(missing_ok=True)

    def finish(self, cell: Cell, result: Result, manifest: dict[str, Any]) -> dict[str, Any]:
        """Put the whole cell in place; its manifest. Two writers are harmless: the last one wins."""
        folder = self.folder(cell)
        temporary = folder.with_name(f".{cell.key}.{secrets.token_hex(4)}")
        temporary.mkdir(parents=True)
        try:
            result.table.to_parquet(temporary / "table.parquet", index=False)
            heads = {"maps": rows_named(result.table), **result.heads}
            for name, tensors in result.tensors.items():
                save_tensors(tensors, temporary / f"{name}.safetensors", heads.get(name))
            (temporary / "config.yaml").write_text(yaml.safe_dump(cell.describe(), sort_keys=False))
            sums = {file.name: file_hash(file) for file in sorted(temporary.glob("*.safetensors"))}
            table = file_hash(temporary / "table.parquet")
            config = file_hash(temporary / "config.yaml")
            sums = {"table": table, "tensors": sums, "config": config}
            manifest = {"schema": SCHEMA, **sums, **manifest, "facts": result.facts}
            (temporary / "manifest.json").write_text(sealed(manifest))
            for file in temporary.iterdir():
                flush(file)
            replace_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(self.work(cell), ignore_errors=True)
        return unsealed((folder / "manifest.json").read_text())

    # ---- who computes what, and what went wrong ----------------------------------------------------------------------

    def lease(self, cell: Cell, unit: str, about: Mapping[str, Any]) -> contextlib.AbstractContextManager[bool]:
        """Whether this process may compute a unit (a part, "whole", "table") of the cells that share their work with
        this one."""
        return self.leases.lease(self.leases_folder(cell) / f"{cell.shared_key}.{unit}", about)

    def leases_folder(self, cell: Cell) -> Path:
        return self.root / "results" / cell.experiment.name / ".leases"

    def failure(self, cell: Cell) -> Path:
        return self.work(cell) / "failed.json"

    def fail(self, cell: Cell, why: str) -> None:
        """Note why a cell could not be computed, for `status`; forgotten when it is."""
        facts = {"why": why, "when": time.time()}
        with contextlib.suppress(OSError):  # a full disk may be what is wrong
            save_atomically(self.failure(cell), lambda path: path.write_text(json.dumps(facts)))

    def fail_all(self, cells: Sequence[Cell], why: str) -> None:
        """The same of all that have not failed in their own way."""
        for cell in cells:
            if not self.why_failed([cell]):
                self.fail(cell, why)

    def why_failed(self, cells: Sequence[Cell]) -> str:
        """What was noted of the first of them that failed, else ""."""
        for cell in cells:
            with contextlib.suppress(OSError, ValueError, KeyError):
                return json.loads(self.failure(cell).read_text())["why"]
        return ""


def whole(manifest: Path) -> dict[str, Any] | None:
    """A manifest whose seal and whose files' checksums are right, else None."""
    try:
        text = manifest.read_text()
        facts = json.loads(text) if '"schema": 1,' in text else unsealed(text)
        named = {name: facts[key] for key, name in OF_CELL.items() if key in facts}
        files = {**named, **facts.get("tensors", {})}
        right = facts["schema"] in (1, SCHEMA) and all(
            file_hash(manifest.parent / file) == seen for file, seen in files.items()
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return facts if right else None
