"""Pictures and files as data URIs, so that the page is one file."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from pipeline.figures import maps
from pipeline.report.content import Drawn, Origin

LARGEST_SVG, LARGEST_CSV = 1_200_000, 400_000  # bytes; beyond, the page has pixels instead, or no csv
QUALITY, SMALL = (
    92,
    64,
)  # of JPEGs, which keep photographs in a third of the bytes of a png; pixels up to which a png is as small
THUMBNAIL, SHAPE = 480, 0.62  # pixels across of a figure's upper part; height / width
PIXELS = 200  # a map's larger side at most


def drawn(name: str, folder: Path, origin: Origin) -> Drawn:
    """A figure from its files: <name>.svg or, of a large one, .png; its .csv; the png's metadata have the caption."""
    png, svg, csv = (folder / f"{name}.{end}" for end in ("png", "svg", "csv"))
    with Image.open(png) as image:
        caption, pixels = str(image.info.get("Description", "")), image.convert("RGB")
    if svg.is_file() and svg.stat().st_size <= LARGEST_SVG:
        picture = uri(svg.read_bytes(), "image/svg+xml")
    else:
        picture = pixels_uri(pixels)
    numbers = uri(csv.read_bytes(), "text/csv") if csv.is_file() and csv.stat().st_size <= LARGEST_CSV else ""
    return Drawn(name, caption, picture, thumbnail(pixels), numbers, origin)


def thumbnail(image: Image.Image) -> str:
    width, height = image.size
    return pixels_uri(maps.shrunk(image.crop((0, 0, width, min(height, round(SHAPE * width)))), THUMBNAIL))


def map_uri(r: Tensor) -> str:
    """A map or an image (C, H, W), as figures draw it."""
    picture = np.ascontiguousarray((maps.image_like(r) * 255).round().astype(np.uint8))
    return pixels_uri(maps.shrunk(Image.fromarray(picture), PIXELS))


def pixels_uri(image: Image.Image) -> str:
    file = BytesIO()
    if max(image.size) <= SMALL:
        image.save(file, "PNG")
        return uri(file.getvalue(), "image/png")
    image.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return uri(file.getvalue(), "image/jpeg")


def uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
