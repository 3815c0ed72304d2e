"""Cascade substitution (Definition 3, Fig. 2a, Fig. 4): input alignment when the rule acts in the top N layers,
N = 0..L."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.engine import walk
from pipeline.engine.filters import filter_if_any
from pipeline.engine.network import Network, Record
from pipeline.engine.rules import External, Method
from pipeline.experiments.external import external_map
from pipeline.experiments.interface import Result
from pipeline.experiments.rows import Columns, over_images
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch, Images
from pipeline.measures.maps import (
    BANDS,
    Convention,
    alignment,
    band_alignment,
    by_convention,
    chroma,
    log_factors,
    log_norm,
    naive_alignment,
)

COLUMNS = [
    "image", "target", "n", "name", "alignment", "alignment_chroma", "log_numerator", "log_norm", "alignment_px",
]  # fmt: skip
WITH_NAIVE = "alignment_naive"  # after them, with these options
WITH_BANDS = [f"alignment_band{i}" for i in range(BANDS)]
CONVENTIONS = {f"alignment_{other.value}": other for other in Convention if other is not Convention.normalised}


@dataclass(frozen=True)
class Options:
    """bands: also the alignment within each spatial-frequency band; naive: also the cosine as it is usually written,
    which overflows; convention: of what the column `alignment` is taken; conventions: also by the others, in columns
    of their own."""

    bands: bool
    naive: bool
    convention: Convention
    conventions: bool


def run(network: Network, images: Images, rules: Sequence[Method], target: Target, options: Options) -> list[Result]:
    """One table per rule, a row per image and N: COLUMNS.

    name: of the lowest layer under the rule; alignment_chroma: of the colours, what is left after the mean over
    channels (NaN for grey images); log_numerator, log_norm: log |<R, x>| and log |R|; alignment_px: of the map P x =
    W_1 W_1^T x, which knows no rule. N runs to L, for `activation` to L - 1; for an external attribution N = L alone.
    """
    inside = [i for i, rule in enumerate(rules) if not isinstance(rule, External)]

    def found(batch: Batch, record: Record, classes: Tensor) -> list[list[Columns]]:
        measured: list[dict[int, Columns]] = [{} for _ in rules]  # at N
        last, values, image = None, {}, Image.of(record, images, options.convention)
        for i, n, r in walk.cascade(record, [rules[i] for i in inside], classes):
            if r is not last:  # rules that share a map get it one after the other: measured once
                last, values = r, measure(r, image, options)
            measured[inside[i]][n] = values
        for rule, at in zip(rules, measured, strict=True):
            if isinstance(rule, External):
                at[network.depth] = measure(external_map(rule, network, batch.x, classes), image, options)
        name = lambda n: network.unit_name(network.depth - n + 1)  # noqa: E731
        return [[{"n": n, "name": name(n), **at[n]} for n in sorted(at)] for at in measured]

    return over_images(network, images, rules, target, found)


@dataclass(frozen=True)
class Image:
    """What every map of a batch is measured against: x and its pixels (B, C, H, W), log |x|, the alignment of P x."""

    x: Tensor
    pixels: Tensor
    log_norm: Tensor
    px: Tensor

    @classmethod
    def of(cls, record: Record, images: Images, convention: Convention) -> "Image":
        x, pixels = record.x, images.preprocessing.pixels(record.x)
        return cls(x, pixels, log_norm(x), by_convention(filter_if_any(record), x, pixels, convention))


def measure(r: Tensor, image: Image, options: Options) -> dict[str, Tensor]:
    cosine, size = alignment(r, image.x), log_norm(r)
    usual = options.convention is Convention.normalised
    found = {
        "alignment": cosine if usual else by_convention(r, image.x, image.pixels, options.convention),
        "alignment_chroma": alignment(chroma(r), chroma(image.x)),
        **log_factors(cosine, size, image.log_norm),
        "alignment_px": image.px,
    }
    if options.naive:
        found[WITH_NAIVE] = naive_alignment(r, image.x)
    if options.bands:
        bands = band_alignment(r, image.x)
        found |= {name: bands[:, i] for i, name in enumerate(WITH_BANDS)}
    if options.conventions:
        found |= {name: by_convention(r, image.x, image.pixels, other) for name, other in CONVENTIONS.items()}
    return found
