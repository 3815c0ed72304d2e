"""Tables on disk: written whole or not at all, read only if whole.

results/<experiment>/<key>/{table.parquet, config.yaml, manifest.json[, *.safetensors]}. A cell under way keeps its
finished parts in results/<experiment>/.work/<key>/. The manifest is written last and holds the checksums of the
table and the tensors.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import yaml
from torch import Tensor

from pipeline.errors import UserError
from pipeline.experiments.interface import Result
from pipeline.files import file_hash, flush, save_atomically
from pipeline.run.cell import Cell

SCHEMA = 1  # of the manifest and the folder


def save_tensors(tensors: Mapping[str, Tensor], path: Path, head: dict[str, str] | None = None) -> None:
    """head: texts by name, the file's metadata."""
    safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=head)


def rows_named(table: pd.DataFrame) -> dict[str, str]:
    """The head of a file of maps, which names its rows: {"rows": JSON of the columns that are no measurements}."""
    return {"rows": json.dumps(table.select_dtypes(exclude="float").to_dict("list"))}


def replace_folder(new: Path, place: Path) -> None:
    """Put the folder `new` in its place, and away what is there: also what another writer puts there meanwhile."""
    old = new.with_name(f"{new.name}.old")
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
class Store:
    root: Path  # the output folder

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
        try:
            manifest = json.loads((self.folder(cell) / "manifest.json").read_text())
            files = {"table.parquet": manifest["table"], **manifest.get("tensors", {})}
            whole = manifest["schema"] == SCHEMA and all(
                file_hash(self.folder(cell) / file) == seen for file, seen in files.items()
            )
        except (OSError, ValueError, KeyError):
            return None
        return manifest if whole else None

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
        """The part's table; it is written after the part's tensors, so the part is finished when this is there."""
        return self.work(cell) / f"part-{number:05d}.parquet"

    def write_part(self, cell: Cell, number: int, result: Result, skipped: list[str]) -> None:
        """skipped: names of images that could not be read."""
        path = self.part(cell, number)
        for name, tensors in result.tensors.items():
            save_atomically(path.with_suffix(f".{name}.safetensors"), partial(save_tensors, tensors))
        result.table.attrs |= {"skipped": skipped, "tensors": list(result.tensors)}
        save_atomically(path, lambda temporary: result.table.to_parquet(temporary, index=False))

    def read_part(self, cell: Cell, number: int) -> tuple[Result, list[str]]:
        path = self.part(cell, number)
        table = pd.read_parquet(path)
        skipped, names = table.attrs.pop("skipped"), table.attrs.pop("tensors")
        return Result(
            table, {name: safetensors.torch.load_file(path.with_suffix(f".{name}.safetensors")) for name in names}
        ), skipped

    def finish(self, cell: Cell, result: Result, manifest: dict[str, Any]) -> dict[str, Any]:
        """Put the whole cell in place; its manifest. Two writers are harmless: the last one wins."""
        folder, temporary = self.folder(cell), self.folder(cell).with_name(f".{cell.key}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            result.table.to_parquet(temporary / "table.parquet", index=False)
            heads = {"maps": rows_named(result.table), **result.heads}
            for name, tensors in result.tensors.items():
                save_tensors(tensors, temporary / f"{name}.safetensors", heads.get(name))
            (temporary / "config.yaml").write_text(yaml.safe_dump(cell.describe(), sort_keys=False))
            sums = {file.name: file_hash(file) for file in sorted(temporary.glob("*.safetensors"))}
            table = file_hash(temporary / "table.parquet")
            manifest = {"schema": SCHEMA, "table": table, "tensors": sums, **manifest, "facts": result.facts}
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
            for file in temporary.iterdir():
                flush(file)
            replace_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(self.work(cell), ignore_errors=True)
        return manifest

    @contextlib.contextmanager
    def lock(self, cell: Cell, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Keep other processes from computing the same cells meanwhile; only saves work, so a file system without
        locks is fine."""
        path = self.root / "results" / cell.experiment.name / ".locks" / cell.shared_key
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass
            yield
