"""Attribution maps (Table I, Fig. 3, Fig. 5): a row per image, the maps beside the table."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.engine import walk
from pipeline.engine.filters import filter_if_any
from pipeline.engine.network import Network, Record
from pipeline.engine.rules import Activation, External, Gbp, Method
from pipeline.experiments.external import external_map
from pipeline.experiments.interface import Result
from pipeline.experiments.rows import Columns, rows_of
from pipeline.experiments.targets import Target
from pipeline.experiments.unmodified import Unmodified
from pipeline.images.batches import Images
from pipeline.measures.maps import (
    Convention,
    alignment,
    by_convention,
    chroma,
    log_factors,
    log_norm,
    registered_alignment,
)
from pipeline.measures.masks import background, share_behind
from pipeline.networks.catalogue import Model, class_name

COLUMNS = [
    "image", "target", "label", "decision", "probability", "class_name", "label_name", "layer", "name", "alignment",
    "alignment_chroma", "log_numerator", "log_norm", "alignment_px",
]  # fmt: skip
# after them, with these options
WITH_BOTTOM, WITH_REGISTERED, WITH_ORIGINAL = "alignment_bottom", "alignment_registered", "similarity"
WITH_OBJECTS = [
    "objects",
    "background",
    "background_activation",
    "cells",
]  # with data that know where their objects are


@dataclass(frozen=True)
class Options:
    """layers: for rule=activation, the names of the layers whose A_l is sent down with GBP below; null: all but the
    last; bottom: also with the bottom process; registered: also the alignment with x moved to where it fits best;
    original: also compare with the map of the network without what the weights' law changed; maps: keep the maps;
    convention: of what `alignment`, alignment_px and alignment_bottom are taken."""

    layers: list[str] | None
    bottom: bool
    registered: bool
    original: bool
    maps: bool
    convention: Convention


def run(
    network: Network, images: Images, rules: Sequence[Method], target: Target, model: Model, options: Options
) -> list[Result]:
    """One result per rule, a row per image (for rule=activation, per image and layer): COLUMNS.

    probability, class_name: of the target; layer, name: where the map starts; alignment, alignment_chroma: of the map
    without bottom process; log_numerator, log_norm: log |<R, x>| and log |R|; alignment_px: of P x = W_1 W_1^T x;
    alignment_bottom: of the map with it, where the rule knows one; alignment_registered: the largest with x moved by up
    to the network's total stride; similarity: the cosine with the original network's map.
    Of images whose objects are known, objects: their share of the image; background: its share of R^2 over that of x^2;
    background_activation: its share of A_l^2 where the map starts, which has so many cells (of a linear layer: NaN, 1).

    maps.safetensors, in the order of the rows: without_bottom, with_bottom (rows, C, H, W); inputs.safetensors:
    x (images, C, H, W).
    """
    rows: list[list[dict[str, Any]]] = [[] for _ in rules]
    kept: list[dict[str, list[Tensor]]] = [defaultdict(list) for _ in rules]
    inputs, names = [], model.categories()
    for batch in images:
        record = network.forward(batch.x)
        unmodified = target.unmodified(batch.x) if options.original else None
        classes = target.classes(batch, record.logits)
        about = explained(record, classes, batch.labels, names)
        pixels = images.preprocessing.pixels(record.x)
        aligned = partial(by_convention, x=record.x, pixels=pixels, convention=options.convention)
        px = aligned(filter_if_any(record))
        reach = total_stride(record) if options.registered else None
        inputs.append(record.x.cpu())
        for rule, table, tensors in zip(rules, rows, kept, strict=True):
            found = maps_of(network, record, rule, classes, options)
            table += rows_of(
                batch.names,
                (
                    about
                    | {"layer": layer, "name": network.unit_name(layer)}
                    | measure(
                        maps,
                        unmodified and original_map(unmodified, rule, classes, layer),
                        record.x,
                        px,
                        reach,
                        aligned,
                    )
                    | behind(maps["without_bottom"], record, layer, batch.objects)
                    for layer, maps in found.items()
                ),
            )
            for key in ("without_bottom", "with_bottom") if options.maps else ():
                if by_layer := [maps[key].cpu() for maps in found.values() if key in maps]:
                    tensors[key].append(torch.stack(by_layer, 1).flatten(0, 1))
    if not options.maps or not inputs:
        return [Result(pd.DataFrame(table)) for table in rows]
    x = {"inputs": {"x": torch.cat(inputs)}}
    joined = ({"maps": {key: torch.cat(maps) for key, maps in tensors.items()}} for tensors in kept)
    return [Result(pd.DataFrame(table), maps | x) for table, maps in zip(rows, joined, strict=True)]


def total_stride(record: Record) -> int:
    """Pixels of x for each of the smallest activation map, 1 without maps."""
    sides = [a.shape[-2] for a in map(record.activation, range(1, record.network.depth)) if a.ndim == 4]
    return -(-record.x.shape[-2] // min(sides)) if sides else 1


def explained(record: Record, classes: Tensor, labels: Tensor, names: Sequence[str] | None) -> Columns:
    """What is explained."""
    return {
        "target": classes,
        "label": labels,
        "decision": record.logits.argmax(1),
        "probability": record.logits.double().softmax(1).gather(1, classes[:, None])[:, 0],
        "class_name": [class_name(k, names) for k in classes.tolist()],
        "label_name": [class_name(label, names) for label in labels.tolist()],
    }


def measure(
    maps: dict[str, Tensor],
    original: Tensor | None,
    x: Tensor,
    px: Tensor,
    reach: int | None,
    aligned: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """original: the unmodified network's map; px: the alignment of P x; reach: of the registered one; aligned: by the
    convention."""
    r = maps["without_bottom"]
    found = {
        "alignment": aligned(r),
        "alignment_chroma": alignment(chroma(r), chroma(x)),
        **log_factors(alignment(r, x), log_norm(r), log_norm(x)),
        "alignment_px": px,
    }
    if "with_bottom" in maps:
        found[WITH_BOTTOM] = aligned(maps["with_bottom"])
    if reach is not None:
        found[WITH_REGISTERED] = registered_alignment(r, x, reach)
    return found | ({} if original is None else {WITH_ORIGINAL: alignment(r, original)})


def behind(r: Tensor, record: Record, layer: int, objects: Tensor | None) -> Columns:
    """What of the background is in the map and in A_l where it starts; nothing of images whose objects are unknown."""
    if objects is None:
        return {}
    a = record.activation(layer) if layer < record.network.depth else record.logits
    spatial = a.ndim == 4
    values = (
        objects.double().mean((1, 2, 3)),
        background(r, record.x, objects),
        share_behind(a, objects) if spatial else float("nan"),
        a.shape[-2:].numel() if spatial else 1,
    )
    return dict(zip(WITH_OBJECTS, values, strict=True))


def original_map(unmodified: Unmodified, rule: Method, classes: Tensor, layer: int) -> Tensor:
    """The unmodified network's map that starts at a layer, without bottom process."""
    if isinstance(rule, Activation):
        return unmodified.once(("activation", layer), lambda record: activation_map(record, layer))
    return unmodified.map(rule, classes)


def activation_map(record: Record, layer: int) -> Tensor:
    return walk.walk(record, record.activation(layer), lambda _: Gbp(), top=layer)


def maps_of(
    network: Network, record: Record, rule: Method, classes: Tensor, options: Options
) -> dict[int, dict[str, Tensor]]:
    """{layer where the maps start: the maps without and with the bottom process}; the activation's and external maps
    know no bottom."""
    if isinstance(rule, External):
        return {network.depth: {"without_bottom": external_map(rule, network, record.x, classes)}}
    if isinstance(rule, Activation):
        numbers = network.numbers(options.layers)
        return {n: {"without_bottom": activation_map(record, n)} for n in numbers}
    found = {"without_bottom": walk.attribute(record, rule, classes)}
    if options.bottom:
        found["with_bottom"] = walk.attribute(record, rule, classes, bottom=True)
    return {network.depth: found}
