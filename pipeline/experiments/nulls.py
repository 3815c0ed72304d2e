"""Null maps: what aligns with the image without any network. They belong inside every plot of alignment."""

from dataclasses import dataclass

import pandas as pd

from pipeline.experiments.interface import Result
from pipeline.images.batches import Images
from pipeline.images.nullmaps import blur, edges, mean_colour, mosaic, noise
from pipeline.measures.likeness import spearman
from pipeline.measures.maps import BANDS, alignment, band_alignment

COLUMNS = ["image", "target", "null", "alignment", *(f"alignment_band{i}" for i in range(BANDS)), "spearman_edges"]


@dataclass(frozen=True)
class Options:
    """blocks: the mosaic has so many blocks along each side; blur: the image's side over the Gaussian's sigma."""

    blocks: int
    blur: int


def run(images: Images, options: Options) -> list[Result]:
    """A row per image and null map: COLUMNS; target is -1; spearman_edges: rank correlation of |map| with the edges."""
    rows = []
    for batch in images:
        for b, image in enumerate(batch.names):
            x = batch.x[b : b + 1]
            maps = {
                "mosaic": mosaic(x, options.blocks),
                "mean_colour": mean_colour(x),
                "edges": edges(x),
                "blur": blur(x, options.blur),
            }
            maps |= {"noise": noise(x, image), "other": images.other(image)}
            for name, r in maps.items():
                numbers = [float(alignment(r, x)), *band_alignment(r, x)[0].tolist()]
                numbers.append(float(spearman(r.abs(), maps["edges"])))
                rows.append(dict(zip(COLUMNS, [image, -1, name, *numbers], strict=True)))
    return [Result(pd.DataFrame(rows))]
