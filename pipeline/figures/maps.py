"""How a map becomes a picture: an image-like map by one normalisation, a signed one on a diverging scale around 0."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image
from torch import Tensor

TAILS = (0.5, 99.5)  # percent
SIGNED = "RdBu_r"  # red is positive
PIXELS = 144  # a picture's larger side at most: 0.72 in at 200 dots per inch


def rows(cells: Sequence[tuple[Any, dict[str, dict[str, Tensor]]]], file: str, key: str) -> list[Tensor]:
    """One sweep's maps in the order of its table's rows, (C, H, W) each; cells without that key have none."""
    return [r for _, tensors in cells for r in tensors[file].get(key, ())]


def image_like(r: Tensor) -> np.ndarray:
    """A map (C, H, W), C = 3 or 1, as an RGB picture (H, W, 3) in [0, 1]: linear over all channels of this one map, its
    0.5 % quantile at 0 and its 99.5 % quantile at 1, clipped (from min to max, as the paper has it, one outlier greys
    the rest). A constant map is grey."""
    values = array(r)
    low, high = np.percentile(values, TAILS)
    scaled = np.clip((values - low) / (high - low), 0, 1) if high > low else np.full(values.shape, 0.5)
    return np.broadcast_to(scaled, (3, *values.shape[1:])).transpose(1, 2, 0)


def signed(r: Tensor) -> np.ndarray:
    """A map (C, H, W) summed over its channels, (H, W), to be drawn between -limit and limit."""
    return array(r).sum(0)


def limit(maps: Iterable[np.ndarray]) -> float:
    """One symmetric scale for all signed maps of a row: the 99.5 % quantile of absolute values; 1 if they are 0."""
    values = np.concatenate([np.abs(m).ravel() for m in maps])
    return float(np.percentile(values, TAILS[1])) or float(values.max()) or 1.0


def array(r: Tensor) -> np.ndarray:
    """float64, so that no scale of weights overflows; what is not finite is 0."""
    return np.nan_to_num(r.detach().cpu().double().numpy(), nan=0.0, posinf=0.0, neginf=0.0)


def show(ax: Axes, picture: np.ndarray, scale: float | None = None, pixels: int = PIXELS) -> AxesImage:
    """A picture without ticks: RGB (H, W, 3), or signed (H, W) on a diverging colour map between -scale and scale.

    It is embedded with `pixels` on its larger side at most and in 256 colours, so that a page of pictures stays small.
    """
    if picture.ndim == 2:
        image, end = Image.fromarray(np.asarray(picture, dtype=np.float32)), scale or limit([picture])
        drawn = ax.imshow(np.asarray(shrunk(image, pixels)), cmap=SIGNED, vmin=-end, vmax=end, interpolation="none")
    else:
        image = shrunk(Image.fromarray((np.asarray(picture) * 255).round().astype(np.uint8)), pixels)
        drawn = ax.imshow(image.quantize(256, dither=Image.Dither.NONE).convert("RGB"), interpolation="none")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(linewidth=0.4, color="#888888")
    return drawn


def shrunk(image: Image.Image, pixels: int) -> Image.Image:
    ratio = pixels / max(image.size)
    if ratio >= 1:
        return image
    return image.resize([max(1, round(side * ratio)) for side in image.size], Image.Resampling.LANCZOS)


def with_bottom(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of experiment=attribute whose rule has a bottom process; index: the place of each one's map
    among those of key with_bottom."""
    if "alignment_bottom" not in table:
        return table.iloc[:0].assign(index=[])
    has = table.groupby("rule")["alignment_bottom"].transform("count") > 0
    return table[has].drop(columns="index", errors="ignore").reset_index(drop=True).reset_index(names="index")


@dataclass(frozen=True)
class Tile:
    """One picture of a page: RGB or signed, with a text above and one below; None for an empty place."""

    picture: np.ndarray | None
    above: str = ""
    below: str = ""


def tile_of(
    row: Any,
    maps: Mapping[str, Sequence[tuple[Any, dict[str, dict[str, Tensor]]]]],
    above: str = "",
    below: str | None = None,
) -> Tile:
    """The picture of a row of numbers (columns sweep, index, key, alignment): of image-like maps, or signed where key
    is with_bottom, which is divided by its own limit so that a row of rules shares the scale from -1 to 1."""
    file = "inputs" if row["key"] == "x" else "maps"
    r = rows(maps[row["sweep"]], file, row["key"])[int(row["index"])]
    text = below if below is not None else f"{row['alignment']:.2f}"
    if row["key"] != "with_bottom":
        return Tile(image_like(r), above, text)
    values = signed(r)
    return Tile(values / limit([values]), above, text)


def draw_tiles(
    figure: Figure,
    lines: Sequence[Sequence[Tile]],
    place: tuple[float, float, float, float],
    labels: Sequence[str] = (),
    size: float = 6,
) -> None:
    """Lines of tiles in the part (left, bottom, right, top) of the figure, with a label at the left of each line."""
    columns = max(len(line) for line in lines)
    sides = dict(zip(("left", "bottom", "right", "top"), place, strict=True))
    grid = figure.add_gridspec(len(lines), columns, **sides, wspace=0.06, hspace=0.3)
    for y, line in enumerate(lines):
        start = next(x for x, tile in enumerate(line) if tile.picture is not None)
        for x, tile in enumerate(line):
            if tile.picture is None:
                continue
            ax = figure.add_subplot(grid[y, x])
            show(ax, tile.picture, 1.0)
            ax.set_title(tile.above, fontsize=size, pad=1.5)
            ax.set_xlabel(tile.below, fontsize=size, labelpad=1.5)
            if x == start and y < len(labels):
                ax.set_ylabel(labels[y], fontsize=size + 0.5)
