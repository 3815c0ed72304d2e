"""Key information sufficiency (20), Section V-B, Fig. 8: the map goes back into the network as an image; does the decision stay, for the same reasons?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from functools import cache, partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.engine import walk
from pipeline.engine.network import Network, Op, Record
from pipeline.engine.rules import External, Rule
from pipeline.errors import UserError
from pipeline.experiments.external import external_map
from pipeline.experiments.interface import Result
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch
from pipeline.images.nullmaps import blur, edges, noise
from pipeline.measures.kis import Rescale, kis, rescaled
from pipeline.weights.states import HE_GAUSSIAN, network_of

INSERTIONS = ("insertion", "insertion_magnitude")  # 8b, 8c
NULLS = ("edge", "noise", "blur")  # the same for every rule
INPUTS = ("attribution", *INSERTIONS, *NULLS, "other", "runner_up", "random_network")
COLUMNS = [
    "image", "target", "input", "label", "decision", "decision_star", "correct", "s_own", "s_fixed",
    "margin", "probability_star", "kept", "missing",
]  # fmt: skip


class Score(Enum):
    pixel = "pixel"  # the sum over channels; all channels go together
    element = "element"  # each channel of a pixel by itself


class Fill(Enum):
    zero = "zero"  # of normalised space: the data's mean colour
    black = "black"


@dataclass(frozen=True)
class Options:
    """inputs: what the network is given in x's place, of INPUTS; rescale: how a map becomes an image; percent: what rescale=percentile cuts
    off at each end; score, fill: of the insertions; removed: their share of lowest scores that goes (null: the scores below the mean);
    blur: side over sigma of `blur`; random_seed: the weights of `random_network`."""

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


@dataclass(frozen=True)
class Case:
    """One batch of B images as they are, and the classes that the maps explain. decision, runner_up, margin: (B,), of the logits of x;
    others: what the network makes of another image for each; chance: what a random-weight network makes of x."""

    batch: Batch
    record: Record
    classes: Tensor
    decision: Tensor
    runner_up: Tensor
    margin: Tensor
    others: Callable[[], Record]
    chance: Callable[[], Record]


@dataclass(frozen=True)
class Replaced:
    """x~ (B, C, H, W), zeros where it is missing; missing: why, (B,), "" where it is not; kept: the share of x that an insertion left, else NaN."""

    x: Tensor
    missing: list[str]
    kept: Tensor


def run(
    network: Network, images: Any, rules: Sequence[Rule], target: Target, model: Any, options: Options
) -> list[Result]:
    """One table per rule, a row per image and input: COLUMNS.

    target: the class that the map explains; decision: k of (20), on x; decision_star: on the input in x's place (-1 if there is none);
    s_own: S with v* the weights of decision_star, the letter of (20); s_fixed: with those of k; margin: top logit minus second;
    probability_star: of k on that input; kept: the share of x that an insertion leaves; correct: missing without a label;
    missing: why there is no S (and it is NaN), else "".

    The map has no bottom process. Raises UserError for a network that does not end in a linear layer.
    """
    last = readout(network)
    tables: list[list[dict[str, Any]]] = [[] for _ in rules]
    for batch in images:
        case = case_of(network, batch, target, images, partial(random_network, model, options.random_seed))
        shared: dict[str, dict[str, list[Any]]] = {}
        for rule, rows in zip(rules, tables, strict=True):
            own = cache(lambda rule=rule, case=case: attributed(case.record, rule, case.classes))
            columns = {}
            for name in options.inputs:
                if name in shared:
                    columns[name] = shared[name]
                    continue
                r = own() if name in INSERTIONS else source(name, case, rule, own, options)
                columns[name] = measure(last, case, replaced(name, r, case.record, options))
                if name in NULLS:
                    shared[name] = columns[name]
            rows += rows_of(case, columns)
    return [Result(typed(rows)) for rows in tables]


def readout(network: Network) -> Op:
    """The last linear layer, of which (20) reads input and weights. Raises UserError if more than a change of shape comes after it."""
    output = network.ops[-1].output
    for op in reversed(network.ops):
        if op.output == output and op.kind == "reshape":
            output = op.inputs[0]
        elif op.output == output and op.kind == "linear":
            if op.module.weight.shape[0] < 2:  # type: ignore[union-attr]
                raise UserError(
                    "KIS compares decisions, and the model has one class only; choose a model of at least two"
                )
            return op
    kind = next(op for op in network.ops if op.output == output).kind
    raise UserError(
        f"KIS (20) needs a model whose last operation is a linear layer, and this one ends in {kind}; choose a model that ends in nn.Linear"
    )


def case_of(network: Network, batch: Batch, target: Target, images: Any, random: Callable[[Tensor], Network]) -> Case:
    record = network.forward(batch.x)
    top = record.logits.topk(2)
    if int(batch.labels.max()) >= record.logits.shape[1]:
        b = int(batch.labels.argmax())
        raise UserError(
            f"{batch.names[b]} has the label {int(batch.labels[b])}, but the model has the classes 0 to {record.logits.shape[1] - 1}; use data of its classes"
        )
    others = cache(lambda: network.forward(torch.cat([images.other(image, drawn=True) for image in batch.names])))
    chance = cache(lambda: random(batch.x).forward(batch.x))
    margin = top.values[:, 0] - top.values[:, 1]
    return Case(
        batch,
        record,
        target.classes(batch, record.logits),
        record.logits.argmax(1),
        top.indices[:, 1],
        margin,
        others,
        chance,
    )


# ---- maps ------------------------------------------------------------------------------------------------------------


def attributed(record: Record, rule: Rule, classes: Tensor) -> Tensor:
    """R without bottom process; an external attribution's map as it is."""
    return (
        external_map(rule, record.network, record.x, classes)
        if isinstance(rule, External)
        else walk.attribute(record, rule, classes)
    )


def source(name: str, case: Case, rule: Rule, own: Callable[[], Tensor], options: Options) -> Tensor:
    """The map that takes R's place, of x's shape."""
    x, record = case.record.x, case.record
    if name == "edge":
        return edges(x)
    if name == "noise":
        return torch.cat([noise(x[b : b + 1], image) for b, image in enumerate(case.batch.names)])
    if name == "blur":
        return blur(x, options.blur)
    if name == "runner_up":
        return attributed(record, rule, case.runner_up)
    if name == "random_network":
        return attributed(case.chance(), rule, case.classes)
    if name == "other":  # for its own decision
        return attributed(case.others(), rule, case.others().logits.argmax(1))
    return own()


_random: dict[str, Network] = {}


def random_network(model: Any, seed: int, x: Tensor) -> Network:
    """The model under i.i.d. Gaussian weights, on x's device in its precision. Kept: an experiment's parts ask for it again and again."""
    key = repr((model, seed, x.dtype, x.device))
    if key not in _random:
        _random.clear()
        _random[key] = network_of(HE_GAUSSIAN, model, seed, x.dtype, lambda: x)
        _random[key].module.to(x.device)
    return _random[key]


# ---- what the network is given in x's place --------------------------------------------------------------------------


def replaced(name: str, r: Tensor, record: Record, options: Options) -> Replaced:
    if name in INSERTIONS:
        found, kept = inserted(r.abs() if name == "insertion_magnitude" else r, record, options)
    else:
        found, kept = rescaled(r, record.x, options.rescale, options.percent), torch.full((len(r),), torch.nan)
    whole, finite = (t.flatten(1).isfinite().all(1) for t in (found, r))
    why = [
        "" if w else "constant map" if f else "map not finite"
        for w, f in zip(whole.tolist(), finite.tolist(), strict=True)
    ]
    return Replaced(torch.where(whole.view(-1, 1, 1, 1), found, 0), why, kept)


def inserted(r: Tensor, record: Record, options: Options) -> tuple[Tensor, Tensor]:
    """x without what scores low in r, and the share that is left, (B,). NaN where all scores are equal or one is not finite."""
    x, score = record.x, r.double()
    if options.score is Score.pixel:
        score = score.sum(1, keepdim=True)
    flat = score.flatten(1)
    if options.removed is None:
        keep = flat >= flat.mean(1, keepdim=True)
    else:  # of equal scores the first ones go
        count = int(Fraction(repr(options.removed)) * flat.shape[1])
        keep = flat.argsort(dim=1, stable=True).argsort(dim=1) >= count
    usable = flat.isfinite().all(1) & (flat.amax(1) > flat.amin(1))
    found = torch.where(keep.view(score.shape), x, black(record) if options.fill is Fill.black else 0)
    return torch.where(usable.view(-1, 1, 1, 1), found, torch.nan), torch.where(
        usable, keep.double().mean(1), torch.nan
    )


def black(record: Record) -> Tensor:
    """(C, 1, 1)"""
    if record.network.bounds is None:
        raise UserError(
            "fill=black needs to know the normalisation of the pixels; give trace(...) the mean and std of it, or take fill=zero"
        )
    return record.network.bounds[0].to(record.x)


# ---- rows ------------------------------------------------------------------------------------------------------------


def measure(last: Op, case: Case, given: Replaced) -> dict[str, list[Any]]:
    """The columns that one input fills, each (B,)."""
    record, k = case.record, case.decision
    star = record.network.forward(given.x)
    k_star = star.logits.argmax(1)
    a, a_star, weight = record.values[last.inputs[0]], star.values[last.inputs[0]], last.module.weight  # type: ignore[union-attr]
    v_k, v_star = weight[k], weight[k_star]  # type: ignore[index]
    s = {"s_own": kis(v_k, a, v_star, a_star), "s_fixed": kis(v_k, a, v_k, a_star)}
    silent = ((v_k.double() * a.double()) == 0).all(1)
    defined = s["s_own"].isfinite() & s["s_fixed"].isfinite() & star.logits.isfinite().all(1)
    probability = star.logits.double().softmax(1).gather(1, k[:, None])[:, 0]
    why = [
        reason or ("zero denominator" if z else "" if d else "activations not finite")
        for reason, z, d in zip(given.missing, silent.tolist(), defined.tolist(), strict=True)
    ]
    there = torch.tensor([not reason for reason in given.missing], device=k.device) & star.logits.isfinite().all(1)
    numbers = {name: torch.where(there & defined, value, torch.nan) for name, value in s.items()}
    numbers |= {
        "probability_star": torch.where(there, probability, torch.nan),
        "decision_star": torch.where(there, k_star, -1),
    }
    return {name: value.tolist() for name, value in numbers.items()} | {"kept": given.kept.tolist(), "missing": why}


def rows_of(case: Case, columns: dict[str, dict[str, list[Any]]]) -> list[dict[str, Any]]:
    facts = {"target": case.classes, "label": case.batch.labels, "decision": case.decision, "margin": case.margin}
    facts = {name: value.tolist() for name, value in facts.items()}
    rows = []
    for b, image in enumerate(case.batch.names):
        about = {"image": image, **{name: value[b] for name, value in facts.items()}}
        about["correct"] = None if about["label"] < 0 else about["label"] == about["decision"]
        rows += [
            {**about, "input": name, **{key: value[b] for key, value in column.items()}}
            for name, column in columns.items()
        ]
    return rows


def typed(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS).astype({"correct": "boolean"})
