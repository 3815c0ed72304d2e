"""Layer-by-layer maps of failures (section V-A, Fig. 7): what of the input is still there at each layer, for the
decided class and its rival."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from operator import itemgetter
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.engine import walk
from pipeline.engine.interface import Rule
from pipeline.engine.network import Network, Record
from pipeline.engine.rules import Gbp
from pipeline.experiments.interface import Result
from pipeline.experiments.targets import Target, check_labels
from pipeline.images.batches import Batch
from pipeline.measures.maps import alignment, chroma
from pipeline.networks.catalogue import Model, class_name

LAYERS = 20  # of deeper networks, so many evenly spaced layers
COLUMNS = [
    "image", "target", "class_name", "probability", "label", "label_name", "decision", "decision_name",
    "probability_decision", "rival", "rival_name", "probability_rival", "layer", "name", "start", "side", "alignment",
    "colour", "similarity",
]  # fmt: skip


@dataclass(frozen=True)
class Options:
    """errors: misclassified images only (one without a label counts as such); most: so many of each 64 images, the most
    confident decisions first (null: all); cases: pairs [label, decision], no others; layers: their names (null: all but
    the last, evenly spaced 20 of more)."""

    errors: bool
    most: int | None
    cases: list[list[int]]
    layers: list[str] | None

    def __post_init__(self):
        if self.most is not None and self.most < 1:
            raise ValueError("most must be at least 1, or null")
        if any(len(case) != 2 for case in self.cases):
            raise ValueError("cases must be pairs of a label and a decision, such as [[633, 876]]")


@dataclass(frozen=True)
class Case:
    """An image to look at. x (1, C, H, W); target: the class explained; rival: the label, where it is another class,
    else the most probable other class; probabilities: softmax (K,)."""

    image: str
    x: Tensor
    label: int
    decision: int
    target: int
    rival: int
    probabilities: Tensor


def run(
    network: Network, images: Iterable[Batch], rules: Sequence[Rule], target: Target, model: Model, options: Options
) -> list[Result]:
    """One result per rule, a row per image, layer, start and side, in the order of `maps`: COLUMNS; maps.safetensors:
    map (rows, C, H, W).

    start says what is seeded at A_l: image (x itself, layer 0); activation (A_l with GBP below: act@l, of no class:
    target -1); credited (A_l on the units with r_l > 0, 0 elsewhere, GBP below, where r_l is the rule's of class k:
    act@l depends on no class, and this is what it says of one); rule (the rule's own map, from the output). side: whose
    class, `target` or `rival`. class_name and probability are the column target's. alignment is (1), colour the
    alignment of the chromas (NaN for a grey image), similarity the cosine of a rival's map and the target's at the same
    place. Raises UserError for a label that the model has no class for.
    """
    layers, names = layers_of(network, options.layers), model.categories()
    rows: list[list[dict[str, Any]]] = [[] for _ in rules]
    maps: list[list[Tensor]] = [[] for _ in rules]
    for case in chosen(network, images, target, options):
        record = network.forward(case.x)
        about = facts(case, names)
        for rule, table, kept in zip(rules, rows, maps, strict=True):
            of_target: dict[tuple[str, int], Tensor] = {}
            for start, side, layer, r in maps_of(record, rule, case, layers):
                k = {"target": case.target, "rival": case.rival}.get(side, -1)
                if side == "target":
                    of_target[start, layer] = r
                row = {
                    "target": k,
                    "class_name": class_name(k, names),
                    "probability": float(case.probabilities[k]) if side else float("nan"),
                    "layer": layer,
                    "name": network.unit_name(layer),
                    "start": start,
                    "side": side,
                    "alignment": float(alignment(r, case.x)),
                    "colour": float(alignment(chroma(r), chroma(case.x))),
                    "similarity": float(alignment(r, of_target[start, layer])) if side == "rival" else float("nan"),
                }
                table.append(about | row)
                kept.append(r.cpu())
    return [
        Result(pd.DataFrame(table, columns=COLUMNS), {"maps": {"map": torch.cat(found)}} if found else {})
        for table, found in zip(rows, maps, strict=True)
    ]


def chosen(network: Network, images: Iterable[Batch], target: Target, options: Options) -> list[Case]:
    """The images to look at, in the order of the data."""
    found: list[tuple[int, Case]] = []
    place = count()
    for batch in images:
        logits = network.forward(batch.x).logits
        classes = target.classes(batch, logits)
        check_labels(batch, logits.shape[1])
        for b, k in enumerate(classes.tolist()):
            case = case_of(batch.names[b], batch.x[b : b + 1], int(batch.labels[b]), k, logits[b])
            if wanted(case, options):
                found.append((next(place), case))
        found = sorted(found, key=confidence)[: options.most]
    return [case for _, case in sorted(found, key=itemgetter(0))]


def confidence(item: tuple[int, Case]) -> float:
    """Sorts the most confident decision first, equal ones by their place: they come in its order."""
    return -float(item[1].probabilities[item[1].decision])


def case_of(image: str, x: Tensor, label: int, target: int, logits: Tensor) -> Case:
    others = logits.clone()
    others[target] = -torch.inf
    rival = label if label >= 0 and label != target else int(others.argmax())
    return Case(image, x, label, int(logits.argmax()), target, rival, logits.double().softmax(0))


def wanted(case: Case, options: Options) -> bool:
    if options.cases:
        return [case.label, case.decision] in options.cases
    return not options.errors or case.label != case.decision


def maps_of(record: Record, rule: Rule, case: Case, layers: Sequence[int]) -> Iterator[tuple[str, str, int, Tensor]]:
    """(start, side, layer, map (1, C, H, W)) of one image, from the input up."""
    yield "image", "", 0, record.x
    for layer in layers:
        yield "activation", "", layer, from_layer(record, layer, record.activation(layer))
    for side, k in (("target", case.target), ("rival", case.rival)):
        explained = torch.tensor([k], device=record.x.device)
        r_at = chain(record, rule, explained, layers)
        for layer in layers:
            credited = torch.where(r_at[layer] > 0, record.activation(layer), 0)
            yield "credited", side, layer, from_layer(record, layer, credited)
        yield "rule", side, record.network.depth, r_at[0]


def from_layer(record: Record, layer: int, r: Tensor) -> Tensor:
    """r at A_l, GBP below: (1, C, H, W)."""
    return walk.walk(record, r, lambda _: Gbp(), top=layer)


def chain(record: Record, rule: Rule, explained: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """The rule's r_l at each of the layers and at the input (l = 0), for the class `explained` (1,)."""
    top, r, found = record.network.depth, rule.start(walk.one_hot(record, explained), record.logits), {}
    for layer in [*sorted(layers, reverse=True), 0]:
        found[layer] = r = walk.walk(record, r, lambda _: rule, top, layer)
        top = layer
    return found


def layers_of(network: Network, names: Sequence[str] | None) -> list[int]:
    """The layers `names`, from the lowest up; evenly spaced LAYERS of them without."""
    numbers = network.numbers(names)
    if names:
        return numbers
    count = min(LAYERS, len(numbers))
    return sorted({numbers[round(i * (len(numbers) - 1) / max(1, count - 1))] for i in range(count)})


def facts(case: Case, names: Sequence[str] | None) -> dict[str, Any]:
    classes = {"label": case.label, "decision": case.decision, "rival": case.rival}
    called = {f"{who}_name": class_name(k, names) for who, k in classes.items()}
    probable = {f"probability_{who}": float(case.probabilities[classes[who]]) for who in ("decision", "rival")}
    return {"image": case.image} | classes | called | probable
