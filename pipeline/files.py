"""Files: where those that come with the code are, hashes, atomic writes, and the user's own functions, named as
package.module:function."""

import hashlib
import importlib
import importlib.util
import json
import os
import secrets
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

_installed, _checkout = Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf"
CONF = (_checkout if (_checkout / "config.yaml").is_file() else _installed).resolve()
SUM = b"\nsha256:"
CHECKPOINTS = Path(__file__).parent / "checkpoints"


@cache
def options_of(group: str) -> list[str]:
    """The names of a group's options, conf/<group>/<name>.yaml."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def file_hash(file: Path) -> str | None:
    """A file's SHA-256 in hexadecimal, None if it isn't there."""
    if not file.is_file():
        return None
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def save_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, flush it to disk, rename it: it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        write(temporary)
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sealed(facts: Mapping[str, Any]) -> str:
    """Plain data as JSON, with a checksum of its own."""
    facts = json.loads(json.dumps(facts))  # as it will be read
    return json.dumps({**facts, "seal": _seal(facts)}, indent=1)


def unsealed(text: str) -> dict[str, Any]:
    """What `sealed` wrote. Raises ValueError if it is no longer that."""
    facts = json.loads(text)
    if not isinstance(facts, dict) or facts.pop("seal", None) != _seal(facts):
        raise ValueError("the seal is broken")
    return facts


def _seal(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def summed(content: bytes) -> bytes:
    """Content with its checksum behind it."""
    return content + SUM + hashlib.sha256(content).hexdigest().encode()


def unsummed(content: bytes) -> bytes:
    """What `summed` was given (content without a checksum, of an earlier version, as it is). Raises ValueError if it is
    no longer that."""
    whole, mark, digest = content.rpartition(SUM)
    if not mark:
        return content
    if hashlib.sha256(whole).hexdigest().encode() != digest:
        raise ValueError("the checksum is another one")
    return whole


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def import_callable(path: str, field: str) -> Callable[..., Any]:
    """`package.module:function` -> the function. Raises UserError, naming the config field, if there is none."""
    module_name, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{field}={path} can't be imported ({error}); write it as package.module:function") from None
    if not callable(found):
        raise UserError(f"{field}={path} is not callable; write it as package.module:function")
    return found


def source_hash(call: str) -> str | None:
    """The hash of the file that defines `package.module:function`, without importing it; None if it isn't found."""
    try:
        spec = importlib.util.find_spec(call.partition(":")[0])
    except (ImportError, ValueError):
        return None
    return file_hash(Path(spec.origin)) if spec and spec.origin else None
