"""Figures: each a module with `numbers(tables)`, all that is drawn, and `draw(numbers, caption)`. They read tables and compute nothing else.

To add one: write such a module, enter it in FIGURES, add conf/figure/<name>.yaml with its sweeps.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pandas as pd

from pipeline.figures import style
from pipeline.store import save_atomically

FIGURES: dict[str, ModuleType] = {name: import_module(f"pipeline.figures.{name}") for name in ("fig2",)}


def save(module: ModuleType, name: str, tables: Mapping[str, pd.DataFrame], profile: str, folder: Path) -> Path:
    """Draw a figure from its sweeps' tables: <name>.pdf, .png and .csv (exactly what is drawn) in `folder`; the pdf's path."""
    style.use_style()
    numbers = module.numbers(tables)
    figure = module.draw(numbers, module.caption(tables, profile))
    paths = [folder / f"{name}{suffix}" for suffix in (".csv", ".png", ".pdf")]
    save_atomically(paths[0], lambda path: numbers.to_csv(path, index=False))
    for path in paths[1:]:
        save_atomically(path, lambda temporary: style.save(figure, temporary))
    style.close(figure)
    return paths[-1]
