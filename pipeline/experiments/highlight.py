"""Whether a map lights up the trigger: how much of it lies inside the trigger's mask, on triggered images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from pipeline.attacks.files import Known
from pipeline.engine.filters import first_layer_filter
from pipeline.engine.network import Network
from pipeline.engine.rules import Method
from pipeline.experiments.external import map_of
from pipeline.experiments.interface import Result
from pipeline.experiments.rows import Columns, rows_of
from pipeline.experiments.targets import Target
from pipeline.experiments.triggered import check_labels_known, triggers_of
from pipeline.images.batches import Images
from pipeline.measures.masks import inside_mask, rank_correlation

MAPS = ("attribution", "filter")
COLUMNS = [
    "image", "label", "goal", "decision", "target", "map", "energy", "rank_accuracy", "iou", "pointing", "share",
    "rank_correlation",
]  # fmt: skip


@dataclass(frozen=True)
class Options:
    """maps: of MAPS; filter is P x = W_1 W_1^T x of the triggered image, which knows nothing of the decision."""

    maps: list[str]

    def __post_init__(self):
        if not self.maps or not set(self.maps) <= set(MAPS):
            raise ValueError(f"maps must name some of {', '.join(MAPS)}")


def run(
    network: Network, images: Images, rules: Sequence[Method], target: Target, options: Options, planted: Known
) -> list[Result]:
    """One table per rule, a row per triggered image and map: COLUMNS (measures.masks); the first ones are NaN where the
    trigger is everywhere. Maps are without bottom process; the activation starts at layer L / 3, as in Table I."""
    triggers = triggers_of(planted, images)
    rows: list[list[dict]] = [[] for _ in rules]
    for batch in images:
        check_labels_known(batch)
        mask = triggers.mask(batch)
        triggered = replace(batch, x=triggers.trigger(batch))
        record = network.forward(triggered.x)
        classes = target.classes(triggered, record.logits)
        change = triggers.pixels(triggered.x) - triggers.pixels(batch.x)
        about = {
            "label": batch.labels,
            "goal": triggers.goals(batch),
            "decision": record.logits.argmax(1),
            "target": classes,
        }
        for rule, table in zip(rules, rows, strict=True):
            for name in options.maps:
                r = first_layer_filter(record) if name == "filter" else map_of(record, rule, classes)
                table += rows_of(batch.names, [{**about, "map": name, **measured(r, mask, change)}])
    return [Result(pd.DataFrame(table, columns=COLUMNS)) for table in rows]


def measured(r: Tensor, mask: Tensor | None, change: Tensor) -> Columns:
    nowhere = torch.zeros_like(r[:, :1], dtype=torch.bool)
    found = inside_mask(r, nowhere if mask is None else mask)
    return {**found, "rank_correlation": rank_correlation(r, change)}
