"""How much of a map one fixed linear filter of the image explains: what the network's first layer makes of it, and the
best one there is."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from pipeline.engine.filters import alike_in_spectrum, first_layer, first_layer_filter, two_layer_filter
from pipeline.engine.network import Network, Record
from pipeline.engine.rules import Gbp, Method
from pipeline.engine.walk import step
from pipeline.experiments.external import map_of
from pipeline.experiments.interface import Result
from pipeline.experiments.rank1 import other_classes
from pipeline.experiments.rows import Columns, rows_of
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch, Handed, Images
from pipeline.measures.maps import alignment
from pipeline.measures.ridge import Held, Moments, filtered, held_out, moments, unit_norm
from pipeline.seeds import name_seed

FILTERS = ("px", "px_other", "px_random", "linear2", "act1")
COLUMNS = [
    "image", "target", "alignment", *(f"cos_{name}" for name in FILTERS), "ridge_share", "cos_ridge",
    "residual_alignment", "residual_runner_up", "residual_random_class",
]  # fmt: skip
WITH_ORIGINAL = ["similarity", "cos_px_original", "residual_original"]  # after them, with this option


@dataclass(frozen=True)
class Options:
    """size: pixels along each side of the fitted filter, odd; penalty: on its square, relative to the mean square of a
    pixel; classes: also the maps of two other classes; original: also compare with the network without what the
    weights' law changed; shown: the maps of so many images, the first ones, are kept."""

    size: int
    penalty: float
    classes: bool
    original: bool
    shown: int

    def __post_init__(self):
        if self.size < 1 or self.size % 2 == 0:
            raise ValueError(f"size must be an odd number of pixels, not {self.size}")
        if self.penalty < 0:
            raise ValueError(f"penalty must not be negative, and {self.penalty} is")


@dataclass(frozen=True)
class Seen:
    """An image until all of its part are there: cosines by rule, and what the fit needs. shown: x, maps (T, C, H, W)
    and px, where they are."""

    name: str
    target: int
    columns: list[dict[str, float]]
    moments: Moments
    shown: tuple[Tensor, Tensor, Tensor] | None


def run(
    network: Network, images: Images | Handed, rules: Sequence[Method], target: Target, options: Options
) -> list[Result]:
    """One table per rule, a row per image: COLUMNS.

    alignment: with x. cos_*: of the map with P x = W_1 W_1^T x, P of the image that follows, P of weights W_1 with the
    same singular values turned at random, the same of two layers, A_1 sent down. The ridge filter is fitted to the
    maps of the other images of its part (of 64): ridge_share is the share of |R|^2 that it explains of this one
    (negative if it does harm), the ceiling for any fixed filter of its size. residual_*: R less the best filter, with x
    and with the same of the runner-up's and a random other class's maps, each from its own filter. With `original`:
    similarity of the map to the unmodified network's, cos_px_original with that one's P x, residual_original with its
    residual. NaN where a map is missing, no other image is there, or (`classes` false) no other class is asked for.

    shown.safetensors, a row for each image `shown`: x, r, px, ridge, residual (n, C, H, W), r and px of norm 1.
    """
    seen = [one for batch in images for one in seen_in(batch, network, images, rules, target, options)]
    held = held_out([one.moments for one in seen], options.penalty) if seen else []
    return [result(i, len(rules), seen, held, options) for i in range(len(rules))]


def seen_in(
    batch: Batch, network: Network, images: Images | Handed, rules: Sequence[Method], target: Target, options: Options
) -> list[Seen]:
    record = network.forward(batch.x)
    classes = target.classes(batch, record.logits)
    others = other_classes(batch, record.logits, classes).values() if options.classes else ()
    maps = [[map_of(record, rule, of) for of in (classes, *others)] for rule in rules]
    fixed = filters(record, batch, images)
    columns = [cosines(r, record.x, fixed) for r, *_ in maps]
    if options.original:
        unmodified = target.unmodified(batch.x)
        px = unmodified.once("filter", first_layer_filter)
        for rule, found, cosine in zip(rules, maps, columns, strict=True):
            found.append(unmodified.map(rule, classes))
            cosine |= {"similarity": alignment(found[0], found[-1]), "cos_px_original": alignment(found[0], px)}
    stacked, seen = torch.stack([r for found in maps for r in found], 1), []  # (B, rules * kinds, C, H, W)
    for b, name in enumerate(batch.names):
        scale = fixed["px"][b].double().norm()  # in which P itself is a filter with maps of norm 1
        x, px = (map_ / scale.to(map_) for map_ in (record.x[b], fixed["px"][b]))
        shown = (x, unit_norm(stacked[b]), px) if name in images.first_names(options.shown) else None
        values = [{key: float(value[b]) for key, value in found.items()} for found in columns]
        seen.append(Seen(name, int(classes[b]), values, moments(x, stacked[b], options.size), shown))
    return seen


def filters(record: Record, batch: Batch, images: Images | Handed) -> dict[str, Tensor]:
    """FILTERS of the batch, each (B, C, H, W)."""
    others = [record.x[:1] * torch.nan if images.alone else images.other(name) for name in batch.names]
    weight = first_layer(record).weight
    turned = [
        first_layer_filter(record, record.x[b : b + 1], alike_in_spectrum(weight, name_seed(name)))
        for b, name in enumerate(batch.names)
    ]
    return {
        "px": first_layer_filter(record),
        "px_other": first_layer_filter(record, torch.cat(others)),
        "px_random": torch.cat(turned),
        "linear2": two_layer_filter(record),
        "act1": step(record, 1, record.activation(1), Gbp()),
    }


def cosines(r: Tensor, x: Tensor, fixed: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"alignment": alignment(r, x)} | {f"cos_{name}": alignment(r, fixed[name]) for name in FILTERS}


def result(
    rule: int, rules: int, seen: Sequence[Seen], held: Sequence[tuple[Held, Tensor]], options: Options
) -> Result:
    rows, shown = [], []
    for one, (fit, best) in zip(seen, held, strict=True):
        kinds = len(fit.share) // rules
        at = rule * kinds  # of the explained class's map among all
        compared = (COLUMNS[-2:] if options.classes else []) + (WITH_ORIGINAL[2:] if options.original else [])
        residuals = {name: float(fit.residuals[at, at + kind]) for kind, name in enumerate(compared, start=1)}
        columns: Columns = {"target": one.target, **one.columns[rule]}
        columns |= {"ridge_share": float(fit.share[at]), "cos_ridge": float(fit.cosine[at])}
        columns |= {"residual_alignment": float(fit.alignment[at]), **residuals}
        rows += rows_of([one.name], [{name: columns.get(name, torch.nan) for name in order(options)[1:]}])
        if one.shown:
            x, r, px = one.shown
            ridge = filtered(x, best[at : at + 1], options.size)[0].to(x)
            shown.append({"x": x, "r": r[at], "px": px, "ridge": ridge, "residual": r[at] - ridge})
    tensors = {key: torch.stack([maps[key].cpu() for maps in shown]) for key in (shown[0] if shown else ())}
    return Result(pd.DataFrame(rows, columns=order(options)), {"shown": tensors} if shown else {})


def order(options: Options) -> list[str]:
    return [*COLUMNS, *(WITH_ORIGINAL if options.original else ())]
