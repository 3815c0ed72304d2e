import json
import math
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image

from pipeline.attacks.interface import NoAttack
from pipeline.engine.network import trace
from pipeline.experiments import train as train_experiment
from pipeline.files import sealed, unsealed
from pipeline.networks.catalogue import Vgg16Cifar
from pipeline.networks.training import LabelledImages, TrainOptions, augment, one_cycle, train
from tests import tiny

OPTIONS = TrainOptions(
    seed=1,
    start=None,
    sizes=[16],
    epochs=[6],
    batch_size=8,
    lr=0.02,
    warmup=0.3,
    momentum=0.9,
    weight_decay=5e-4,
    label_smoothing=0.0,
    crop=2,
    flip=True,
    bf16=False,
    test_every=1,
    save_every=0.0,
)


def labelled(n: int, seed: int) -> LabelledImages:
    """Five classes of noise, each with a colour of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 5
    base = torch.tensor([[200, 30, 30], [30, 200, 30], [30, 30, 200], [180, 180, 30], [30, 180, 180]])
    pixels = base[labels][:, :, None, None] + torch.randint(-30, 30, (n, 3, 16, 16), generator=generator)
    return LabelledImages(pixels.clamp(0, 255).to(torch.uint8), labels, (0.5,) * 3, (0.25,) * 3)


class Interrupted(Exception):
    pass


def until(stop: int | None):
    def progress(steps, done, total):
        for step in steps:
            if step == stop:
                raise Interrupted
            yield step

    return progress


def test_training_learns_and_resumes_bit_for_bit(tmp_path):
    build, data, test = lambda: tiny.network(batch_norm=True), labelled(64, 0), labelled(40, 1)
    whole, rows = train(build, data, test, OPTIONS, NoAttack(), tmp_path / "whole.pt", until(None))
    assert rows[-1]["accuracy"] > 0.9 and [r["epoch"] for r in rows] == [1, 2, 3, 4, 5, 6]
    for stop in (3, 8, 45):  # inside an epoch, at its end, inside the last one
        file = tmp_path / f"{stop}.pt"
        with pytest.raises(Interrupted):
            train(build, data, test, OPTIONS, NoAttack(), file, until(stop))
        resumed, again = train(build, data, test, OPTIONS, NoAttack(), file, until(None))
        assert all(
            torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
        )
        assert [r["loss"] for r in again] == [r["loss"] for r in rows]
    other, _ = train(build, data, test, replace(OPTIONS, seed=2), NoAttack(), tmp_path / "other.pt", until(None))
    assert not torch.equal(other[0].weight, whole[0].weight)


def test_one_cycle_rises_to_the_peak_and_falls_to_zero():
    rates = [one_cycle(step, 100, 0.5, 0.2) for step in range(100)]
    assert max(rates) == rates[19] == 0.5 and rates[0] > 0 and math.isclose(rates[-1], 0, abs_tol=1e-9)
    assert rates[:20] == sorted(rates[:20]) and rates[20:] == sorted(rates[20:], reverse=True)


def test_augmentation_shifts_and_flips_each_image_by_itself():
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(64, 3, 16, 16)
    out = augment(ramp, 2, True, torch.Generator().manual_seed(0))
    assert out.shape == ramp.shape and out.dtype == torch.uint8
    padded = torch.nn.functional.pad(ramp[:1].float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8)[0]
    crops = {
        c.flip(2).numpy().tobytes() if f else c.contiguous().numpy().tobytes()
        for t in range(5)
        for left in range(5)
        for f in (0, 1)
        for c in [padded[:, t : t + 16, left : left + 16]]
    }
    got = {o.contiguous().numpy().tobytes() for o in out}
    assert got <= crops and len(got) > 25
    assert torch.equal(augment(ramp, 0, False, torch.Generator()), ramp)


def test_cifar_vgg_folds_into_the_plain_one():
    normed = Vgg16Cifar(10, True, 0.1).build().eval()
    for m in normed.modules():
        if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    network = trace(normed.double())
    plain = Vgg16Cifar(10, False, 0.1).build().eval().double()
    plain.load_state_dict(network.module.state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(plain(x), normed(x), rtol=1e-10, atol=1e-12)
    assert network.depth == 16 and normed(torch.randn(2, 3, 16, 16, dtype=torch.float64)).shape == (2, 10)


def test_experiment_train_makes_a_checkpoint_that_the_walk_reads(run, tmp_path):
    for split, count in (("train", 20), ("test", 10)):
        data = labelled(count, count)
        for i, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
            folder = tmp_path / "cifar" / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    args = (*tiny.OWN, "data=cifar10", f"data.root={tmp_path / 'cifar'}", "data.download=false", "experiment=train")
    settings = ("train.sizes=[16]", "train.epochs=[2]", "train.batch_size=5", "train.crop=2")
    ended = run(*args, *settings)
    assert ended.code == 0, ended.err
    made = ended.made[-1].parent
    table = pd.read_parquet(made / "table.parquet")
    assert list(table["epoch"]) == [1, 2] and {"loss", "accuracy"} <= set(table)
    facts = json.loads((made / "manifest.json").read_text())["facts"]
    assert facts["accuracy"] == table["accuracy"].iloc[-1]
    assert safetensors.torch.load_file(made / "folded.safetensors")["0.weight"].dtype == torch.float16
    images = tiny.images(tmp_path / "images")
    after = run(
        *tiny.OWN,
        "data=folder",
        f"data.root={images}",
        "weights=checkpoint",
        f"weights.path={made / 'folded.safetensors'}",
    )
    assert after.code == 0, after.err
    assert run(*args, *settings, "train.epochs=[2,3]").complaint.startswith(
        "error: experiment=train: sizes and epochs must be lists of one length"
    )

    still = run(
        *args, *settings, f"train.start={made / 'model.safetensors'}", "train.lr=1e-12", "train.seed=7"
    )  # goes on from there
    first, second = (
        safetensors.torch.load_file(folder / "model.safetensors") for folder in (made, still.made[-1].parent)
    )
    assert all(torch.allclose(first[k], second[k], atol=1e-6) for k in first)
    assert "no checkpoint at train.start=nowhere.pt" in run(*args, *settings, "train.start=nowhere.pt").complaint


DIGITS = [
    "model=own",
    "model.call=tests.test_training:of_digits",
    "model.resize=32",
    "model.crop=32",
    "data=digits",
    "digits.training=1500",
]
QUICK = "epochs: [1], sizes: [16], batch_size: 50"


def training(of_train: str = QUICK, data: str = "digits") -> str:
    return f"weights.training={{data: {data}, train: {{{of_train}}}}}"


def of_digits():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    )


def test_weights_that_the_program_trains_first(run, tmp_path):
    """Trained once, whatever is measured on them; equal to their file; mended where the file is broken."""
    few, trained = (
        (*DIGITS, "data.limit=6", "experiment=kis"),
        ("weights=trained", training()),
    )
    first = run(*few, *trained)
    assert first.code == 0, first.err
    (folder,) = (tmp_path / "outputs" / "results" / "train").glob("[0-9a-f]*")
    assert list(pd.read_parquet(folder / "table.parquet")) == train_experiment.COLUMNS
    file = folder / "model.safetensors"
    made, content = file.stat().st_mtime_ns, file.read_bytes()
    assert (
        run(*DIGITS, "experiment=train", "train.epochs=[1]", "train.sizes=[16]", "train.batch_size=50").made[-1].parent
        == folder
    ), "the cell of experiment=train itself, on all training images"
    assert run(*few, *trained, "rule=lrp", "run.force=true").code == 0 and file.stat().st_mtime_ns == made
    by_file = run(*few, "weights=checkpoint", f"weights.path={file}")
    assert by_file.made[-1] != first.made[-1]
    pd.testing.assert_frame_equal(pd.read_parquet(first.made[-1]), pd.read_parquet(by_file.made[-1]))
    elsewhere = run(*few, "weights=trained", training(f"{QUICK}, seed: 7"))
    assert elsewhere.made[-1] != first.made[-1] and len(list(folder.parent.glob("[0-9a-f]*"))) == 2
    assert run(*few, *trained, "train.seed=7").made == elsewhere.made, "settings of the training reach it"
    file.write_bytes(content[:-1] + b"x")
    assert run(*few, *trained).made == first.made and file.read_bytes() == content
    shutil.rmtree(folder)  # results that were copied from elsewhere without their networks
    assert run(*few, *trained).made == first.made and not folder.exists()


def test_all_tables_of_a_network_that_is_trained_again_are_looked_at_anew(run, tmp_path):
    """Also one that counted as finished while its network was away."""
    args = (*DIGITS, "data.limit=6", "experiment=kis", "weights=trained", training())
    (made,) = run(*args, "rule=gbp").made
    manifest = made.parent / "manifest.json"
    known = unsealed(manifest.read_text())
    known["fingerprints"]["weights"] = "of another network"
    manifest.write_text(sealed(known))
    shutil.rmtree(tmp_path / "outputs" / "results" / "train")
    ended = run(*args, "rule=all", "rule.names=[gbp,lrp]")
    assert ended.code == 0 and "weights changed since" in ended.err
    assert json.loads(manifest.read_text())["fingerprints"]["weights"] != "of another network"


def test_null_in_a_training_is_nothing(run):
    """train.start=null is no file named None."""
    ended = run(*DIGITS, "data.limit=6", "experiment=kis", "weights=trained", training(f"{QUICK}, start: null"))
    assert ended.code == 0, ended.err


def test_a_network_is_trained_again_on_other_images(run, tmp_path):
    for name in "ab":
        for split in ("train", "test"):
            for label in range(2):
                tiny.images(tmp_path / name / split / f"class{label}", count=3 + label + (name == "b"))
    args = (
        *tiny.OWN,
        "data=cifar10",
        "weights=trained",
        training("epochs: [1], sizes: [16], batch_size: 4", "cifar10"),
        "experiment=kis",
    )
    accounts = []
    for name in "ab":
        ended = run(*args, f"cifar10.root={tmp_path / name}", "cifar10.limit=2")
        assert ended.code == 0, ended.err
        (folder,) = (tmp_path / "outputs" / "results" / "train").glob("[0-9a-f]*")
        accounts.append(json.loads((folder / "manifest.json").read_text())["fingerprints"])
    assert accounts[0] != accounts[1] and "the train images and the test images changed since" in ended.err
    assert "images/s" not in ended.out and pd.read_parquet(ended.made[-1])["image"].nunique() == 2


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ("{train: {epochs: [1]}}", "'None' is no data set; choose one of imagenet"),
        ("{data: digits, model: {width: 16}}", "not 'model: {'width': 16}'; it takes data and attack"),
        ("{data: digits, train: {epoch: 3}}", "experiment=train has no setting 'epoch'; did you mean epochs?"),
        ("{data: digits, digits: {trainin: 3}}", "data=digits has no setting 'trainin'; did you mean training?"),
        ("{data: digits, train: 3}", "not 'train: 3'"),
        ("{data: nosuch}", "'nosuch' is no data set"),
        ("'data=digits train.lr=1'", "weights.training names data and settings, such as {data: digits"),
        ("{data: digits, train: {batch_size: 1501}}", "train.batch_size=1501 is more than the 1500 training images"),
        ("{data: digits, train: {crop: 32}}", "train.crop=32 is no border"),
        (f"{{data: digits, train: {{{QUICK}, lr: 1e30}}}}", "lower train.lr"),
        ("{data: cifar10_samples}", "no training images of their own"),
    ],
)
def test_trainings_that_can_not_be(run, settings, complaint):
    ended = run(*DIGITS, "data.limit=6", "weights=trained", f"weights.training={settings}", "experiment=kis")
    assert ended.code == 1 and complaint in ended.complaint


def test_a_model_of_other_classes_and_two_seeds_are_refused(run):
    five = [
        *DIGITS,
        "model.call=tests.tiny:network",
        "weights=trained",
        training(f"{QUICK}, seed: 1"),
        "experiment=kis",
    ]
    assert (
        "label 9, but the model has the classes 0 to 4"
        in run(*five, "model.call=tests.test_training:of_five").complaint
    )
    assert "train.seed is given twice" in run(*five, "train.seed=2").complaint


def of_five():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 5),
    )


def test_accuracy_is_measured_as_often_as_asked(tmp_path):
    build, data = lambda: tiny.network(batch_norm=True), labelled(64, 0)
    every, seldom = (
        train(build, data, data, replace(OPTIONS, test_every=n), NoAttack(), tmp_path / f"{n}.pt", until(None))
        for n in (1, 4)
    )
    assert [math.isnan(row["accuracy"]) for row in seldom[1]] == [True, True, True, False, True, False]
    assert seldom[1][-1]["accuracy"] == every[1][-1]["accuracy"] and torch.equal(
        every[0][0].weight, seldom[0][0].weight
    )
