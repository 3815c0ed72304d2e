"""What a person wrote for the report, words.yaml."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
TEX = {
    "$": "",
    r"\alpha": "α",
    r"\gamma": "γ",
    r"\lambda": "λ",
    r"\langle": "⟨",
    r"\rangle": "⟩",
    r"\infty": "∞",
    "{": "",
    "}": "",
}


@cache
def words() -> dict[str, Any]:
    return yaml.safe_load((HERE / "words.yaml").read_text())


def title(name: str) -> str:
    """Of a figure."""
    return words()["figures"].get(name, name)


def readable(caption: str) -> str:
    """Without the few marks of TeX that captions have."""
    for mark, text in TEX.items():
        caption = caption.replace(mark, text)
    return caption
