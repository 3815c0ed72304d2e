"""Fig. 6: are large activations what counts? Propagation starts at a layer from its largest units alone, or its
smallest, with the rule below."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.network import Network, Record
from pipeline.engine.rules import rational
from pipeline.engine.walk import attribute, one_hot, step, unit_scale, walk
from pipeline.experiments.interface import Result
from pipeline.experiments.rows import Columns, over_images
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
    return over_images(network, images, rules, target, partial(measure, rules, options))


@torch.no_grad()
def measure(
    rules: Sequence[Rule], options: Options, batch: Batch, record: Record, classes: Tensor
) -> list[list[Columns]]:
    """The numbers of every rule, layer and part.

    A rule sees the record's B samples, so each part goes down by itself: L^2 / 2 units for each part and rule.
    Repeating the batch, so that the parts travel together, was no faster.
    """
    tables: list[list[Columns]] = [[] for _ in rules]
    x, top = record.x, record.network.depth
    asked = {"seed_with": options.seed_with.value, "share": options.share}
    original = [attribute(record, rule, classes) for rule in rules]
    own = [rule.start(one_hot(record, classes), record.logits) for rule in rules]
    for layer in range(top - 1, 0, -1):
        a = record.activation(layer)
        if options.seed_with is not SeedWith.activation:
            own = [unit_scale(step(record, layer + 1, r, rule)) for r, rule in zip(own, rules, strict=True)]
        chosen = select(a, [keyed(name_seed(image), layer) for image in batch.names], options.share)
        units = {part: mask.flatten(1).sum(1) for part, mask in chosen.items()}
        for i, rule in enumerate(rules):
            maps = {"all": original[i]} if options.seed_with is SeedWith.relevance else {}  # nothing is masked
            for part, r in starts(a, own[i], chosen, options.seed_with):
                if part not in maps:
                    maps[part] = walk(record, unit_scale(r), lambda _, rule=rule: rule, layer)
                facts = {"layer": layer, "name": record.network.unit_name(layer), "part": part}
                cosines = {
                    "alignment": alignment(maps[part], x),
                    "sim_all": alignment(maps[part], maps["all"]),
                    "sim_original": alignment(maps[part], original[i]),
                }
                tables[i].append(facts | asked | {"units": units[part.removeprefix("constant_")]} | cosines)
    return [sorted(table, key=itemgetter("layer")) for table in tables]  # parts stay in their order


def starts(a: Tensor, own: Tensor, chosen: dict[str, Tensor], seed_with: SeedWith) -> Iterator[tuple[str, Tensor]]:
    """(part, r_l) of every part, `all` first."""
    value = own if seed_with is SeedWith.relevance else a if seed_with is SeedWith.activation else a * own
    yield "all", value
    for part in ("max", "min", "random"):
        yield part, value * chosen[part]
    if seed_with is SeedWith.activation:
        for part in ("max", "min"):
            yield f"constant_{part}", a.sign() * chosen[part]


def select(a: Tensor, generators: Sequence[torch.Generator], share: float) -> dict[str, Tensor]:
    """Masks of the units of each part, bool, of a's shape (B, ...); generators: one per sample, for `random`."""
    chosen = {part: torch.zeros_like(a.flatten(1), dtype=torch.bool) for part in ("all", "max", "min", "random")}
    for b, generator in enumerate(generators):
        magnitude = a[b].flatten().abs()
        active = magnitude.nonzero()[:, 0]
        count = max(1, math.ceil(rational(share) * len(active)))
        # for all units: one that is not active changes no other's
        lots = torch.rand(len(magnitude), generator=generator).to(a.device)
        first = lambda of, **how: active[of[active].argsort(stable=True, **how)[:count]]  # noqa: E731, B023
        places = {
            "all": active,
            "max": first(magnitude, descending=True),
            "min": first(magnitude),
            "random": first(lots),
        }
        for part, place in places.items():
            chosen[part][b, place] = True
    return {part: mask.view(a.shape) for part, mask in chosen.items()}
