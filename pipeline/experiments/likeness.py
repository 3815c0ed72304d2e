"""How alike maps are: of one rule and another, of one state of the weights and the trained one, of one class and
another, and of a map and what no network made. Maps are compared at once and not kept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline import api
from pipeline.engine import walk
from pipeline.engine.filters import filter_if_any
from pipeline.engine.interface import Rule
from pipeline.engine.network import Network, Record
from pipeline.engine.rules import RULES, External, Method
from pipeline.experiments.external import map_of
from pipeline.experiments.interface import Result
from pipeline.experiments.rank1 import other_classes
from pipeline.experiments.rows import Columns, over_images
from pipeline.experiments.targets import Target
from pipeline.experiments.unmodified import Unmodified
from pipeline.images.batches import Batch, Images
from pipeline.images.nullmaps import blur, edges, mean_colour, mosaic, noise
from pipeline.measures.likeness import likeness

NULLS: dict[str, Callable[[Tensor], Tensor]] = {
    "x": lambda x: x,
    "edges": edges,
    "mosaic": lambda x: mosaic(x, 4),
    "mean_colour": mean_colour,
    "blur": lambda x: blur(x, 28),
}
MAPS = ("original", "bottom", "runner_up", "random_class", "noise", "other", "filter", *NULLS)
COLUMNS = ["image", "target", "against", "cosine", "spearman", "ssim", "decision_changes"]


@dataclass(frozen=True)
class Options:
    """against: what each map is compared with: of MAPS, and names of rules (with their usual settings); bottom: maps,
    and those of other rules, are with the method's bottom process."""

    against: list[str]
    bottom: bool

    def __post_init__(self):
        known = [*MAPS, *(name for name, cls in RULES.items() if cls is not External)]
        if unknown := [name for name in self.against if name not in known]:
            raise ValueError(f"against has no '{unknown[0]}'; choose from {', '.join(known)}")
        if not self.against:
            raise ValueError("against is empty; give one map at least")
        if self.bottom and not {*self.against} <= {*RULES}:
            raise ValueError("maps with their bottom process are compared with those of other rules; name rules alone")


def least_images(options: Options) -> int:
    return 2 if "other" in options.against else 1


def run(network: Network, images: Images, rules: Sequence[Method], target: Target, options: Options) -> list[Result]:
    """One table per rule, a row per image and map it is compared with: COLUMNS.

    against: original, the same rule's map of the network without what the weights' law changed (with target=original
    of the same class); bottom, with the method's bottom process (NaN for what knows none); runner_up, random_class,
    of those classes; noise, other, edges ...: null maps (see experiment=nulls), filter: P x = W_1 W_1^T x; the name of
    a rule: its map of the same class. cosine, spearman, ssim: see measures/likeness.py. decision_changes: whether this
    network decides otherwise than the original one (of `original` alone, else NaN).
    """

    def found(batch: Batch, record: Record, classes: Tensor) -> Iterator[list[Columns]]:
        unmodified = target.unmodified(batch.x)
        for rule in rules:
            r = with_bottom(record, rule, classes) if options.bottom else map_of(record, rule, classes)
            yield [
                {"against": name, **likeness(r, other), "decision_changes": changed}
                for name, other, changed in others(batch, record, rule, classes, unmodified, images, options)
            ]

    return over_images(network, images, rules, target, found)


def others(
    batch: Batch,
    record: Record,
    rule: Method,
    classes: Tensor,
    unmodified: Unmodified,
    images: Images,
    options: Options,
) -> Iterator[tuple[str, Tensor, Tensor | float]]:
    """(name, map, whether the decision is another one) of each that the map is compared with."""
    x = record.x
    for name in options.against:
        changed: Tensor | float = float("nan")
        if name == "original":
            changed = (unmodified.logits.argmax(1) != record.logits.argmax(1)).double()
            other = unmodified.map(rule, classes)
        elif name == "bottom":
            other = with_bottom(record, rule, classes)
        elif name in ("runner_up", "random_class"):
            which = dict(
                zip(("runner_up", "random_class"), other_classes(batch, record.logits, classes).values(), strict=True)
            )
            other = map_of(record, rule, which[name])
        elif name == "noise":
            other = torch.cat([noise(x[b : b + 1], image) for b, image in enumerate(batch.names)])
        elif name == "other":
            other = torch.cat([images.other(image) for image in batch.names])
        elif name == "filter":
            other = filter_if_any(record)
        elif name in NULLS:
            other = NULLS[name](x)
        else:
            other = (with_bottom if options.bottom else map_of)(record, api.rule(name), classes)
        yield name, other, changed


def with_bottom(record: Record, rule: Method, classes: Tensor) -> Tensor:
    """NaN of what knows no bottom process."""
    if isinstance(rule, Rule):
        return walk.attribute(record, rule, classes, bottom=True)
    return torch.full_like(record.x, torch.nan)
