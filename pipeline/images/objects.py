"""Images whose objects have a known place."""

import xml.etree.ElementTree as xml
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from pipeline.errors import UserError
from pipeline.images.batches import ImageSet, open_file
from pipeline.images.sets import ImageNet, PackagedSamples

Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two are outside


@dataclass(frozen=True)
class Composites(PackagedSamples):
    """Each sample's middle, `middle` of its side, in front of the next sample of another class: images that are known
    to be object there and background around it. The label is the object's."""

    middle: float

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.middle < 1:
            raise ValueError("middle must lie between 0 and 1")

    def images(self, split: str = "test") -> ImageSet:
        samples = self.samples()
        files = samples.files or ()
        behind = next_of_another_class(samples.labels)
        names = [f"{a} on {samples.names[b]}" for a, b in zip(samples.names, behind, strict=True)]
        load, objects = (partial(make, files, behind, self.middle) for make in (_load_composite, _middle_of_composite))
        backs = tuple(files[k] for k in behind)
        return self.select(ImageSet(tuple(names), samples.labels, load, files, objects, backs))


def next_of_another_class(labels: Sequence[int]) -> list[int]:
    """For each place the next one, the first after the last, with another label. Raises UserError where there is
    none."""
    if len({*labels}) < 2:
        raise UserError("composites need images of two classes; choose others by data.pattern")
    n = len(labels)
    return [next((i + k) % n for k in range(1, n) if labels[(i + k) % n] != labels[i]) for i in range(n)]


def _load_composite(files: tuple[Path, ...], behind: Sequence[int], middle: float, i: int) -> Image.Image:
    front, back = (open_file(files, k) for k in (i, behind[i]))
    side = min(front.size)
    front, back = (ImageOps.fit(image, (side, side)) for image in (front, back))
    back.paste(front.crop(middle_of(side, middle)), middle_of(side, middle))
    return back


def _middle_of_composite(files: tuple[Path, ...], behind: Sequence[int], middle: float, i: int) -> Image.Image:
    with Image.open(files[i]) as image:
        side = min(image.size)
    return white((side, side), [middle_of(side, middle)])


def middle_of(side: int, middle: float) -> Box:
    """A square in the middle of another."""
    margin = round(side * (1 - middle) / 2)
    return margin, margin, side - margin, side - margin


@dataclass(frozen=True)
class BoxedImageNet(ImageNet):
    """The same with the boxes of its objects: `boxes` is (or holds as `val`) the folder of the validation set's
    annotations, a file <image>.xml each."""

    boxes: str

    def images(self, split: str = "test") -> ImageSet:
        found, boxes = super().images(split), Path(self.boxes).expanduser()
        boxes = boxes / "val" if (boxes / "val").is_dir() else boxes
        files = tuple(boxes / f"{Path(name).stem}.xml" for name in found.names)
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise UserError(
                f"data.boxes={self.boxes} lacks the boxes of {len(missing)} of {len(files)} images, {missing[0]} "
                "first; set it to the folder with the validation set's annotations (ILSVRC2012_bbox_val_v3.tgz)"
            )
        return replace(found, objects=partial(_boxes, found.load, files), beside=files)


def _boxes(load: Callable[[int], Image.Image], files: Sequence[Path], i: int) -> Image.Image:
    try:
        size, boxes = boxes_of(files[i].read_text())
    except (xml.ParseError, ValueError) as error:
        raise UserError(f"the boxes in {files[i]} can't be read ({error}); unpack the archive again") from None
    if (found := load(i).size) != size:
        raise UserError(
            f"{files[i].name} has boxes in an image of {size[0]} x {size[1]} pixels, and the image here has {found[0]} "
            f"x {found[1]}; set data.root to the images as they were published"
        )
    return white(size, boxes)


def boxes_of(text: str) -> tuple[tuple[int, int], list[Box]]:
    """((width, height), [(left, top, right, bottom)]) of an annotation in the form of Pascal VOC, whose last pixels are
    inside; here right and bottom are outside. Raises ParseError or ValueError for a broken one."""
    root = xml.fromstring(text)

    def numbers(parent: xml.Element, *places: str) -> list[int]:
        return [int(parent.findtext(place, "nothing")) for place in places]

    width, height = numbers(root, "size/width", "size/height")
    corners = [f"bndbox/{corner}" for corner in ("xmin", "ymin", "xmax", "ymax")]
    boxes = [numbers(box, *corners) for box in root.iter("object")]
    return (width, height), [(left, top, right + 1, bottom + 1) for left, top, right, bottom in boxes]


def white(size: tuple[int, int], boxes: Sequence[Box]) -> Image.Image:
    """White boxes on black."""
    picture = Image.new("L", size)
    for left, top, right, bottom in boxes:
        ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=255)
    return picture
