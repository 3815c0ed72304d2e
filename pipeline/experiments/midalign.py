"""Alignment of what a rule sends down with the activation of each layer: Theorem 2's (18) on a real network."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.network import Network, Record
from pipeline.engine.walk import one_hot
from pipeline.experiments.interface import Result
from pipeline.experiments.rank1 import descents
from pipeline.experiments.rows import Columns, over_images
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch
from pipeline.measures.maps import alignment

COLUMNS = ["image", "target", "layer", "name", "alignment"]


@dataclass(frozen=True)
class Options:
    """None so far."""


def run(
    network: Network, images: Iterable[Batch], rules: Sequence[Rule], target: Target, options: Options
) -> list[Result]:
    """One table per rule, a row per image and layer l = L-1..0: COLUMNS.

    alignment: the cosine of the rule's r_l with A_l, for l = 0 of the map with x; name: of the layer ("" for l = 0).
    NaN where a rule has cut all of r_l.
    """

    def found(_: Batch, record: Record, classes: Tensor) -> Iterator[Iterator[Columns]]:
        for rule in rules:
            start = rule.start(one_hot(record, classes), record.logits)
            yield (
                {"layer": layer, "name": network.unit_name(layer), "alignment": alignment(r, record.activation(layer))}
                for layer, (r,) in descents(record, rule, [start])
            )

    return over_images(network, images, rules, target, found)
