"""KIS (20) of clean and of triggered images, Section V-B, Fig. 9: does the map of a backdoored decision carry it?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import pandas as pd
import torch
from torch import Tensor

from pipeline.attacks.files import Known
from pipeline.engine.interface import Rule
from pipeline.engine.network import Network
from pipeline.engine.rules import External
from pipeline.experiments import kis
from pipeline.experiments.interface import Result
from pipeline.experiments.targets import Target
from pipeline.experiments.triggered import CARRIED, SAMPLES, Triggers, check_labels_known, triggers_of
from pipeline.images.batches import Batch, Images
from pipeline.measures.kis import Fill, Rescale, Score

AGAIN = "retriggered"  # the attribution's image with the trigger put on once more
INPUTS = ("attribution", "filter", "edge", "blur", "noise", AGAIN)
COLUMNS = ["image", "sample", "goal", "decision_plain", *kis.COLUMNS[1:]]


@dataclass(frozen=True)
class Options:
    """samples: of SAMPLES; inputs: what the network is given in their place, of INPUTS; rescale, percent, blur: as in
    experiment=kis; pictures: also keep the images and maps."""

    samples: list[str]
    inputs: list[str]
    rescale: Rescale
    percent: float
    blur: int
    pictures: bool

    def __post_init__(self):
        for what, given, known in (("samples", self.samples, SAMPLES), ("inputs", self.inputs, INPUTS)):
            unknown = [name for name in given if name not in known]
            if unknown or not given or len(set(given)) < len(given):
                raise ValueError(
                    f"{what} must name some of {', '.join(known)}, each once"
                    + (f", and {unknown[0]} is none of them" if unknown else "")
                )
        self.kis()

    def kis(self) -> kis.Options:
        """The same in KIS's words. Raises ValueError for what KIS can't do."""
        rest = {"score": Score.pixel, "removed": None, "fill": Fill.zero, "random_seed": 0}
        return kis.Options(["attribution"], self.rescale, self.percent, blur=self.blur, **rest)


def least_images(options: Options) -> int:
    return 2 if {"cross", "transplanted"} & set(options.samples) else 1


def run(
    network: Network,
    images: Images,
    asked: Sequence[tuple[Rule | External, Options]],
    target: Target,
    planted: Known,
) -> list[Result]:
    """A table for each rule and options, a row per image, sample and input: COLUMNS.

    sample: the image as it is, triggered, ... (triggered.SAMPLES), `cross` only where the attack has it; goal: the
    class that the trigger asks for; decision_plain: the decision without the trigger, on the image itself or on what
    carries its trigger (triggered.CARRIED): where that is the goal already, the trigger decides nothing. The others as
    in experiment=kis, on that sample: decision is that on the sample, and s_own, s_fixed, decision_star are of the
    input in its place.

    With options.pictures also pictures.safetensors: of each image `clean` and `triggered`, pixels in [0, 1], and
    `attribution`, R of the triggered one. Raises UserError for images without labels.
    """
    last, triggers = kis.readout(network), triggers_of(planted, images)
    tables: list[list[pd.DataFrame]] = [[] for _ in asked]
    pictures: list[dict[str, list[Tensor]]] = [{"clean": [], "triggered": [], "attribution": []} for _ in asked]
    for batch in images:
        check_labels_known(batch)
        case_of = cache(partial(case_on, network, batch, target, images, triggers))
        plain_of = cache(partial(plain_decisions, network, batch, images, triggers))
        for (rule, options), table, kept in zip(asked, tables, pictures, strict=True):
            for sample in triggers.there(options.samples):
                case = case_of(sample)
                found = {
                    name: kis.measure(last, case, replaced(case, name, rule, options, triggers))
                    for name in options.inputs
                }
                known = {
                    "goal": triggers.goals(batch),
                    "decision_plain": plain_of(sample if sample in CARRIED else "clean"),
                }
                table.append(kis.table_of(case, found).assign(sample=sample, **repeated(known, len(found))))
            if options.pictures:
                kept["clean"].append(triggers.pixels(batch.x))
                kept["triggered"].append(triggers.pixels(case_of("triggered").record.x))
                kept["attribution"].append(
                    kis.source_map(case_of("triggered"), kis.Attribution("attribution", rule, 0))
                )
    return [
        Result(
            pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS) if parts else pd.DataFrame(columns=COLUMNS),
            {"pictures": {name: torch.cat(several).cpu() for name, several in kept.items()}} if kept["clean"] else {},
        )
        for parts, kept in zip(tables, pictures, strict=True)
    ]


def case_on(
    network: Network, batch: Batch, target: Target, images: Images, triggers: Triggers, sample: str
) -> kis.Case:
    changed = replace(batch, x=triggers.on(sample, batch, images))
    return kis.case_of(network, changed, target, images, no_random)


def no_random(seed: int) -> Network:
    raise AssertionError("no input needs it")


def plain_decisions(network: Network, batch: Batch, images: Images, triggers: Triggers, sample: str) -> Tensor:
    """(B,), without the trigger."""
    return network.forward(triggers.plain(sample, batch, images)).logits.argmax(1)


def repeated(columns: dict[str, Tensor], rows: int) -> dict[str, list[int]]:
    """Values (B,) of the images for each of an image's rows."""
    return {name: values.repeat_interleave(rows).tolist() for name, values in columns.items()}


def replaced(case: kis.Case, name: str, rule: Rule | External, options: Options, triggers: Triggers) -> kis.Replaced:
    """x~ of one input."""
    source, form = kis.recipe("attribution" if name == AGAIN else name, rule, options.kis())
    given = kis.replaced(kis.source_map(case, source), case.record, form)
    if name != AGAIN:
        return given
    return replace(given, x=triggers.trigger(replace(case.batch, x=given.x)))
