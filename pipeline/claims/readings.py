"""Other readings of the paper and conventions on which peers disagree: does a verdict flip?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from pipeline.claims.registry import Tables
from pipeline.measures.attacked import numbered, toxic, whose
from pipeline.measures.tables import Table

Change = Callable[[Tables], Tables]


@dataclass(frozen=True)
class Reading:
    """name; claims that it can change; change: their tables, read so; sweeps: that it needs beside theirs; words: said
    of a claim whose verdict it turns into its opposite."""

    name: str
    claims: tuple[str, ...]
    change: Change
    sweeps: tuple[str, ...] = ()
    words: str = ""

    @property
    def flips(self) -> str:
        return self.words or f"depends on: {self.name}"


def column(other: str, main: str = "cosine") -> Change:
    """Another column in the place of the main one."""

    def read(table: Table) -> Table:
        return table.assign(**{main: table[other]}) if {main, other} <= {*table.columns} else table

    return lambda tables: {sweep: read(table) for sweep, table in tables.items()}


def instead(name: str, claims: tuple[str, ...], by: str = "rule", words: str = "", **sweeps: str) -> Reading:
    """main=other: the rows of another sweep in the place of those with the same rule (or another column `by`). Of
    networks of several training seeds, those that the other sweep has."""

    def change(tables: Tables) -> Tables:
        found = dict(tables)
        for main, other in sweeps.items():
            if main not in tables:  # another claim's
                continue
            new = tables[other]
            new = new.assign(rule=new["rule"].replace({"wplus": "lrp", "lrp_gamma": "lrp"})) if "rule" in new else new
            old = tables[main] if by != "input" else tables[main][whose(tables[main]).isin(whose(new))]
            found[main] = pd.concat([old[~old[by].isin(new[by].unique())], new], ignore_index=True)
        return found

    return Reading(name, claims, change, tuple(sweeps.values()), words)


def only(sweeps: tuple[str, ...], keep: Callable[[Table], Table]) -> Change:
    return lambda tables: {name: keep(t) if name in sweeps else t for name, t in tables.items()}


def order(name: str) -> Change:
    """Another order of pixels in the place of the map's."""

    def read(table: Table) -> Table:
        kept = table[table["order"] != "attribution"]
        return kept.assign(order=kept["order"].replace({name: "attribution"}))

    return only(("occlusion",), read)


def missing_are_zero(tables: Tables) -> Tables:
    return {name: table.fillna({"alignment": 0.0, "similarity": 0.0}) for name, table in tables.items()}


def without_the_first(table: Table) -> Table:
    """Of each attack the networks but the first."""
    return table[numbered({"": table})[""]["network"] > 1]


LIKE = (
    "rules-insensitive", "gradient-sensitive", "insensitive-single", "insensitive-bottom", "class-insensitive",
    "sim-random", "sim-trained", "sim-bottom", "gamma",
)  # fmt: skip
CASCADES = (
    "rise", "random>trained", "act>rules", "gauss~ring", "uniform-he", "aniso", "heavy-tail", "prior-gauss",
    "biases-zero", "zplus-input",
)  # fmt: skip
GAPS = ("rise", "random>trained")
REMOVED = ("removal-align", "removal-map", "prior-invariant")
OCCLUSION = ("occlude-random", "occlude-edge", "occlude-units")
EXTREMES = ("ext-top", "ext-original", "ext-control", "ext-bottom", "ext-trend")
KIS = (
    "kis-peaks", "kis-control", "kis-strong", "kis-acc", "ins-weak", "kis>magnitude", "magnitude>ins", "kis-beyond",
    "kis-own-map", "filter-kis",
)  # fmt: skip
WITHOUT_INSERTION = tuple(name for name in KIS if name not in ("ins-weak", "kis>magnitude", "magnitude>ins"))
TOXIC = ("bd-right", "bd-left", "bd-consistent", "bd-alone", "bd-split")
WEIGHTS = ("ortho-trained", "norm-trained", "iso-trained")
ATTACKED = ("attacked", "again", "highlight", "highlight_clean")

READINGS = (
    Reading("rank correlation of |R|", LIKE, column("spearman")),
    Reading("SSIM", LIKE, column("ssim")),
    Reading("R from 0 to 1", CASCADES, column("alignment_minmax", "alignment")),
    Reading("pixels from 0 to 1", CASCADES, column("alignment_pixels", "alignment")),
    Reading("R and x less their means", CASCADES, column("alignment_centred", "alignment")),
    instead("the label's map", GAPS, random="random_label", trained="trained_label"),
    instead("LRP: W+ at layer 1 too", GAPS, random="random_plus", trained="trained_plus"),
    instead("LRP: signs split at layer 1", GAPS, random="random_split", trained="trained_split"),
    instead("LRP: z^B at layer 1", GAPS, random="random_zbox", trained="trained_zbox"),
    instead("LRP: with biases", GAPS, trained="trained_bias"),  # the random networks have none
    instead("LRP without γ", GAPS, random="random_wplus", trained="trained_wplus"),
    instead("RectGrad: quantile .5", GAPS, random="random_quantile", trained="trained_quantile"),
    instead("RectGrad: A r ≥ τ", GAPS, random="random_least", trained="trained_least"),
    instead("RectGrad: A r ≥ τ, with M", GAPS, random="random_masked", trained="trained_masked"),
    instead("random: Kaiming uniform", GAPS, random="kaiming_uniform"),
    instead("random: truncated normal", GAPS, random="truncated_normal"),
    instead("uniform on [0, 1]", ("uniform-he", "uniform-colour"), uniform="uniform01"),
    instead(
        "uniform: PyTorch's own, with biases", ("uniform-he", "uniform-colour"), uniform="uniform_biased",
        words="the opposite with biases on the uniform side alone",
    ),
    instead(
        "PyTorch's scale and biases on both sides", ("uniform-he", "uniform-colour"), uniform="uniform_biased",
        gaussian="gaussian_biased", ring="gaussian_biased",
    ),
    Reading(
        "a cosine that does not overflow", ("uniform-raw",), column("alignment", "alignment_naive"),
        words="holds by overflow only",
    ),
    Reading("pixels by |R|", OCCLUSION, order("magnitude")),
    Reading("pixels by R with its bottom process", OCCLUSION, order("bottom")),
    instead("layer 1 alone", ("aniso",), anisotropic="anisotropic_first"),
    instead("layers 2 to L", ("aniso",), anisotropic="anisotropic_above"),
    instead("the top half", ("rules-insensitive", "gradient-sensitive", "decision-changes"), top="top_half"),
    instead("the middle row and column", REMOVED, removed="removed_middle"),
    instead("shared random places", REMOVED, removed="removed_shared"),
    instead("linear layers alone", REMOVED, removed="removed_linear", thinned="thinned_linear"),
    instead("convolutions alone", REMOVED, removed="removed_conv", thinned="thinned_conv"),
    Reading("no map counts as 0", REMOVED, missing_are_zero),
    instead("seeded with the gradient", EXTREMES, extremes="extremes_gradient"),
    instead("seeded with the rule's r", EXTREMES, extremes="extremes_relevance"),
    Reading("S of the first decision's row", (*KIS, *TOXIC, "threshold"), column("s_fixed", "s_own")),
    instead("the label's map in R~", KIS, by="input", kis="kis_label"),
    instead("R~ by percentiles", KIS, by="input", kis="kis_percentile"),
    instead("R~ by contrast", KIS, by="input", kis="kis_contrast"),
    instead("LRP in R~", WITHOUT_INSERTION, by="input", kis="kis_lrp"),
    instead("insertion of black", ("ins-weak", "kis>magnitude", "magnitude>ins"), by="input", kis="kis_black"),
    Reading("images of other classes alone", TOXIC, only(ATTACKED, toxic)),
    Reading("the other networks", (*TOXIC, "bd-asr", "bd-highlight"), only(ATTACKED, without_the_first)),
    instead(
        "balanced gauge", WEIGHTS, by="name", words="not about the network: the balanced gauge says the opposite",
        random_weights="random_balanced", trained_weights="trained_balanced",
    ),
)  # fmt: skip


def of_claim(name: str) -> list[Reading]:
    return [reading for reading in READINGS if name in reading.claims]


def applied(reading: Reading, tables: Mapping[str, Table], sweeps: tuple[str, ...]) -> Tables | None:
    """The tables of a claim's sweeps, read so; None where some are not there."""
    if not {*sweeps, *reading.sweeps} <= tables.keys():
        return None
    return reading.change({sweep: tables[sweep] for sweep in (*sweeps, *reading.sweeps)})
