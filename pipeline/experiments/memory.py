"""How much of what is sent down is still seen in the map: starts in each layer, of the class and of nothing, compared
at the input."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.network import Network, Record
from pipeline.engine.walk import one_hot, unit_scale, walk
from pipeline.experiments.interface import Result
from pipeline.experiments.rank1 import descents, other_classes
from pipeline.experiments.rows import Columns, over_images
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch, Images
from pipeline.measures.maps import alignment
from pipeline.seeds import keyed, name_seed

STARTS = ("activation", "own")
AGAINST = ("noise", "other", "runner_up", "constant")
COLUMNS = [
    "image", "target", "layer", "name", "start", "against", "cosine", "alignment", "alignment_against",
]  # fmt: skip


@dataclass(frozen=True)
class Options:
    """layers: names of the layers where maps start; null: all but the last."""

    layers: list[str] | None


def run(network: Network, images: Images, rules: Sequence[Rule], target: Target, options: Options) -> list[Result]:
    """One table per rule, a row per image, layer l, start of STARTS and other one of AGAINST: COLUMNS.

    What is sent down from A_l under the rule: activation, A_l itself; own, the rule's r_l for the class; against these
    noise, |N(0, 1)| keyed by image and layer; other, A_l of the image that follows; runner_up, the rule's r_l for that
    class; constant, 1. cosine: of the two maps at the input, without bottom process; alignment, alignment_against: of
    each with x. NaN where a map is 0.
    """
    numbers = network.numbers(options.layers)

    def found(batch: Batch, record: Record, classes: Tensor) -> Iterator[Iterator[Columns]]:
        runner_up = next(iter(other_classes(batch, record.logits, classes).values()))
        others = network.forward(torch.cat([images.other(name) for name in batch.names]))
        for rule in rules:
            sent = [rule.start(one_hot(record, k), record.logits) for k in (classes, runner_up)]
            yield (
                {"layer": layer, "name": network.unit_name(layer), **columns}
                for layer, (own, second) in descents(record, rule, sent)
                if layer in numbers
                for columns in compared(
                    record.x,
                    {
                        name: walk(record, unit_scale(r), lambda _, rule=rule: rule, layer)
                        for name, r in {
                            "activation": record.activation(layer),
                            "own": own,
                            "noise": noise(record.activation(layer), batch.names, layer),
                            "other": others.activation(layer),
                            "runner_up": second,
                            "constant": torch.ones_like(own),
                        }.items()
                    },
                )
            )

    return over_images(network, images, rules, target, found)


def noise(like: Tensor, names: Sequence[str], layer: int) -> Tensor:
    """|N(0, 1)| of this shape (B, ...), each sample keyed by its image's name."""
    drawn = [torch.randn(like.shape[1:], generator=keyed(name_seed(name), layer)).abs() for name in names]
    return torch.stack(drawn).to(like)


def compared(x: Tensor, maps: dict[str, Tensor]) -> Iterator[Columns]:
    aligned = {name: alignment(r, x) for name, r in maps.items()}
    for start in STARTS:
        for against in AGAINST:
            yield {
                "start": start,
                "against": against,
                "cosine": alignment(maps[start], maps[against]),
                "alignment": aligned[start],
                "alignment_against": aligned[against],
            }
