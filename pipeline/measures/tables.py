"""Rows of a table."""

from typing import Any

import numpy as np

Table = Any  # a DataFrame, every selection of which pandas types as a frame, a series or a scalar


def where(table: Table, **values: Any) -> Table:
    """The rows with these values in these columns."""
    return table[np.logical_and.reduce([table[column] == value for column, value in values.items()])]


def torchvisions_cifar10(table: Table) -> bool:
    """Whether the images are CIFAR-10's as it was published: not of class folders, whose names test/<class>/<file> tell
    a copy that may have been compressed."""
    return {*table["data"]} == {"cifar10"} and not table["image"].str.fullmatch(".*/.*/.*").any()
