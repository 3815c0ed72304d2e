import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from pipeline.errors import UserError
from pipeline.images.batches import OnError, load_batches
from pipeline.images.sets import Cifar10, Digits, Folder, ImageNet, PackagedSamples
from pipeline.networks.catalogue import Torchvision, Vgg16Cifar
from tests import tiny

ALL = {"only": None, "limit": None, "step": 1, "seed": None, "on_error": OnError.stop}


def test_preprocessing_is_the_weights_enums_own():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    for name in ("vgg16", "alexnet", "vgg11_bn"):
        expected = torchvision.models.get_model_weights(name).DEFAULT.transforms()(image)
        torch.testing.assert_close(
            Torchvision(name, []).preprocessing().transform()(image), expected, atol=1e-6, rtol=0
        )


def test_packaged_samples_are_labelled():
    imagenet = PackagedSamples(**ALL, package="foolbox", folder="data", pattern="imagenet_*.jpg").images()
    cifar = PackagedSamples(**ALL, package="foolbox", folder="data", pattern="cifar10_*.png").images()
    assert len(imagenet) == len(cifar) == 20
    assert imagenet.names[0] == "imagenet_00_243.jpg" and imagenet.labels[0] == 243
    assert cifar.load(0).size == (32, 32) and max(cifar.labels) <= 9
    with pytest.raises(UserError, match="pip install nosuchpackage"):
        PackagedSamples(**ALL, package="nosuchpackage", folder="data", pattern="*").images()


def test_selection():
    def names(**changes):
        return (
            PackagedSamples(**{**ALL, **changes}, package="foolbox", folder="data", pattern="imagenet_*.jpg")
            .images()
            .names
        )

    every = names()
    assert names(step=10) == every[::10]
    assert names(limit=3) == every[:3]
    drawn = names(limit=7, seed=1)
    assert (
        drawn == names(limit=7, seed=1) != names(limit=7, seed=2)
        and list(drawn) == sorted(drawn)
        and len(set(drawn)) == 7
    )
    for wrong in ({"step": 0}, {"limit": 0}, {"per_class": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            names(**wrong)


def test_so_many_of_each_class(tmp_path):
    every = Digits(**ALL, training=200).images()
    some = Digits(**ALL, per_class=30, training=200).images()
    by_hand = [name for k in range(10) for name in [n for n, y in zip(every.names, every.labels) if y == k][:30]]
    assert len(some) == 300 and some.names == tuple(name for name in every.names if name in {*by_hand})
    few = Digits(**{**ALL, "step": 2, "limit": 5}, per_class=1, training=200).images()
    assert len({*few.labels}) == 5 and {*few.names} <= {*every.names[::2]}
    with pytest.raises(UserError, match="per_class needs the class"):
        Folder(**ALL, per_class=2, root=str(tiny.images(tmp_path))).images()


def test_folder_and_one_image(tmp_path):
    root = tiny.images(tmp_path / "a" / "b", count=3)
    images = Folder(**ALL, root=str(tmp_path / "a")).images()
    assert images.names == ("b/image000.png", "b/image001.png", "b/image002.png") and set(images.labels) == {-1}
    assert Folder(**ALL, root=str(root / "image001.png")).images().names == ("image001.png",)
    (root / "labels.csv").write_text("file,class_index\nimage002.png,7\nimage000.png,3\n")
    images = Folder(**ALL, root=str(root)).images()
    assert images.names == ("image002.png", "image000.png") and images.labels == (7, 3)
    (root / "labels.csv").write_text("file,class_index\nimage009.png,7\n")
    with pytest.raises(UserError, match=r"image009\.png"):
        Folder(**ALL, root=str(root)).images()


def test_fingerprint_follows_contents(tmp_path):
    root = tiny.images(tmp_path)
    before = Folder(**ALL, root=str(root)).images().fingerprint()
    assert Folder(**ALL, root=str(root)).images().fingerprint() == before
    changed = bytearray((root / "image000.png").read_bytes())
    changed[-1] ^= 1
    (root / "image000.png").write_bytes(changed)
    assert Folder(**ALL, root=str(root)).images().fingerprint() != before


def class_folders(root, classes, side=32, suffix="jpg"):
    for name in classes:
        tiny.images(root / name, count=2, side=side, suffix=suffix)
    return root


def test_cifar10_as_a_folder(tmp_path):
    class_folders(tmp_path / "test", ["airplane", "bird"])
    class_folders(tmp_path / "train", ["airplane", "bird"])
    images = Cifar10(**ALL, root=str(tmp_path), download=False).images()
    assert images.names[0] == "test/airplane/image000.jpg" and images.labels == (0, 0, 1, 1)
    assert Cifar10(**ALL, root=str(tmp_path), download=False).images("train").names[0].startswith("train/")


def test_cifar10_of_torchvision(tmp_path, monkeypatch):
    """Files as torchvision unpacks them, with an integrity table that fits."""
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    batches = {
        "test_batch": {"data": pixels, "labels": [3, 8, 8, 0]},
        "batches.meta": {"label_names": list("abcdefghij")},
    }
    for name, content in batches.items():
        (base / name).write_bytes(pickle.dumps(content))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "_load_meta", lambda self: setattr(self, "classes", list("abcdefghij"))
    )
    images = Cifar10(**ALL, root=str(tmp_path), download=False).images()
    assert images.names[1] == "test/00001" and images.labels == (3, 8, 8, 0)
    assert (np.asarray(images.load(2)) == pixels[2].reshape(3, 32, 32).transpose(1, 2, 0)).all()


def test_cifar10_that_cant_be_downloaded(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", offline)
    with pytest.raises(UserError, match=r"can't be downloaded .* put cifar-10-python\.tar\.gz there"):
        Cifar10(**ALL, root=str(tmp_path), download=True).images()
    with pytest.raises(UserError, match="CIFAR-10 is not in"):
        Cifar10(**ALL, root=str(tmp_path), download=False).images()


def test_imagenet_layouts(tmp_path):
    wnids = [f"n{i:08d}" for i in range(1000)]
    image = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(image, "JPEG")
    for wnid in wnids:
        (tmp_path / "val" / wnid).mkdir(parents=True)
        (tmp_path / "val" / wnid / f"{wnid}.JPEG").write_bytes(image.getvalue())
    for root in (tmp_path, tmp_path / "val"):
        images = ImageNet(**ALL, root=str(root)).images()
        assert len(images) == 1000 and images.labels[17] == 17 and images.names[0] == f"val/{wnids[0]}/{wnids[0]}.JPEG"
    some = class_folders(tmp_path / "some", wnids[:3])
    assert set(ImageNet(**ALL, root=str(some)).images().labels) == {-1}  # three folders don't tell the class index
    with pytest.raises(UserError, match="ImageNet validation folder"):
        ImageNet(**ALL, root=str(tmp_path / "nothing")).images()


def test_imagenet_archives_as_torchvision_reads_them(tmp_path, monkeypatch):
    """torchvision unpacks the archives into val/<wnid>/; here it is asked to, and what it leaves is read."""
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(b"")
    asked = []

    def unpack(root, split):
        asked.append(split)
        class_folders(tmp_path / "val", ["n01", "n02"])

    monkeypatch.setattr(torchvision.datasets, "ImageNet", unpack)
    assert len(ImageNet(**ALL, root=str(tmp_path)).images()) == 4 and asked == ["val"]
    assert not tarfile.is_tarfile(tmp_path / "val" / "n01" / "image000.jpg")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_in_order_and_the_same_with_workers(tmp_path, workers):
    images = Folder(**ALL, root=str(tiny.images(tmp_path, count=7, side=32))).images()
    batches = list(load_batches(images, Vgg16Cifar(10, False, 0.0).preprocessing(), 3, workers, OnError.stop, []))
    assert [len(b.names) for b in batches] == [3, 3, 1] and sum((b.names for b in batches), ()) == images.names
    pixels = torch.from_numpy(np.asarray(images.load(4)).copy()).permute(2, 0, 1) / 255
    mean, std = (
        torch.tensor(Vgg16Cifar(10, False, 0.0).preprocessing().mean),
        torch.tensor(Vgg16Cifar(10, False, 0.0).preprocessing().std),
    )
    torch.testing.assert_close(batches[1].x[1], (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1))


def test_digits_are_scikit_learns_split_without_overlap():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    digits = Digits(**ALL, training=150)
    train, test = digits.images("train"), digits.images("test")
    assert len(train) == 150 and len(train) + len(test) == 1797 and not set(train.names) & set(test.names)
    for images in (train, test):
        for i in (0, 7, 100):
            number = int(images.names[i].split("/")[1])
            shown = np.asarray(images.load(i))
            assert images.labels[i] == labels[number] and shown.shape == (32, 32, 3) and (shown == shown[..., :1]).all()
            blocks = shown[..., 0].reshape(8, 4, 8, 4).mean((1, 3)) * 16 / 255
            assert (
                np.corrcoef(blocks.ravel(), pixels[number])[0, 1] > 0.95
                and abs(blocks.mean() - pixels[number].mean()) < 0.5
            )
    assert len(set(train.labels)) == 10 and Digits(**ALL, training=20).images("train").names == train.names[:20]
    with pytest.raises(UserError, match="leave some of the 1797"):
        Digits(**ALL, training=1797).images()
