"""Which process computes what: a file that can be created once names who does, and is touched as long as that lives.

No lock of the operating system is needed, so that processes on several hosts can share an output folder over the
network. Leases only save work: two that hold the same one compute the same, and each result appears whole.
"""

import atexit
import contextlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

HELD: dict[str, tuple[Path, int]] = {}  # leases of this process by token, and its number, which a fork has not
BEATS = 4  # so many beats without a sign of life, and the lease of another host is that of a dead process


@cache
def here() -> str:
    """This host since its last start, and the name space of process numbers: processes can be looked up in it."""
    found = [platform.node()]
    with contextlib.suppress(OSError):
        found += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(found)


def born(pid: int) -> str | None:
    """When a process of this host started, in ticks since the host's start; "" where that can't be known, None if there
    is no such process."""
    with contextlib.suppress(OSError):
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else numbers[18]  # nobody has asked yet how it ended
    try:
        os.kill(pid, 0)
    except PermissionError:
        return ""
    except OSError:
        return None
    return ""


def lives(known: Mapping[str, Any]) -> bool:
    """Whether the process of this host that a lease names is still there."""
    now = born(known["pid"])
    return now is not None and now == known["born"]


@dataclass(frozen=True)
class Leases:
    """beat: seconds between signs of life."""

    beat: float
    _watched: dict[Path, tuple[int, float]] = field(default_factory=dict)  # last touch, and since when it is that one

    @contextlib.contextmanager
    def lease(self, path: Path, about: Mapping[str, Any]) -> Iterator[bool]:
        """Whether this process holds the lease `path`, until the block ends; it does not where another one does.

        about: what others may read of it, plain data.
        """
        token = secrets.token_hex(8)
        mine = {
            "token": token,
            "here": here(),
            "pid": os.getpid(),
            "born": born(os.getpid()),
            "beat": self.beat,
            **about,
        }
        HELD[token] = path, os.getpid()  # before the file: a signal may come at any moment
        if not create(path, mine):
            seen = holder(path)
            if self.dead(path, seen):
                self.clear(path, seen)
            if not create(path, mine):
                HELD.pop(token)
                yield False
                return
        self._watched.pop(path, None)
        stop = threading.Event()
        threading.Thread(target=touch, args=(path, self.beat, stop), daemon=True).start()
        try:
            yield True
        finally:
            stop.set()
            give_back(path, token)

    def clear(self, path: Path, seen: Mapping[str, Any] | None) -> None:
        """Take the lease of a dead process away as it was seen, and not the one that another process has in its place
        by now: who does it has a lease on that."""
        token = (seen or {}).get("token", "")
        with self.lease(path.with_name(f".{path.name}.{token}"), {"since": time.time()}) as alone:
            if alone and holder(path) == seen:
                path.unlink(missing_ok=True)

    def sweep(self, folder: Path) -> None:
        """Take away what dead processes left in a folder of leases: also those of units that they finished, at which
        nobody looks again."""
        with contextlib.suppress(OSError):  # a folder that can only be read
            for path in sorted(folder.glob("*")):
                seen = holder(path)
                if self.dead(path, seen):
                    self.clear(path, seen)

    def dead(self, path: Path, known: Mapping[str, Any] | None) -> bool:
        """Whether who holds the lease (`known` says it) is gone: seen at once of a process of this host, else by its
        heartbeat.

        Clocks are not trusted: what counts is how long this process has watched the lease stay as it is. That may be
        shorter where the file's age, by the clock of its file system, says the same.
        """
        touched = last_touch(path)
        if touched is None:
            return True
        if known and known.get("here") == here():
            return not lives(known)
        now = time.monotonic()
        last, since = self._watched.get(path, (None, now))
        if last != touched:
            self._watched[path] = (touched, now)
            return False
        watched = now - since
        return watched > BEATS * self.beat or (watched > 2 * self.beat and age(path, touched) > BEATS * self.beat)


def create(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the file was not there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with open(descriptor, "w") as file:
        file.write(json.dumps(facts))
    return True


def holder(path: Path) -> dict[str, Any] | None:
    """What the file says; None if it is not there, or just being written."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def last_touch(path: Path) -> int | None:
    """Modification time in nanoseconds. Over the network an open file has no outdated one."""
    try:
        with open(path) as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def age(path: Path, touched: int) -> float:
    """Seconds since then, by the clock that gives this folder's files their times."""
    probe = path.with_name(f".{secrets.token_hex(4)}")
    try:
        probe.touch()
        return (probe.stat().st_mtime_ns - touched) / 1e9
    finally:
        probe.unlink(missing_ok=True)


def give_back(path: Path, token: str) -> None:
    """Unless another process has it by now."""
    if (holder(path) or {}).get("token") == token:
        path.unlink(missing_ok=True)
    HELD.pop(token, None)


@atexit.register
def give_all_back() -> None:
    """What a signal kept from being given back."""
    for token, (path, pid) in [*HELD.items()]:
        if pid == os.getpid():
            with contextlib.suppress(OSError):
                give_back(path, token)


def touch(path: Path, beat: float, stop: threading.Event) -> None:
    while not stop.wait(beat):
        try:
            os.utime(path)
        except OSError:  # taken over, or the folder is gone
            return
