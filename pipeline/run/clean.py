"""What can be thrown away below the output folder: results that no figure refers to, and what dead runs left."""

import contextlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.run.leases import age, last_touch
from pipeline.run.status import running_text
from pipeline.run.store import Store, whole

OLD = 3600.0  # seconds after which a temporary file of a figure is nobody's any more


@dataclass(frozen=True)
class Rubbish:
    path: Path
    why: str

    @property
    def bytes(self) -> int:
        files = [self.path] if self.path.is_file() else self.path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    def remove(self) -> None:
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def rubbish(store: Store, known: Collection[str]) -> Iterator[Rubbish]:
    """known: keys of the cells that figures refer to. What a living process may be at is left out."""
    for folder in sorted(path for path in (store.root / "results").glob("*") if path.is_dir()):
        leases = sorted((folder / ".leases").glob("*"))
        dead = [path for path in leases if not running_text(path)]
        yield from (Rubbish(path, "lease of a dead process") for path in dead)
        alive = len(dead) < len(leases)
        for path in sorted(folder.iterdir()):
            if path.name == ".locks":
                yield Rubbish(path, "locks of an earlier version")
            elif path.name.startswith(".") and path.name not in (".leases", ".work") and not alive:
                yield Rubbish(path, "left by a dead run")
            elif not path.name.startswith(".") and path.name not in known:
                yield Rubbish(path, "no figure of any profile refers to it")
        if alive:
            continue
        for path in sorted((folder / ".work").glob("*")):
            if path.name not in known or whole(folder / path.name / "manifest.json"):
                yield Rubbish(path, "parts of no table that is asked for")
            else:
                yield from (Rubbish(file, "left by a dead run") for file in sorted(path.glob(".*")))
    for path in sorted((store.root / "figures").glob(".*.*.*")):
        if (touched := last_touch(path)) and age(path, touched) > OLD:
            yield Rubbish(path, "left by a dead run")


def resumable(store: Store, found: Collection[Rubbish]) -> list[Path]:
    """Work of interrupted runs, which the same commands go on from."""
    going = {one.path for one in found}
    return [path for path in sorted(store.root.glob("results/*/.work/*")) if path not in going]


def size(number: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def listed(store: Store, found: Collection[Rubbish]) -> str:
    lines = [f"{one.path}   {size(one.bytes)}: {one.why}" for one in found]
    lines += [f"{path}   stays: an interrupted run goes on from it" for path in resumable(store, found)]
    return "\n".join([*lines, f"{len(found)} to remove, {size(sum(one.bytes for one in found))}"])


def remove(found: Collection[Rubbish]) -> None:
    for one in found:
        with contextlib.suppress(FileNotFoundError):
            one.remove()
