"""Fig. 6: are large activations what counts? Propagation starts at a layer from its largest units alone, or its
smallest, with the rule below."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor

from pipeline.engine.interface import Rule
from pipeline.engine.lrp import Lrp, ratio
from pipeline.engine.network import Network, Record
from pipeline.engine.rules import rational
from pipeline.engine.walk import attribute, one_hot, step, unit_scale, walk
from pipeline.experiments.interface import Result
from pipeline.experiments.memory import noise
from pipeline.experiments.rows import Columns, over_images
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch, Images
from pipeline.measures.maps import alignment
from pipeline.seeds import keyed, name_seed

COLUMNS = [
    "image", "target", "layer", "name", "part", "seed_with", "share", "units", "alignment", "sim_all", "sim_original",
]  # fmt: skip


PLACED = ("noise", "other")


class SeedWith(Enum):
    activation = "activation"  # what the rule calls r: r_l = A_l, and for LRP's rules relevance A_l, so that r_l = 1
    gradient = "gradient"  # r_l = A_l in gradient form for every rule: LRP's relevance is A_l squared
    relevance = "relevance"  # the rule's own r_l; masking it masks LRP's relevance A_l r_l as well
    product = "product"  # r_l = that relevance A_l r_l itself, as if it were an activation


@dataclass(frozen=True)
class Options:
    """share: of the active (non-zero) units that max, min and random take, max(1, ceil(share x active)); seed_with:
    what starts on the chosen units."""

    share: float
    seed_with: SeedWith

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], not {self.share}")


def run(network: Network, images: Images, rules: Sequence[Rule], target: Target, options: Options) -> list[Result]:
    """One table per rule, a row per image, layer l = 1..L-1 and part: COLUMNS.

    r_l is set on the part's units and 0 elsewhere, and the rule runs from A_l to the input (the ReLU of layer l
    included; layer 1 as the rule's `first_layer` says). all: every unit; max, min: the largest and the smallest active
    ones by |A_l|, lower index first among equals; random: as many active ones, keyed by image and layer. For
    seed_with=activation and gradient also constant_max, constant_min: the sign of A_l on those units in A_l's place;
    noise: |N(0, 1)| on all active ones, keyed by image and layer; other: A_l of the image that follows, there. units:
    how many; sim_all, sim_original: cosine with the map of `all` at that layer, and with the rule's attribution from
    the output. NaN where nothing comes back, as from a layer without active units, or of `other` if there is no other
    image. L is left out: A_L are logits, and their extremes are classes.
    """
    return over_images(network, images, rules, target, partial(measure, images, rules, options))


@torch.no_grad()
def measure(
    images: Images, rules: Sequence[Rule], options: Options, batch: Batch, record: Record, classes: Tensor
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
    reads_a = options.seed_with in (SeedWith.activation, SeedWith.gradient)
    others = record.network.forward(following(images, batch)) if reads_a else None
    for layer in range(top - 1, 0, -1):
        a = record.activation(layer)
        if not reads_a:
            own = [unit_scale(step(record, layer + 1, r, rule)) for r, rule in zip(own, rules, strict=True)]
        chosen = select(a, [keyed(name_seed(image), layer) for image in batch.names], options.share)
        units = {part: mask.flatten(1).sum(1) for part, mask in chosen.items()}
        units |= {"constant_max": units["max"], "constant_min": units["min"]} | dict.fromkeys(PLACED, units["all"])
        placed = {"noise": noise(a, batch.names, layer), "other": others.activation(layer)} if others else {}
        for i, rule in enumerate(rules):
            maps = {"all": original[i]} if options.seed_with is SeedWith.relevance else {}  # nothing is masked
            for part, r in starts(rule, options.seed_with, a, own[i], chosen, placed).items():
                if part not in maps:
                    maps[part] = walk(record, unit_scale(r), lambda _, rule=rule: rule, layer)
                facts = {"layer": layer, "name": record.network.unit_name(layer), "part": part}
                cosines = {
                    "alignment": alignment(maps[part], x),
                    "sim_all": alignment(maps[part], maps["all"]),
                    "sim_original": alignment(maps[part], original[i]),
                }
                tables[i].append(facts | asked | {"units": units[part]} | cosines)
    return [sorted(table, key=itemgetter("layer")) for table in tables]  # parts stay in their order


def starts(
    rule: Rule, seed_with: SeedWith, a: Tensor, own: Tensor, chosen: dict[str, Tensor], placed: dict[str, Tensor]
) -> dict[str, Tensor]:
    """r_l of every part, `all` first. placed: what else stands in A_l's place, where A_l is what starts."""
    value = a if placed else own if seed_with is SeedWith.relevance else a * own
    found = {"all": value} | {part: value * chosen[part] for part in ("max", "min", "random")}
    if placed:
        found |= {f"constant_{part}": a.sign() * chosen[part] for part in ("max", "min")}
        found |= {part: r * chosen["all"] for part, r in placed.items()}
    if seed_with is SeedWith.activation and isinstance(rule, Lrp):  # all of it is relevance
        return {part: ratio(relevance, a) for part, relevance in found.items()}
    return found


def following(images: Images, batch: Batch) -> Tensor:
    """x of the images that follow those of the batch; NaN if there are none."""
    if images.alone:
        return torch.full_like(batch.x, torch.nan)
    return torch.cat([images.other(name) for name in batch.names])


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
