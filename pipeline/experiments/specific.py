"""Whose image a map is: its own image against the others; and whether what is negative in it is the image too."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from pipeline.engine.network import Network
from pipeline.engine.rules import Method
from pipeline.experiments.external import map_of
from pipeline.experiments.interface import Result
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch
from pipeline.measures.maps import alignment
from pipeline.measures.ridge import unit_norm
from pipeline.seeds import keyed, name_seed

COLUMNS = ["image", "target", "alignment", "others", "ahead", "rank", "negative", "negative_shuffled"]


@dataclass(frozen=True)
class Options:
    """None so far."""


def run(
    network: Network, images: Iterable[Batch], rules: Sequence[Method], target: Target, options: Options
) -> list[Result]:
    """One table per rule, a row per image: COLUMNS.

    alignment: of the map with its image; others: with the other images of its part (of 64), their mean; ahead: the
    share of those that its own image is ahead of; rank: of its own image among all of them, 1 where the map finds it.
    negative: cos of the negative parts, min(R, 0) with min(x, 0); negative_shuffled: the same with the entries of the
    former in an order keyed by the image. NaN where a map is 0.
    """
    x: list[Tensor] = []
    maps: list[list[Tensor]] = [[] for _ in rules]
    rows: list[list[dict]] = [[] for _ in rules]
    for batch in images:
        record = network.forward(batch.x)
        classes = target.classes(batch, record.logits)
        x.append(unit_norm(record.x.flatten(1)))
        for rule, kept, table in zip(rules, maps, rows, strict=True):
            r = map_of(record, rule, classes)
            kept.append(unit_norm(r.flatten(1)))
            low, below = record.x.clamp(max=0), r.clamp(max=0)
            numbers = zip(
                batch.names,
                classes.tolist(),
                alignment(below, low).tolist(),
                alignment(shuffled(below, batch.names), low).tolist(),
                strict=True,
            )
            table += [
                dict(zip(("image", "target", "negative", "negative_shuffled"), row, strict=True)) for row in numbers
            ]
    return [
        Result(
            pd.DataFrame([row | found for row, found in zip(table, compared(kept, x), strict=True)], columns=COLUMNS)
        )
        for table, kept in zip(rows, maps, strict=True)
    ]


def shuffled(r: Tensor, names: Sequence[str]) -> Tensor:
    """(B, ...) with each sample's entries in another order."""
    flat = r.flatten(1)
    orders = [torch.randperm(flat.shape[1], generator=keyed(name_seed(name))) for name in names]
    return flat.gather(1, torch.stack(orders).to(r.device)).view_as(r)


def compared(maps: Sequence[Tensor], x: Sequence[Tensor]) -> list[dict[str, float]]:
    """Of n maps and images, each (B, d) of norm 1, in batches: a row per map."""
    cosines = (torch.cat(list(maps)) @ torch.cat(list(x)).T).double().cpu() if maps else torch.zeros(0, 0)
    found = []
    for i, (row, own) in enumerate(zip(cosines, cosines.diagonal(), strict=True)):
        others = torch.cat([row[:i], row[i + 1 :]])
        missing = bool(own.isnan()) or not len(others)
        ahead = float("nan") if missing else float((own > others).double().mean())
        rank = float("nan") if missing else float(1 + (others >= own).sum())
        mean = float("nan") if missing else float(others.mean())
        found.append({"alignment": float(own), "others": mean, "ahead": ahead, "rank": rank})
    return found
