"""Images whose objects have a known place, and how much of what lies behind these a map returns."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.engine import walk
from pipeline.engine.network import trace
from pipeline.engine.rules import Gbp
from pipeline.errors import UserError
from pipeline.experiments import attribute
from pipeline.images.batches import ImageSet, OnError, Preprocessing, load_batches
from pipeline.images.objects import BoxedImageNet, Composites, next_of_another_class
from pipeline.images.sets import PackagedSamples
from pipeline.measures.masks import background, share_behind
from tests import tiny

ALL = {"only": None, "limit": None, "step": 1, "seed": None, "on_error": OnError.stop}
CIFAR10 = {"package": "foolbox", "folder": "data", "pattern": "cifar10_*.png"}
ANNOTATION = """<annotation><filename>{name}</filename><size><width>{width}</width><height>{height}</height>
<depth>3</depth></size>{objects}</annotation>"""
OBJECT = (
    "<object><name>n01</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


# ---- where they are --------------------------------------------------------------------------------------------------


def test_a_composite_is_one_image_in_front_of_another():
    samples = PackagedSamples(**ALL, **CIFAR10).images()
    composites = Composites(**ALL, **CIFAR10, middle=0.75).images()
    assert composites.labels == samples.labels and len({*composites.names}) == 20
    for i, name in enumerate(composites.names):
        front, back = (samples.names.index(part) for part in name.split(" on "))
        assert front == i and samples.labels[back] != samples.labels[i]
        inside = np.zeros((32, 32), dtype=bool)
        inside[4:28, 4:28] = True
        assert (np.asarray(composites.objects(i)) == 255 * inside).all()
        expected = np.where(inside[..., None], samples.load(front), samples.load(back))
        assert (np.asarray(composites.load(i)) == expected).all()


def test_what_lies_behind_is_the_next_image_of_another_class():
    assert next_of_another_class([3, 3, 5, 3]) == [2, 2, 3, 2]
    with pytest.raises(UserError, match="two classes"):
        next_of_another_class([1, 1])


def test_a_choice_of_composites_keeps_their_places_and_pairs():
    composites, some = (Composites(**{**ALL, "step": step}, **CIFAR10, middle=0.5).images() for step in (1, 7))
    assert some.names == composites.names[::7]
    assert some.objects(2).tobytes() == composites.objects(14).tobytes()
    assert some.load(2).tobytes() == composites.load(14).tobytes()
    for middle in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Composites(**ALL, **CIFAR10, middle=middle)


def annotated(root, boxes, size=(48, 32)):
    """A validation set of one image in each of two classes, and beside it the annotations of both: all boxes, and
    all but the first."""
    (root / "boxes").mkdir(parents=True)
    for i, wnid in enumerate(("n01", "n02")):
        folder = root / "val" / wnid
        folder.mkdir(parents=True)
        Image.new("RGB", size).save(folder / f"ILSVRC2012_val_0000000{i}.JPEG")
        objects = "".join(OBJECT.format(*box) for box in boxes[i:])
        text = ANNOTATION.format(name=f"ILSVRC2012_val_0000000{i}", width=size[0], height=size[1], objects=objects)
        (root / "boxes" / f"ILSVRC2012_val_0000000{i}.xml").write_text(text)
    return BoxedImageNet(**ALL, root=str(root), boxes=str(root / "boxes"))


def test_boxes_of_imagenet(tmp_path):
    images = annotated(tmp_path, [(5, 3, 20, 10), (18, 8, 47, 31)])
    expected = np.zeros((32, 48), dtype=bool)
    expected[3:11, 5:21] = expected[8:32, 18:48] = True
    assert (np.asarray(images.images().objects(0)) == 255 * expected).all(), "the last pixels are inside"
    second = replace(images, only=["val/n02/ILSVRC2012_val_00000001.JPEG"]).images()
    expected[:8] = expected[:, :18] = False
    for chosen in (second.objects(0), images.images().pick([1]).objects(0)):
        assert (np.asarray(chosen) == 255 * expected).all(), "the last box alone"
    assert images.identity() == BoxedImageNet(**ALL, root="elsewhere", boxes="elsewhere").identity()
    (tmp_path / "boxes").rename(tmp_path / "val of boxes")
    (tmp_path / "boxes").mkdir()
    (tmp_path / "val of boxes").rename(tmp_path / "boxes" / "val")
    there = BoxedImageNet(**ALL, root=str(tmp_path), boxes=str(tmp_path / "boxes"))
    assert (np.asarray(there.images().objects(1)) == 255 * expected).all(), "as the archive is unpacked"
    first, second = sorted((tmp_path / "boxes" / "val").iterdir())
    second.write_text("<annotation><size/>")
    with pytest.raises(UserError, match=rf"{second.name} can't be read"):
        there.images().objects(1)
    second.write_text(first.read_text().replace("<width>48", "<width>32"))
    with pytest.raises(UserError, match="32 x 32 pixels, and the image here has 48 x 32"):
        there.images().objects(1)
    first.unlink()
    with pytest.raises(UserError, match=rf"the boxes of 1 of 2 images, {first.name} first; set it to the folder"):
        there.images()


def test_fingerprints_follow_boxes_and_backgrounds(tmp_path):
    before = annotated(tmp_path, [(5, 3, 20, 10), (18, 8, 47, 31)]).images()
    old = before.fingerprint()
    file = tmp_path / "boxes" / "ILSVRC2012_val_00000001.xml"
    file.write_text(file.read_text().replace("18", "19"))
    assert before.fingerprint() != old
    composites = Composites(**ALL, **CIFAR10, middle=0.5).images()
    behind = replace(composites, beside=composites.files)
    assert composites.fingerprint() != behind.fingerprint()
    assert composites.pick([3]).beside[0].name == composites.names[3].split(" on ")[1]


@pytest.mark.parametrize("size", [(80, 50), (50, 80), (37, 37)])
def test_a_mask_moves_as_its_image_does(size):
    """An image that is white where its object is: both are resized and cropped alike, but for a pixel at the edge."""
    picture = Image.new("L", size)
    picture.paste(255, (20, 11, 33, 31))
    images = ImageSet(("a",), (0,), lambda i: picture.convert("RGB"), objects=lambda i: picture)
    preprocessing = Preprocessing(40, 32, (0.0,) * 3, (1.0,) * 3, "bilinear")
    (batch,) = load_batches(images, preprocessing, 4, 0, OnError.stop, [])
    assert batch.objects.shape == (1, 1, 32, 32) and batch.objects.dtype == torch.bool
    wrong = (batch.x[:, :1] > 0.5) != batch.objects
    edge = (batch.x[:, :1] > 0.02) & (batch.x[:, :1] < 0.98)
    assert batch.objects.any() and not (wrong & ~edge).any()


def test_images_without_known_objects_have_none():
    samples = PackagedSamples(**ALL, **CIFAR10).images()
    preprocessing = Preprocessing(32, 32, (0.0,) * 3, (1.0,) * 3, "bilinear")
    assert next(load_batches(samples, preprocessing, 4, 0, OnError.stop, [])).objects is None


# ---- how much of what lies behind ------------------------------------------------------------------------------------


def objects_of(*boxes, side=8):
    found = torch.zeros(len(boxes), 1, side, side, dtype=torch.bool)
    for b, (top, bottom, left, right) in enumerate(boxes):
        found[b, 0, top:bottom, left:right] = True
    return found


def test_the_backgrounds_share_is_that_of_the_image():
    x, objects = torch.randn(2, 3, 8, 8), objects_of((2, 6, 2, 6), (0, 8, 0, 3))
    torch.testing.assert_close(background(-3e18 * x, x, objects), torch.ones(2).double())
    assert background(x * objects, x, objects).tolist() == [0, 0]
    behind = (x * ~objects).double().pow(2).flatten(1).sum(1)
    expected = x.double().pow(2).flatten(1).sum(1) / behind
    torch.testing.assert_close(background(x * ~objects, x, objects), expected)
    halved = torch.where(objects, x, x / 2)
    inside = (x * objects).double().pow(2).flatten(1).sum(1)
    share = (behind / 4) / (behind / 4 + inside) * expected
    torch.testing.assert_close(background(halved, x, objects), share)


def test_a_share_that_is_not_there_is_missing():
    x = torch.randn(3, 3, 8, 8)
    x[2] = 0
    found = share_behind(x, objects_of((0, 0, 0, 0), (0, 8, 0, 8), (2, 6, 2, 6)))
    assert found.isnan().all(), "no object, no background, nothing at all"


def test_cells_of_a_smaller_map_count_in_part():
    """Cell by cell, where the object covers one cell, half of another and none of the others."""
    a, objects = torch.randn(1, 5, 2, 2), objects_of((0, 6, 0, 4))
    cells = a.double().pow(2).sum(1)[0]
    outside = cells[0, 1] + cells[1, 1] + cells[1, 0] / 2
    torch.testing.assert_close(share_behind(a, objects), (outside / cells.sum())[None])


def test_a_map_too_coarse_to_tell_has_no_share():
    """The middle of the image, a quarter of each of 2 x 2 cells; 4 x 4 cells tell."""
    objects = objects_of((2, 6, 2, 6))
    assert share_behind(torch.ones(1, 1, 2, 2), objects).isnan().all()
    assert share_behind(torch.ones(1, 1, 4, 4), objects).item() == 0.75


# ---- in the table ----------------------------------------------------------------------------------------------------


@pytest.fixture
def composites(monkeypatch, tmp_path):
    folder = tiny.images(tmp_path / "package" / "pictures", 4)
    for i, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"picture_{i}.png")
    (tmp_path / "package" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    return [
        "data=cifar10_composites", "data.package=package", "data.folder=pictures", "data.pattern=picture_*.png",
        "data.middle=0.5",
    ]  # fmt: skip


def table_of(ended):
    assert ended.code == 0, ended.err
    return pd.read_parquet(ended.made[-1])


def test_the_table_of_maps_has_the_background(run, composites, checkpoint):
    args = [
        "experiment=attribute", *tiny.OWN, *composites, "weights=checkpoint", f"weights.path={checkpoint}",
        "run.batch_size=3",
    ]  # fmt: skip
    rules, starts = (table_of(run(*args, f"rule={name}")) for name in ("gbp", "activation"))
    assert [*starts] == [*attribute.COLUMNS, *attribute.WITH_OBJECTS]
    data = Composites(**ALL, package="package", folder="pictures", pattern="picture_*.png", middle=0.5)
    preprocessing = Preprocessing(16, 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")
    model = tiny.network()
    model.load_state_dict(torch.load(checkpoint))
    (batch,) = load_batches(data.images(), preprocessing, 9, 0, OnError.stop, [])
    record = trace(model).forward(batch.x)

    def share(a):  # of the twelve pixels, or the three cells, around the middle
        n = a.shape[-1] // 4
        energy = a.double().pow(2).sum(1)
        return 1 - energy[:, n:-n, n:-n].sum((1, 2)) / energy.sum((1, 2))

    def check(found, values):
        np.testing.assert_allclose(found, values, rtol=1e-4)

    assert (rules["objects"] == 0.25).all()
    check(rules["background"], share(walk.attribute(record, Gbp())) / share(batch.x))
    assert rules["background_activation"].isna().all() and (rules["cells"] == 1).all(), "it starts at the output"
    for layer, cells in ((1, 256), (2, 64)):
        at, a = starts[starts["layer"] == layer], record.activation(layer)
        check(at["background"], share(walk.walk(record, a, lambda _: Gbp(), top=layer)) / share(batch.x))
        check(at["background_activation"], share(a))
        assert (at["cells"] == cells).all()
