"""Occlusion-type reliability (Section III-C): what becomes of the explained class while pixels go, or come, in the
order of a map's scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.engine import walk
from pipeline.engine.filters import filter_if_any
from pipeline.engine.interface import Rule
from pipeline.engine.lowering import RELU
from pipeline.engine.network import Network, Record
from pipeline.engine.rules import Method
from pipeline.experiments.external import map_of
from pipeline.experiments.interface import Result
from pipeline.experiments.rows import Columns, over_images
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch, Images
from pipeline.images.nullmaps import blur, edges
from pipeline.measures.occlusion import Fill, area, counts, exchanged, probability, ranks
from pipeline.seeds import keyed, name_seed

OF_RULE = ("attribution", "magnitude", "bottom")
NULLS = ("random", "edges", "filter", "filter_magnitude", "filter_bottom")
DIRECTIONS = ("deletion", "insertion")
COLUMNS = ["image", "target", "order", "direction", "auc", "auc_normalised", "units_off"]  # and p_0 ... p_<steps>
BLUR = 28  # side over sigma


@dataclass(frozen=True)
class Options:
    """orders: in which pixels go, of OF_RULE and NULLS; steps: equal shares of the pixels, one after the other; fill:
    what comes in their place; units_share: of the pixels, after which units are counted; draws: random orders that are
    averaged."""

    orders: list[str]
    steps: int
    fill: Fill
    units_share: float
    draws: int

    def __post_init__(self):
        known = (*OF_RULE, *NULLS)
        if not self.orders or not set(self.orders) <= set(known) or len(set(self.orders)) < len(self.orders):
            raise ValueError(f"orders must name some of {', '.join(known)}, each once")
        if self.steps < 1 or self.draws < 1:
            raise ValueError("steps and draws must be at least 1")
        if not 0 < self.units_share <= 1:
            raise ValueError(f"units_share must lie in (0, 1], not {self.units_share}")


@dataclass(frozen=True)
class Case:
    """A batch as it is, and what it becomes in the end. filled: what takes the pixels' place, of x's shape; whole,
    empty: the classes' probabilities (B,) on x and on that."""

    names: tuple[str, ...]
    record: Record
    classes: Tensor
    filled: Tensor
    whole: Tensor
    empty: Tensor


def run(network: Network, images: Images, rules: Sequence[Method], target: Target, options: Options) -> list[Result]:
    """One table per rule, a row per image, order and direction: COLUMNS, and the curve p_0 ... p_<steps>.

    p_i: probability of the target when the share i / steps of the pixels, those with the highest scores, is replaced
    (deletion), or is all of x that is there (insertion); a pixel goes with all its channels. auc: area under the curve;
    auc_normalised: over the probability on x, where deletion starts and insertion ends. units_off: share of the units
    of all ReLUs that are active on x and no longer so when the share `units_share` of the pixels is deleted (NaN
    of insertion).

    order: by the sum over channels of the rule's map without bottom process (attribution), of its absolute values
    (magnitude), of the map with bottom process (bottom: NaN for what knows none), of the Sobel magnitude (edges), of
    P x = W_1 W_1^T x (filter), |P x| (filter_magnitude), x P x (filter_bottom); random: the mean over `draws` orders
    keyed by the image. Of equal scores the first in reading order comes first. NaN where all scores are equal or one is
    not finite.
    """

    of_rule, nulls = ([name for name in options.orders if name in group] for group in (OF_RULE, NULLS))

    def found(batch: Batch, record: Record, classes: Tensor) -> Iterator[list[Columns]]:
        filled = blur(record.x, BLUR) if options.fill is Fill.blur else torch.zeros_like(record.x)
        empty = network.forward(filled, keep=()).logits
        ends = (probability(logits, classes) for logits in (record.logits, empty))
        case = Case(batch.names, record, classes, filled, *ends)
        given = {name: rows(case, name, null_scores(case, name, options), options) for name in nulls}
        for rule in rules:
            own = {name: rows(case, name, [score(case, name, rule)], options) for name in of_rule}
            yield [row for name in options.orders for row in (own | given)[name]]

    return over_images(network, images, rules, target, found)


# ---- scores ----------------------------------------------------------------------------------------------------------


def score(case: Case, order: str, rule: Method) -> Tensor:
    """(B, H, W) float64 of each pixel, of OF_RULE."""
    record, classes = case.record, case.classes
    if order != "bottom":
        r = map_of(record, rule, classes)
    elif isinstance(rule, Rule):
        r = walk.attribute(record, rule, classes, bottom=True)
    else:
        r = torch.full_like(record.x, torch.nan)
    return (r.abs() if order == "magnitude" else r).double().sum(1)


def null_scores(case: Case, order: str, options: Options) -> list[Tensor]:
    """(B, H, W) float64 each, of NULLS; several are averaged over."""
    x = case.record.x
    if order == "random":
        keys = [[keyed(name_seed(image), draw) for image in case.names] for draw in range(options.draws)]
        drawn = [[torch.rand(x.shape[-2:], generator=key, dtype=torch.float64) for key in one] for one in keys]
        return [torch.stack(one).to(x.device) for one in drawn]
    r = edges(x) if order == "edges" else filter_if_any(case.record)
    r = {"filter_magnitude": r.abs(), "filter_bottom": x * r}.get(order, r)
    return [r.double().sum(1)]


# ---- curves ----------------------------------------------------------------------------------------------------------


def rows(case: Case, order: str, scores: Sequence[Tensor], options: Options) -> list[Columns]:
    """Both directions of one order."""
    flat, places = torch.stack(list(scores)).flatten(2), [ranks(one) for one in scores]
    usable = (flat.isfinite().all(2) & (flat.amax(2) > flat.amin(2))).all(0)
    off = torch.stack([switched_off(case, place, options.units_share) for place in places]).mean(0)
    found: list[Columns] = []
    for direction in DIRECTIONS:
        curve = torch.stack([curve_of(case, place, direction, options.steps) for place in places]).mean(0)
        curve = torch.where(usable[:, None], curve, torch.nan)
        auc = area(curve)
        columns: Columns = {
            "order": order,
            "direction": direction,
            "auc": auc,
            "auc_normalised": torch.where(case.whole > 0, auc / case.whole, torch.nan),
            "units_off": torch.where(usable, off, torch.nan) if direction == "deletion" else torch.nan,
        }
        found.append(columns | {f"p_{i}": p for i, p in enumerate(curve.unbind(1))})
    return found


def curve_of(case: Case, place: Tensor, direction: str, steps: int) -> Tensor:
    """(B, steps + 1) probabilities; place: ranks (B, H, W)."""
    ends = [(case.record.x, case.whole), (case.filled, case.empty)]
    (start, first), (other, last) = ends if direction == "deletion" else reversed(ends)
    between = [
        probability(case.record.network.forward(exchanged(start, other, place, count), keep=()).logits, case.classes)
        for count in counts(place[0].numel(), steps)[1:-1]  # a whole batch at once, as large as memory allows
    ]
    return torch.stack([first, *between, last], 1)


def switched_off(case: Case, place: Tensor, share: float) -> Tensor:
    """Of the units that are active on x the share (B,) that is not without the first `share` of the pixels; NaN where
    none is active."""
    record, network = case.record, case.record.network
    hidden = [op.output for op in network.ops if op.kind in RELU]
    without = exchanged(record.x, case.filled, place, max(1, round(share * place[0].numel())))
    after = network.forward(without, keep=hidden)
    active, off = torch.zeros_like(case.whole), torch.zeros_like(case.whole)
    for position in hidden:
        before = record.values[position].flatten(1) > 0
        active += before.sum(1)
        off += (before & (after.values[position].flatten(1) <= 0)).sum(1)
    return off / active
