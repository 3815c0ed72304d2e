"""What the report is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.measures.tables import Table

GALLERY = "gallery"  # the name of its maps, beside the names of figures
OUTPUT = "the output"  # where a map starts that starts from no activation


@dataclass(frozen=True)
class Origin:
    """Where numbers come from: how many tables of each experiment, and what their manifests say, each thing once."""

    tables: Mapping[str, int]
    commits: Sequence[str]
    versions: Mapping[str, Sequence[str]]
    devices: Sequence[str]


@dataclass(frozen=True)
class Drawn:
    """A figure. picture, thumbnail, csv: data URIs; csv: "" where it is too large for a page."""

    name: str
    caption: str
    picture: str
    thumbnail: str
    csv: str
    origin: Origin


@dataclass(frozen=True)
class Map:
    """A map of the gallery. weights: random or trained, of the network that is named; layer: where it starts."""

    image: str
    weights: str
    rule: str
    layer: str
    network: str
    alignment: float
    source: str


@dataclass(frozen=True)
class Content:
    """settings: what the user set, as on the command line; missing: why a figure is not there, in one sentence, by
    its name; claims: the csv of figure=claims; images: data URIs by name; readings: rows of that csv that are of
    other readings."""

    profile: str
    figures: Sequence[Drawn]
    missing: Mapping[str, str]
    claims: Table | None
    images: Mapping[str, str]
    maps: Sequence[Map]
    origin: Origin
    readings: Table | None = None
    settings: Sequence[str] = ()
