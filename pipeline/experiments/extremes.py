"""Fig. 6: are large activations what counts? Propagation starts at a layer from its largest units alone, or its
smallest, with the rule below."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.engine.network import Network, Record
from pipeline.engine.rules import Rule, rational
from pipeline.engine.walk import attribute, one_hot, step, unit_scale, walk
from pipeline.experiments.interface import Result
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch
from pipeline.measures.maps import alignment
from pipeline.seeds import keyed, name_seed

COLUMNS = [
    "image", "target", "layer", "name", "part", "seed_with", "share", "units", "alignment", "sim_all", "sim_original",
]  # fmt: skip


class SeedWith(Enum):
    activation = "activation"  # r_l = A_l
    relevance = "relevance"  # the rule's own r_l; masking it masks LRP's relevance A_l r_l as well
    product = "product"  # r_l = that relevance A_l r_l itself, as if it were an activation


@dataclass(frozen=True)
class Options:
    """share: of the active (non-zero) units that max, min and random take, max(1, ceil(share x active)); seed_with:
    r on the chosen units."""

    share: float
    seed_with: SeedWith

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], not {self.share}")


Key = tuple[int, int, str]  # index of the rule, layer, part


def run(
    network: Network, images: Iterable[Batch], rules: Sequence[Rule], target: Target, options: Options
) -> list[Result]:
    """One table per rule, a row per image, layer l = 1..L-1 and part: COLUMNS.

    r_l is set on the part's units and 0 elsewhere, and the rule runs from A_l to the input (the ReLU of layer l
    included; layer 1 as the rule's `first_layer` says). all: every unit; max, min: the largest and the smallest active
    ones by |A_l|, lower index first among equals; random: as many active ones, keyed by image and layer; constant_max,
    constant_min (for seed_with=activation alone): r = the sign of A_l on those units. units: how many; sim_all,
    sim_original: cosine with the map of `all` at that layer, and with the rule's attribution from the output. NaN where
    nothing comes back, as from a layer without active units. L is left out: A_L are logits, and their extremes are
    classes.
    """
    rows: list[list[dict[str, Any]]] = [[] for _ in rules]
    for batch in images:
        record = network.forward(batch.x)
        classes = target.classes(batch, record.logits)
        measured = {
            key: {name: v.tolist() for name, v in values.items()}
            for key, values in measure(record, rules, classes, batch.names, options)
        }
        for b, image in enumerate(batch.names):
            for i, layer, part in sorted(measured, key=lambda key: key[:2]):  # parts stay in their order
                facts = {
                    "image": image,
                    "target": int(classes[b]),
                    "layer": layer,
                    "name": network.unit_name(layer),
                    "part": part,
                }
                numbers = {name: column[b] for name, column in measured[i, layer, part].items()}
                rows[i].append({**facts, "seed_with": options.seed_with.value, "share": options.share, **numbers})
    return [Result(pd.DataFrame(table)) for table in rows]


@torch.no_grad()
def measure(
    record: Record, rules: Sequence[Rule], classes: Tensor, images: Sequence[str], options: Options
) -> Iterator[tuple[Key, dict[str, Tensor]]]:
    """The numbers of every rule, layer and part, each (B,).

    A rule sees the record's B samples, so each part goes down by itself: L^2 / 2 units for each part and rule.
    Repeating the batch, so that the parts travel together, was no faster.
    """
    x, top = record.x, record.network.depth
    original = [attribute(record, rule, classes) for rule in rules]
    own = [rule.start(one_hot(record, classes), record.logits) for rule in rules]
    for layer in range(top - 1, 0, -1):
        a = record.activation(layer)
        if options.seed_with is not SeedWith.activation:
            own = [unit_scale(step(record, layer + 1, r, rule)) for r, rule in zip(own, rules, strict=True)]
        chosen = select(a, [keyed(name_seed(image), layer) for image in images], options.share)
        units = {part: mask.flatten(1).sum(1) for part, mask in chosen.items()}
        for i, rule in enumerate(rules):
            maps = {"all": original[i]} if options.seed_with is SeedWith.relevance else {}  # nothing is masked
            for part, r in starts(a, own[i], chosen, options.seed_with):
                if part not in maps:
                    maps[part] = walk(record, unit_scale(r), lambda _, rule=rule: rule, layer)
                similar = {
                    "sim_all": alignment(maps[part], maps["all"]),
                    "sim_original": alignment(maps[part], original[i]),
                }
                yield (
                    (i, layer, part),
                    {"units": units[part.removeprefix("constant_")], "alignment": alignment(maps[part], x), **similar},
                )


def starts(a: Tensor, own: Tensor, chosen: dict[str, Tensor], seed_with: SeedWith) -> Iterator[tuple[str, Tensor]]:
    """(part, r_l) of every part, `all` first."""
    value = {SeedWith.activation: lambda: a, SeedWith.relevance: lambda: own, SeedWith.product: lambda: a * own}[
        seed_with
    ]()
    yield "all", value
    for part in ("max", "min", "random"):
        yield part, value * chosen[part]
    if seed_with is SeedWith.activation:
        for part in ("max", "min"):
            yield f"constant_{part}", a.sign() * chosen[part]


def select(a: Tensor, generators: Sequence[torch.Generator], share: float) -> dict[str, Tensor]:
    """Masks of the units of each part, bool, of a's shape (B, ...); generators: one per sample, for `random`."""
    chosen = {
        part: torch.zeros(a.shape, dtype=torch.bool, device=a.device).flatten(1)
        for part in ("all", "max", "min", "random")
    }
    for b, generator in enumerate(generators):
        magnitude = a[b].flatten().abs()
        active = magnitude.nonzero()[:, 0]
        count = max(1, math.ceil(rational(share) * len(active)))
        # for all units: one that is not active changes no other's
        lots = torch.rand(len(magnitude), generator=generator).to(a.device)
        places = {
            "all": active,
            "max": active[magnitude[active].argsort(descending=True, stable=True)[:count]],
            "min": active[magnitude[active].argsort(stable=True)[:count]],
            "random": active[lots[active].argsort(stable=True)[:count]],
        }
        for part, place in places.items():
            chosen[part][b, place] = True
    return {part: mask.view(a.shape) for part, mask in chosen.items()}
