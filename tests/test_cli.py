import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml

from pipeline.files import CONF
from tests import tiny


def test_a_table_has_its_columns_and_every_level(cell):
    ended = cell("experiment=cascade", "rule=gbp")
    assert ended.code == 0, ended.err
    table = pd.read_parquet(ended.made[-1])
    assert list(table)[:5] == ["image", "target", "n", "name", "alignment"]
    assert {f"alignment_band{i}" for i in range(4)} <= set(table)
    assert (
        table.groupby("image")["n"].apply(list).map(lambda n: n == [0, 1, 2, 3]).all() and table["image"].nunique() == 5
    )
    assert {p.name for p in ended.made[-1].parent.iterdir()} == {"table.parquet", "config.yaml", "manifest.json"}
    manifest = json.loads((ended.made[-1].parent / "manifest.json").read_text())
    assert (
        manifest["images"] == 5
        and manifest["skipped"] == []
        and manifest["precision"] == {"dtype": "float32", "tf32": False}
    )
    assert yaml.safe_load((ended.made[-1].parent / "config.yaml").read_text())["rule"] == {"choice": "gbp"}


def test_a_finished_cell_is_not_computed_again_but_by_force(cell):
    made = cell("seed=3").made[-1]
    before = made.stat().st_mtime_ns
    assert cell("seed=3").made[-1].stat().st_mtime_ns == before
    assert (
        cell("seed=3", "run.batch_size=2").made[-1].stat().st_mtime_ns == before
    )  # how it is computed is not what it is
    assert cell("seed=3", "run.force=true").made[-1].stat().st_mtime_ns > before
    assert cell("seed=4").made[-1] != made


def test_what_does_not_matter_is_not_in_the_key(cell):
    stats = [cell("experiment=weight_stats", f"rule={rule}").made[-1] for rule in ("gbp", "lrp")]
    assert stats[0] == stats[1]
    nulls = [cell("experiment=nulls", f"seed={seed}").made[-1] for seed in (1, 2)]
    assert nulls[0] == nulls[1]
    assert cell("dtype=float64").made[-1] != cell("dtype=float32").made[-1]


def test_changed_images_are_computed_again(cell, tmp_path):
    first = pd.read_parquet(cell().made[-1])
    shutil.copy(tmp_path / "images" / "image001.png", tmp_path / "images" / "image000.png")
    ended = cell()
    assert "data changed" in ended.err
    second = pd.read_parquet(ended.made[-1])
    assert not np.allclose(first["alignment"], second["alignment"])


def test_results_are_read_where_the_images_are_not(cell, tmp_path):
    made = cell().made[-1]
    shutil.rmtree(tmp_path / "images")
    assert cell().made[-1] == made


def test_multirun_makes_a_table_per_job(cell):
    ended = cell("-m", "rule=gbp,rectgrad", "weights=gaussian,ring", "rectgrad.quantile=0.5")
    assert ended.code == 0, ended.err
    assert len(set(ended.made)) == 4 and all(path.is_file() for path in ended.made)
    quantiles = {yaml.safe_load((p.parent / "config.yaml").read_text())["rule"].get("quantile") for p in ended.made}
    assert quantiles == {0.5, None}


def test_a_bad_job_does_not_end_a_multirun(cell):
    ended = cell("-m", "weights=ring,gaussian", "gaussian.depth=9", "rule=gbp,lrp")
    assert ended.code == 1 and len(set(ended.made)) == 2 and all(path.is_file() for path in ended.made)
    assert ended.complaint.startswith("error: 2 of 4 jobs failed")
    for rule in ("gbp", "lrp"):
        assert f"failed: weights=gaussian rule={rule}: weights.depth=9 is no number of layers" in ended.err


def test_the_flag_of_a_multirun_may_stand_anywhere(cell):
    ended = cell("rule=gbp", "-m", "seed=1,2")
    assert ended.code == 0 and len(set(ended.made)) == 2


def test_what_can_not_be_drawn_is_refused_before_any_work(run, tmp_path):
    """Fig. 2 compares with another image's map, and there is none."""
    ended = run("figure=fig2", "data.limit=1")
    assert ended.code == 1 and "needs at least 2 images" in ended.complaint
    assert not list((tmp_path / "outputs").glob("results/*/*"))


def test_a_file_of_pretrained_weights_is_no_other(cell, tmp_path):
    """weights=pretrained after pretrained.path=F: another key, so F's table is not served for it."""
    file = tmp_path / "own.pt"
    torch.manual_seed(5)
    torch.save(tiny.network().state_dict(), file)
    of_file = cell("weights=pretrained", f"pretrained.path={file}").made[-1]
    plain = cell("weights=pretrained").made[-1]
    assert of_file != plain and not pd.read_parquet(of_file).equals(pd.read_parquet(plain))


def test_weights_calibrated_on_images_follow_them(cell, tmp_path):
    args = ("experiment=weight_stats", "weights.batchnorm=calibrated", "model.call=tests.tiny:normalised")
    first = pd.read_parquet(cell(*args).made[-1])
    shutil.copy(tmp_path / "images" / "image001.png", tmp_path / "images" / "image000.png")
    ended = cell(*args)
    assert "data changed" in ended.err
    assert not np.allclose(first["norm_mean"], pd.read_parquet(ended.made[-1])["norm_mean"])


def test_a_progress_bar_names_things_once(cell):
    said = cell("experiment=attribute").err
    assert "attribute own gaussian seed 100 folder:" in said and "folder own" not in said


def test_batch_size_changes_nothing(cell, tmp_path):
    tables = [
        pd.read_parquet(cell(f"run.batch_size={b}", "rule=rectgrad", output=tmp_path / str(b)).made[-1])
        for b in (1, 3, 5)
    ]
    for table in tables[1:]:
        np.testing.assert_allclose(table["alignment"], tables[0]["alignment"], atol=1e-5)


def test_the_same_command_gives_the_same_bytes(cell, tmp_path):
    made = [cell(output=tmp_path / name).made[-1] for name in "ab"]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_external_attribution(cell):
    table = pd.read_parquet(cell("rule=external", "rule.call=tests.tiny:mean_gradient").made[-1])
    gradient = pd.read_parquet(cell("rule=grad").made[-1]).query("n == 3")
    assert set(table["n"]) == {3}
    np.testing.assert_allclose(table["alignment"], gradient["alignment"], atol=1e-6)


def test_label_and_class_targets(cell, tmp_path):
    rows = "".join(f"image{i:03d}.png,{i}\n" for i in range(5))
    (tmp_path / "images" / "labels.csv").write_text("file,class_index\n" + rows)
    assert list(pd.read_parquet(cell("target=label").made[-1]).query("n == 0")["target"]) == [0, 1, 2, 3, 4]
    assert set(pd.read_parquet(cell("target=2").made[-1])["target"]) == {2}


COMPLAINTS = {
    "option": (["weights=foo"], "weights has no option 'foo'; choose one of anisotropic"),
    "misspelt": (["rule.quantil=0.8", "rule=rectgrad"], "rule.quantil"),
    "misspelt, of an option that is not chosen": (
        ["rule=gbp", "rectgrad.quantil=0.8"],
        "rule=rectgrad has no setting 'quantil'; did you mean quantile?",
    ),
    "one image": (["experiment=nulls", "data.limit=1"], "needs at least 2 images"),
    "sweeps of all": (["figure=all", "figure.sweeps.random.seed=1"], "figure.sweeps"),
    "forced misspelling": (["rule=rectgrad", "++rule.quantil=0.8"], "did you mean quantile?"),
    "root misspelt": (["sed=1"], "sed"),
    "type": (["seed=abc"], "could not be converted to Integer"),
    "range": (["rule=rectgrad", "rule.quantile=1.5"], "quantile must lie in [0, 1)"),
    "choice": (["weights=uniform", "weights.scale=big"], "scale"),
    "no folder": (["data.root=/nowhere/at/all"], "there is nothing at data.root=/nowhere/at/all"),
    "no gpu": (["run.device=cuda"], "run.device=cuda needs a CUDA GPU"),
    "no device": (["run.device=abacus"], "run.device=abacus is no device"),
    "operation": (["model.call=tests.tiny:with_sigmoid"], "does not know the operation Sigmoid at 1"),
    "no labels": (["target=label"], "target=label needs labels"),
    "class": (["target=7"], "the model has the classes 0 to 4"),
    "target": (["target=best"], "target=best is neither decision, original, label nor a class index"),
    "no checkpoint": (
        ["weights=checkpoint", "weights.path=nothing.pt"],
        "there is no checkpoint at weights.path=nothing.pt",
    ),
    "pretrained": (["model=vgg16_cifar", "weights=pretrained"], "weights=pretrained are torchvision's"),
    "depth": (["weights.depth=9"], "weights.depth=9 is no number of layers of this model, which has L = 3"),
    "class with two signs": (["target=--5"], "target=--5 is neither"),
    "layer": (
        ["experiment=attribute", "rule=activation", "experiment.layers=[fc9]"],
        "the model has no layer fc9 below its output; its layers are 0, 3",
    ),
    "all of all": (["rule=all", "rule.names=[all]"], "names must list one option at least"),
    "all in a figure": (["figure=fig6", "rule=all"], "a figure says itself which rules it draws"),
    "no logits": (["model.call=tests.tiny:map_of_logits"], "it must return logits"),
    "no classifier": (["model=vgg16", "model.name=fasterrcnn_resnet50_fpn"], "is no image classifier"),
    "torchvision": (["model=vgg16", "model.name=vgg61"], "torchvision has no model 'vgg61'"),
    "external": (["rule=external", "rule.call=tests.tiny:nothing"], "rule.call=tests.tiny:nothing can't be imported"),
    "external shape": (["rule=external", "rule.call=tests.tiny:wrong_shape"], "it must return a tensor of x's shape"),
    "needed": (["weights=checkpoint"], "path"),
}


@pytest.mark.parametrize("args, words", COMPLAINTS.values(), ids=COMPLAINTS.keys())
def test_bad_input_ends_in_one_sentence(run, tmp_path, args, words):
    if "run.device=cuda" in args and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    own = [] if any(arg.startswith("model=") for arg in args) else tiny.OWN
    ended = run(*own, "data=folder", f"data.root={tiny.images(tmp_path / 'images')}", *args)
    assert ended.code == 1
    assert ended.complaint.startswith("error: ") and words in ended.complaint
    assert (
        sum(line.startswith("error") for line in ended.err.lower().splitlines()) == 1 and "Traceback" not in ended.err
    )
    assert not list((tmp_path / "outputs").glob("results/*/[!.]*"))


def test_empty_folder(run, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = run(*tiny.OWN, "data=folder", f"data.root={tmp_path / 'empty'}")
    assert ended.code == 1 and "holds no images" in ended.complaint


def test_truncated_jpeg_is_named_or_skipped(run, tmp_path):
    folder = tiny.images(tmp_path / "jpegs", side=64, suffix="jpg")
    whole = (folder / "image002.jpg").read_bytes()
    (folder / "image002.jpg").write_bytes(whole[: len(whole) // 2])
    args = (*tiny.OWN, "data=folder", f"data.root={folder}")
    ended = run(*args)
    assert ended.code == 1 and "image002.jpg can't be read" in ended.complaint and "on_error=skip" in ended.complaint
    assert not list((tmp_path / "outputs").glob("results/cascade/*/table.parquet"))
    made = run(*args, "data.on_error=skip").made[-1]
    manifest = json.loads((made.parent / "manifest.json").read_text())
    assert manifest["skipped"] == ["image002.jpg"] and manifest["images"] == 4
    assert pd.read_parquet(made)["image"].nunique() == 4
    nulls = run(*args, "data.on_error=skip", "experiment=nulls")  # 'another image' passes over the broken one
    assert nulls.code == 0 and pd.read_parquet(nulls.made[-1])["alignment"].notna().all()


def test_checkpoints(cell, tmp_path):
    state = tiny.network().state_dict()
    file = tmp_path / "weights.safetensors"

    def ended(**changes):
        safetensors.torch.save_file({k: v for k, v in {**state, **changes}.items() if v is not None}, file)
        return cell("weights=checkpoint", f"weights.path={file}")

    assert ended().code == 0
    wrong = ended(
        **{
            "0.weight": torch.zeros(7, 3, 3, 3),
            "0.bias": torch.zeros(7),
            "3.weight": torch.zeros(1),
            "3.bias": torch.zeros(1),
        }
    )
    assert wrong.code == 1 and all(
        k in wrong.complaint
        for k in ("0.weight (7, 3, 3, 3) instead of (8, 3, 3, 3)", "0.bias", "3.weight", "and 1 more")
    )
    assert "3.bias" not in wrong.complaint
    assert "NaN" in ended(**{"3.bias": torch.full((8,), float("nan"))}).complaint
    partial = ended(**{"6.weight": None, "6.bias": None})
    assert partial.code == 1 and "weights.randomised" in partial.complaint and "6" in partial.complaint
    assert cell("weights=checkpoint", f"weights.path={file}", "weights.randomised=[6]").code == 0
    unknown = cell("weights=checkpoint", f"weights.path={file}", "weights.randomised=[fc6]")
    assert unknown.code == 1 and "the model has no layer fc6" in unknown.complaint
    file.write_bytes(b"not safetensors")
    assert "can't be read as data" in cell("weights=checkpoint", f"weights.path={file}").complaint


def test_a_pickle_is_not_executed(cell, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    ended = cell("weights=checkpoint", f"weights.path={tmp_path / 'evil.pt'}")
    assert ended.code == 1 and "can't be read as data" in ended.complaint and not (tmp_path / "executed").exists()


def test_unwritable_output(cell, tmp_path):
    (tmp_path / "file").write_text("")
    ended = cell(output=tmp_path / "file" / "outputs")
    assert ended.code == 1 and "can't be written" in ended.complaint and "run.output" in ended.complaint


def test_misspelt_field_inside_a_yaml(cell, tmp_path):
    copy = shutil.copytree(CONF, tmp_path / "conf")
    (copy / "rule" / "rectgrad.yaml").write_text("quantil: 0.9\n")
    ended = cell("rule=rectgrad", conf=copy)
    assert ended.code == 1 and "rule=rectgrad has no setting 'quantil'; did you mean quantile?" in ended.complaint


def test_only_the_path_is_on_stdout(tmp_path):
    folder = tiny.images(tmp_path / "images")
    command = [
        sys.executable,
        "-m",
        "pipeline",
        *tiny.OWN,
        "data=folder",
        f"data.root={folder}",
        f"run.output={tmp_path / 'o'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1 and done.stdout.strip().endswith("table.parquet")
    assert "image/s" in done.stderr or "s/image" in done.stderr
