"""The competing theory (Sixt et al. [33]): how parallel the vectors become that a rule sends down from different
classes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.network import Network, Record
from pipeline.engine.walk import one_hot, step, unit_scale
from pipeline.errors import UserError
from pipeline.experiments.interface import Result
from pipeline.experiments.rows import Columns, over_images
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch
from pipeline.measures.maps import alignment
from pipeline.seeds import keyed, name_seed

COLUMNS = ["image", "target", "against", "other", "layer", "name", "cosine"]
WITH_CENTRED = "cosine_centred"  # after them, with this option


@dataclass(frozen=True)
class Options:
    """centred: also the cosine after each vector's mean is taken off (the correlation)."""

    centred: bool


def run(
    network: Network, images: Iterable[Batch], rules: Sequence[Rule], target: Target, options: Options
) -> list[Result]:
    """One table per rule, a row per image, other class and layer l = L-1..0: COLUMNS.

    against: runner_up, the highest logit but the target's, or random, another class, keyed by the image; other: that
    class; name: of A_l's layer ("" for l = 0, the map itself); cosine, cosine_centred: of r_l from the two classes. NaN
    where a rule has cut all of r_l.
    """

    def found(batch: Batch, record: Record, classes: Tensor) -> Iterator[Iterator[Columns]]:
        others = other_classes(batch, record.logits, classes)
        for rule in rules:
            starts = [rule.start(one_hot(record, k), record.logits) for k in (classes, *others.values())]
            yield (
                {"against": against, "other": other, "layer": layer, "name": network.unit_name(layer)}
                | cosines(r, s, options)
                for layer, (r, *rest) in descents(record, rule, starts)
                for (against, other), s in zip(others.items(), rest, strict=True)
            )

    return over_images(network, images, rules, target, found)


def cosines(r: Tensor, s: Tensor, options: Options) -> dict[str, Tensor]:
    """(B,) each."""
    found = {"cosine": alignment(r, s)}
    return found | {WITH_CENTRED: alignment(centred(r), centred(s))} if options.centred else found


def other_classes(batch: Batch, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """(B,) each. Raises UserError for a network with a single class."""
    count = logits.shape[1]
    if count < 2:
        raise UserError("the network has one class, and two are compared")
    runner_up = logits.scatter(1, classes[:, None], -torch.inf).argmax(1)
    shifts = [int(torch.randint(1, count, (), generator=keyed(name_seed(name)))) for name in batch.names]
    return {"runner_up": runner_up, "random": (classes + torch.tensor(shifts, device=classes.device)) % count}


@torch.no_grad()
def descents(record: Record, rule: Rule, starts: list[Tensor]) -> Iterator[tuple[int, list[Tensor]]]:
    """(l, r_l from each start) for l = L-1..0. Each r is rescaled on its way, which changes no direction."""
    for layer in range(record.network.depth, 0, -1):
        starts = [unit_scale(step(record, layer, r, rule)) for r in starts]
        yield layer - 1, starts


def centred(r: Tensor) -> Tensor:
    return r - r.mean(tuple(range(1, r.ndim)), keepdim=True)
