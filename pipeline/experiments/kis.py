"""Key information sufficiency (20), Section V-B, Fig. 8: the map goes back into the network as an image.

Does the decision stay, and for the same reasons?
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import pandas as pd
import torch
from torch import Tensor

from pipeline.engine import walk
from pipeline.engine.filters import first_layer_filter
from pipeline.engine.interface import Rule
from pipeline.engine.network import Network, Op, Record
from pipeline.engine.rules import External
from pipeline.errors import UserError
from pipeline.experiments.external import external_map
from pipeline.experiments.interface import Result
from pipeline.experiments.rows import Columns, rows_of
from pipeline.experiments.targets import Target, check_labels
from pipeline.images.batches import Batch, Images
from pipeline.images.nullmaps import blur, edges, noise
from pipeline.measures.kis import Fill, Insertion, Rescale, Rescaling, Score, inserted, kis, rescaled

INSERTIONS = ("insertion", "insertion_magnitude")  # 8b, 8c
NULLS = ("edge", "noise", "blur", "filter")  # the same for every rule and class
INPUTS = ("attribution", *INSERTIONS, *NULLS, "other", "runner_up", "random_network")
COLUMNS = [
    "image", "target", "input", "label", "decision", "decision_star", "correct", "s_own", "s_fixed", "margin",
    "probability_star", "kept", "missing",
]  # fmt: skip


@dataclass(frozen=True)
class Options:
    """inputs: what the network is given in x's place, of INPUTS; rescale: how a map becomes an image; percent: what
    rescale=percentile cuts off at each end; score, fill: of the insertions; removed: their share of lowest scores that
    goes (null: the scores below the mean); blur: side over sigma of it; random_seed: of random_network's weights."""

    inputs: list[str]
    rescale: Rescale
    percent: float
    score: Score
    removed: float | None
    fill: Fill
    blur: int
    random_seed: int

    def __post_init__(self):
        unknown = [name for name in self.inputs if name not in INPUTS]
        if unknown or not self.inputs or len(set(self.inputs)) < len(self.inputs):
            raise ValueError(
                f"inputs must name some of {', '.join(INPUTS)}, each once"
                + (f", and {unknown[0]} is none of them" if unknown else "")
            )
        if not 0 <= self.percent < 50:
            raise ValueError(f"percent must lie in [0, 50), not {self.percent}")
        if self.removed is not None and not 0 < self.removed < 1:
            raise ValueError(f"removed is a share in (0, 1), or null, not {self.removed}")
        if self.blur < 1:
            raise ValueError("blur must be at least 1")


def least_images(options: Options) -> int:
    return 2 if "other" in options.inputs else 1


# ---- what an input depends on ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Null:
    """A map of x alone, or P x of the first layer (filters.py); blur: side over sigma of it, 0 where it is none."""

    name: str
    blur: int


@dataclass(frozen=True)
class Attribution:
    """A rule's map. name: attribution, or other, runner_up, random_network, and the seed of its weights, else 0."""

    name: str
    rule: Rule | External
    seed: int


def recipe(name: str, rule: Rule | External, options: Options) -> tuple[Null | Attribution, Insertion | Rescaling]:
    """The map that takes R's place, and how it becomes x~. Equal recipes give the same x~."""
    if name in INSERTIONS:
        form = Insertion(name == "insertion_magnitude", options.score, options.removed, options.fill)
        return Attribution("attribution", rule, 0), form
    form = Rescaling(options.rescale, options.percent if options.rescale is Rescale.percentile else 0.0)
    if name in NULLS:
        return Null(name, options.blur if name == "blur" else 0), form
    return Attribution(name, rule, options.random_seed if name == "random_network" else 0), form


# ---- the experiment --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One batch of B images as they are, and the classes that the maps explain. decision, runner_up, margin: (B,), of
    the logits of x; others: what the network makes of another image for each; chance: a seed's random one of x."""

    batch: Batch
    record: Record
    classes: Tensor
    decision: Tensor
    runner_up: Tensor
    margin: Tensor
    others: Callable[[], Record]
    chance: Callable[[int], Record]


@dataclass(frozen=True)
class Replaced:
    """x~ (B, C, H, W), zeros where it is missing; missing: why, (B,), "" where it is not; kept: the share of x that an
    insertion left, else NaN."""

    x: Tensor
    missing: list[str]
    kept: Tensor


def run(
    network: Network,
    images: Images,
    asked: Sequence[tuple[Rule | External, Options]],
    target: Target,
    random_network: Callable[[int], Network],
) -> list[Result]:
    """A table for each rule and options that are asked for, a row per image and input: COLUMNS.

    target: the class that the map explains; decision: k of (20), on x; decision_star: on the input in x's place (-1 if
    there is none); s_own: S with v* the weights of decision_star, the letter of (20); s_fixed: with those of k; margin:
    top logit minus second; probability_star: of k on that input; kept: the share of x that an insertion leaves;
    correct: missing without a label; missing: why there is no S (and it is NaN), else "".

    The map has no bottom process. random_network: seed -> the model under i.i.d. Gaussian weights. What several tables
    need is computed once. Raises UserError for a network that does not end in a linear layer.
    """
    last = readout(network)
    tables: list[list[pd.DataFrame]] = [[] for _ in asked]
    for batch in images:
        case = case_of(network, batch, target, images, random_network)
        for parts, table in zip(tables, tables_of(case, last, asked), strict=True):
            parts.append(table)
    return [Result(pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)) for parts in tables]


def tables_of(case: Case, last: Op, asked: Sequence[tuple[Rule | External, Options]]) -> list[pd.DataFrame]:
    """One batch's rows of each table."""
    map_of = cache(partial(source_map, case))
    columns_of = cache(lambda source, form: measure(last, case, replaced(map_of(source), case.record, form)))
    return [
        table_of(case, {name: columns_of(*recipe(name, rule, options)) for name in options.inputs})
        for rule, options in asked
    ]


def readout(network: Network) -> Op:
    """The last linear layer, of which (20) reads input and weights. Raises UserError if anything but a change of shape
    comes after it."""
    output = network.ops[-1].output
    for op in reversed(network.ops):
        if op.output == output and op.kind == "reshape":
            output = op.inputs[0]
        elif op.output == output and op.kind == "linear":
            if len(op.weight) < 2:
                raise UserError("KIS compares decisions, and the model has one class only; choose one of at least two")
            return op
    kind = next(op for op in network.ops if op.output == output).kind
    raise UserError(
        f"KIS (20) needs a model whose last operation is a linear layer, and this one ends in {kind}; "
        "choose a model that ends in nn.Linear"
    )


def case_of(
    network: Network, batch: Batch, target: Target, images: Images, random_network: Callable[[int], Network]
) -> Case:
    record = network.forward(batch.x)
    check_labels(batch, record.logits.shape[1])
    top = record.logits.topk(2)
    return Case(
        batch,
        record,
        target.classes(batch, record.logits),
        decision=record.logits.argmax(1),
        runner_up=top.indices[:, 1],
        margin=top.values[:, 0] - top.values[:, 1],
        others=cache(lambda: network.forward(torch.cat([images.other(name, drawn=True) for name in batch.names]))),
        chance=cache(lambda seed: random_network(seed).forward(batch.x)),
    )


# ---- maps ------------------------------------------------------------------------------------------------------------


def source_map(case: Case, source: Null | Attribution) -> Tensor:
    """The map that takes R's place, of x's shape, without bottom process; an external attribution's as it is."""
    if isinstance(source, Null):
        return null_map(case, source)
    record, classes = case.record, case.classes
    if source.name == "runner_up":
        classes = case.runner_up
    elif source.name == "random_network":
        record = case.chance(source.seed)
    elif source.name == "other":  # for its own decision
        record = case.others()
        classes = record.logits.argmax(1)
    if isinstance(source.rule, External):
        return external_map(source.rule, record.network, record.x, classes)
    return walk.attribute(record, source.rule, classes)


def null_map(case: Case, source: Null) -> Tensor:
    x = case.record.x
    if source.name == "edge":
        return edges(x)
    if source.name == "blur":
        return blur(x, source.blur)
    if source.name == "filter":
        return first_layer_filter(case.record)
    return torch.cat([noise(x[b : b + 1], image) for b, image in enumerate(case.batch.names)])


# ---- what the network is given in x's place, and what it makes of it -------------------------------------------------


def replaced(r: Tensor, record: Record, form: Insertion | Rescaling) -> Replaced:
    """x~ from the map r."""
    if isinstance(form, Insertion):
        found, kept = inserted(r, record.x, form, black(record) if form.fill is Fill.black else 0)
    else:
        found, kept = rescaled(r, record.x, form), torch.full((len(r),), torch.nan)
    whole, finite = (t.flatten(1).isfinite().all(1) for t in (found, r))
    facts = zip(whole.tolist(), finite.tolist(), strict=True)
    why = ["" if w else "constant map" if f else "map not finite" for w, f in facts]
    return Replaced(torch.where(whole.view(-1, 1, 1, 1), found, 0), why, kept)


def black(record: Record) -> Tensor:
    """(C, 1, 1)"""
    if (bounds := record.network.bounds) is None:
        raise UserError(
            "fill=black needs the pixels' normalisation; give trace(...) its mean and std, or take fill=zero"
        )
    return bounds[0].to(record.x)


def measure(last: Op, case: Case, given: Replaced) -> Columns:
    """The columns that one input fills."""
    record, k, v, at = case.record, case.decision, last.weight, last.inputs[0]
    star = record.network.forward(given.x, keep=(at,))
    k_star = star.logits.argmax(1)
    a, a_star = record.values[at], star.values[at]
    s = {"s_own": kis(v[k], a, v[k_star], a_star), "s_fixed": kis(v[k], a, v[k], a_star)}
    silent = ((v[k].double() * a.double()) == 0).all(1)
    finite = star.logits.isfinite().all(1)
    defined = s["s_own"].isfinite() & s["s_fixed"].isfinite() & finite
    probability = star.logits.double().softmax(1).gather(1, k[:, None])[:, 0]
    facts = zip(given.missing, silent.tolist(), defined.tolist(), strict=True)
    why = [gone or ("zero denominator" if z else "" if d else "activations not finite") for gone, z, d in facts]
    there = torch.tensor([not reason for reason in given.missing], device=k.device) & finite
    numbers = {name: torch.where(there & defined, value, torch.nan) for name, value in s.items()} | {
        "probability_star": torch.where(there, probability, torch.nan),
        "decision_star": torch.where(there, k_star, -1),
        "kept": given.kept,
    }
    return numbers | {"missing": why}


def table_of(case: Case, columns: Mapping[str, Columns]) -> pd.DataFrame:
    """A row per image and input, COLUMNS; columns: of each input."""
    labels, decisions = case.batch.labels.tolist(), case.decision.tolist()
    by_image: Columns = {
        "target": case.classes,
        "label": labels,
        "decision": decisions,
        "margin": case.margin,
        "correct": [None if label < 0 else label == k for label, k in zip(labels, decisions, strict=True)],
    }
    rows = rows_of(case.batch.names, ({**by_image, "input": name, **found} for name, found in columns.items()))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"correct": "boolean"})
