"""Blocks of the README that a script writes, between two marks."""

from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def written(readme: str, marks: tuple[str, str], block: str) -> str:
    """README with the block between its marks. Raises ValueError where these are not."""
    before, rest = readme.split(marks[0])
    return f"{before}{marks[0]}\n{block}\n{marks[1]}{rest.split(marks[1], 1)[1]}"
