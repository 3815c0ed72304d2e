"""Tables with rows for each image, from columns over a batch."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from pipeline.engine.network import Network, Record
from pipeline.engine.rules import Method
from pipeline.experiments.interface import Result
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch

Columns = dict[str, Any]  # {column: (B,) values, a tensor or a list, or one value that all images share}


def rows_of(images: Sequence[str], found: Iterable[Columns]) -> list[dict[str, Any]]:
    """Rows image by image; each image has one of every columns found."""
    tables = []
    for columns in found:
        columns = {"image": list(images), **columns}
        values = [v.tolist() if isinstance(v, Tensor) else v for v in columns.values()]
        by_image = zip(*(v if isinstance(v, list) else [v] * len(images) for v in values), strict=True)
        tables.append([dict(zip(columns, row, strict=True)) for row in by_image])
    return [row for rows in zip(*tables, strict=True) for row in rows]


def over_images(
    network: Network,
    images: Iterable[Batch],
    rules: Sequence[Method],
    target: Target,
    measure: Callable[[Batch, Record, Tensor], Iterable[Iterable[Columns]]],
) -> list[Result]:
    """One table per rule: image, target, and the columns that `measure` finds with it.

    measure: the batch, the network on it, the classes (B,) that are explained -> of each rule the columns of each row
    that an image gets.
    """
    rows: list[list[dict[str, Any]]] = [[] for _ in rules]

    def enter(batch: Batch) -> None:  # what it holds goes before the next batch comes
        record = network.forward(batch.x)
        classes = target.classes(batch, record.logits)
        for table, found in zip(rows, measure(batch, record, classes), strict=True):
            table += rows_of(batch.names, ({"target": classes, **columns} for columns in found))

    for batch in images:
        enter(batch)
    return [Result(pd.DataFrame(table)) for table in rows]
