"""Does a better r_l make a better map (Section III-B: the alignment is handed down)? Starts between A_l and noise."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.network import Network, Record
from pipeline.engine.walk import walk
from pipeline.experiments.interface import Result
from pipeline.experiments.memory import noise
from pipeline.experiments.rows import Columns, over_images
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch
from pipeline.measures.maps import alignment
from pipeline.measures.ridge import unit_norm

COLUMNS = ["image", "target", "layer", "name", "share", "alignment_layer", "alignment"]


@dataclass(frozen=True)
class Options:
    """layers: names of the layers where maps start; null: all but the last; every: 2 for every second of them, from
    the first on; shares: of noise in r_l."""

    layers: list[str] | None
    shares: list[float]
    every: int = 1

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"every must be at least 1, not {self.every}")
        if not self.shares or min(self.shares) < 0 or max(self.shares) > 1:
            raise ValueError("shares must be some numbers in [0, 1]")


def run(
    network: Network, images: Iterable[Batch], rules: Sequence[Rule], target: Target, options: Options
) -> list[Result]:
    """One table per rule, a row per image, layer l and share s: COLUMNS.

    r_l = (1 - s) A_l / |A_l| + s n / |n|, n = |N(0, 1)| keyed by image and layer (as in experiment=memory), goes down
    under the rule; alignment_layer: cos(r_l, A_l), alignment: of the map with x.
    """

    def found(batch: Batch, record: Record, classes: Tensor) -> Iterator[Iterator[Columns]]:
        for rule in rules:
            yield (
                {
                    "layer": layer,
                    "name": network.unit_name(layer),
                    "share": share,
                    "alignment_layer": alignment(r, record.activation(layer)),
                    "alignment": alignment(walk(record, r, lambda _, rule=rule: rule, layer), record.x),
                }
                for layer in network.numbers(options.layers)[:: options.every]
                for share, r in mixtures(record.activation(layer), batch.names, layer, options.shares)
            )

    return over_images(network, images, rules, target, found)


def mixtures(a: Tensor, names: Sequence[str], layer: int, shares: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
    first, second = unit_norm(a), unit_norm(noise(a, names, layer))
    for share in shares:
        yield share, (1 - share) * first + share * second
