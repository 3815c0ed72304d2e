"""KIS of clean and triggered images, and energy inside the trigger's mask, against literal transcriptions."""

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from scipy.stats import spearmanr
from torch import nn

from pipeline.attacks.badnet import BadNet
from pipeline.attacks.files import state_of
from pipeline.attacks.interface import Site
from pipeline.attacks.wanet import WaNet
from pipeline.engine import walk
from pipeline.engine.filters import first_layer_filter
from pipeline.engine.network import trace
from pipeline.engine.rules import Gbp
from pipeline.experiments import backdoor, highlight
from pipeline.images.nullmaps import edges
from pipeline.measures.masks import inside_mask, rank_correlation
from pipeline.seeds import name_seed
from tests import tiny

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of model=own
SITE = Site((3, 16, 16), 20, 5)
ATTACKS = {
    "badnet": BadNet(target=2, share=0.1, patch=3, value=1.0),
    "wanet": WaNet(target=1, share=0.1, noise=0.2, grid=4, strength=2.0),
}
NETWORK = ("weights=checkpoint", "dtype=float64", "attack=planted")


@pytest.fixture
def planted(tmp_path, run):
    """The command line on the tiny network, with an attack's state beside its weights, on five labelled images."""
    module = tiny.network()
    file = tmp_path / "net.safetensors"
    safetensors.torch.save_file(module.state_dict(), file)
    for name, settings in ATTACKS.items():
        state, head = state_of(settings.build(SITE, 3), settings, SITE)
        safetensors.torch.save_file(state, tmp_path / f"{name}.attack.safetensors", head)
    folder = tiny.images(tmp_path / "images")
    names = sorted(f.name for f in folder.iterdir())
    (folder / "labels.csv").write_text("file,class_index\n" + "".join(f"{n},{i % 5}\n" for i, n in enumerate(names)))

    def call(attack: str, *args: str, **more):
        given = (*NETWORK, f"weights.path={file}", f"planted.path={tmp_path / attack}.attack.safetensors")
        return run(*tiny.OWN, "data=folder", f"data.root={folder}", *given, *args, **more)

    return call, module, folder, names


def normalised(folder, names) -> torch.Tensor:
    from PIL import Image

    pixels = [np.asarray(Image.open(folder / name).convert("RGB").resize((16, 16))) / 255 for name in names]
    x = torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2)
    return (x - torch.tensor(MEAN).double().view(-1, 1, 1)) / torch.tensor(STD).double().view(-1, 1, 1)


def white(x: torch.Tensor) -> torch.Tensor:
    """The BadNet trigger in normalised space."""
    x, ones = x.clone(), torch.ones(3, dtype=torch.float64)
    top = (ones - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    x[:, :, 13:, 13:] = top.view(-1, 1, 1)
    return x


def s_of(model: nn.Sequential, x: torch.Tensor, given: torch.Tensor) -> tuple[list[float], list[float], list[int]]:
    """S of (20) with the new decision's row and with k's, and the new decision; image by image."""
    last, body = model[-1], model[:-1]
    own, fixed, star = [], [], []
    for one, other in zip(x, given, strict=True):
        a, b = body(one[None])[0], body(other[None])[0]
        k, k2 = int(last(a).argmax()), int(last(b).argmax())
        v = last.weight
        own.append(1 - float((v[k2] * b - v[k] * a).abs().sum() / (v[k] * a).abs().sum()))
        fixed.append(1 - float((v[k] * b - v[k] * a).abs().sum() / (v[k] * a).abs().sum()))
        star.append(k2)
    return own, fixed, star


def rescaled(r: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([(m - m.min()) / (m.max() - m.min()) * (o.max() - o.min()) + o.min() for m, o in zip(r, x)])


@torch.no_grad()
def test_kis_of_clean_and_triggered_images_is_its_transcription(planted):
    call, module, folder, names = planted
    ended = call("badnet", "experiment=backdoor", "experiment.pictures=true", "rule=gbp")
    assert ended.code == 0, ended.err
    table = pd.read_parquet(ended.made[-1])
    assert list(table) == backdoor.COLUMNS and set(table["sample"]) == {"clean", "triggered"}
    assert (table["goal"] == 2).all() and len(table) == 5 * 2 * 4
    model = module.double().eval()
    network = trace(model, mean=MEAN, std=STD)
    clean = normalised(folder, names)
    for sample, x in (("clean", clean), ("triggered", white(clean))):
        record = network.forward(x)
        maps = {
            "attribution": walk.attribute(record, Gbp()),
            "filter": first_layer_filter(record),
            "edge": edges(x),
        }
        for name, r in maps.items():
            rows = table[(table["sample"] == sample) & (table["input"] == name)].set_index("image").loc[names]
            own, fixed, star = s_of(model, x, rescaled(r, x))
            np.testing.assert_allclose(rows["s_own"], own, rtol=0, atol=1e-6)  # pixels are float32
            np.testing.assert_allclose(rows["s_fixed"], fixed, rtol=0, atol=1e-6)
            assert rows["decision_star"].tolist() == star
            assert rows["decision"].tolist() == model(x).argmax(1).tolist()
            assert rows["decision_plain"].tolist() == model(clean).argmax(1).tolist()
    kept = safetensors.torch.load_file(ended.made[-1].parent / "pictures.safetensors")
    changed = (kept["triggered"] != kept["clean"]).any(1)
    assert changed[:, 13:, 13:].all() and not changed[:, :13].any() and not changed[:, :, :13].any()
    expected = walk.attribute(network.forward(white(clean)), Gbp())
    order = [list(dict.fromkeys(table["image"])).index(name) for name in names]
    torch.testing.assert_close(kept["attribution"][order], expected, rtol=1e-5, atol=1e-9)


def test_what_the_trigger_changed_is_put_on_other_images(planted):
    """Samples transplanted and mean: the patch is white there too, and the rest is another image, or of the mean
    colour; a warp moves the change."""
    from pipeline.attacks.files import read_attack
    from pipeline.experiments.triggered import triggers_of
    from pipeline.images.batches import Batch, Images, ImageSet, OnError, Preprocessing

    *_, folder, names = planted
    x = normalised(folder, names).float()
    pre = Preprocessing(16, 16, MEAN, STD, "bilinear")
    nothing = ImageSet(tuple(names), (0,) * 5, lambda i: None)
    images = Images(nothing, 0, 5, pre, OnError.stop, 5, 0, torch.device("cpu"), torch.float32, lambda n: None)
    images.other = lambda name, drawn: x[[(names.index(name) + 1) % 5]]
    batch = Batch(x, tuple(names), torch.arange(5))
    for attack in ATTACKS:
        triggers = triggers_of(read_attack(folder.parent / f"{attack}.attack.safetensors"), images)
        made = {sample: triggers.on(sample, batch, images) for sample in ("triggered", "transplanted", "mean")}
        others = x.roll(-1, 0)
        if attack == "badnet":
            assert torch.equal(made["transplanted"][:, :, :13, :13], others[:, :, :13, :13])
            assert torch.equal(made["transplanted"][:, :, 13:, 13:], made["triggered"][:, :, 13:, 13:])
            assert (made["mean"][:, :, :13] == 0).all()
            assert torch.equal(made["triggered"][:, :, :13], x[:, :, :13])  # to the last bit
        else:
            change = triggers.pixels(made["triggered"]) - triggers.pixels(x)
            expected = (triggers.pixels(others) + change).clamp(0, 1)
            torch.testing.assert_close(triggers.pixels(made["transplanted"]), expected, atol=1e-6, rtol=0)
            noisy = triggers.on("cross", batch, images)
            assert not torch.equal(noisy, made["triggered"]) and torch.equal(noisy, triggers.on("cross", batch, images))


def test_rows_do_not_depend_on_the_batch_size_nor_on_company(planted, tmp_path):
    call, *_ = planted
    args = ("experiment=backdoor", "backdoor.samples=[clean,triggered,cross,transplanted,mean]")
    inputs = "backdoor.inputs=[attribution,filter,blur,noise,retriggered]"
    one, all_ = (
        pd.read_parquet(call("wanet", *args, inputs, f"run.batch_size={n}", output=tmp_path / str(n)).made[-1])
        for n in (1, 5)
    )
    by = ["image", "sample", "input"]
    one, all_ = (t.sort_values(by, ignore_index=True) for t in (one, all_))
    assert len(one) == 5 * 5 * 5
    pd.testing.assert_frame_equal(one, all_, rtol=0, atol=1e-9)
    alone = pd.read_parquet(
        call("wanet", "experiment=backdoor", "backdoor.inputs=[blur]", "backdoor.samples=[clean]").made[-1]
    )
    same = one[(one["sample"] == "clean") & (one["input"] == "blur")].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.sort_values("image", ignore_index=True), same, rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_decision_without_the_trigger_is_that_on_what_carries_it(planted):
    """Of an attack whose trigger is a patch and of one that warps; other images are those that experiment=kis takes."""
    call, module, folder, names = planted
    clean, model = normalised(folder, names), module.double().eval()
    others = [(i + 1 + name_seed(name) % 4) % 5 for i, name in enumerate(names)]
    on_image, on_other, on_mean = (model(x).argmax(1).tolist() for x in (clean, clean[others], 0 * clean))
    assert on_image != on_other and set(on_mean) != set(on_image), "else nothing is told apart"
    expected = {"cross": on_image, "triggered": on_image, "transplanted": on_other, "mean": on_mean}
    for attack in ATTACKS:
        args = ("experiment=backdoor", "backdoor.samples=[triggered,cross,transplanted,mean]")
        table = pd.read_parquet(call(attack, *args, "backdoor.inputs=[edge,filter]").made[-1])
        for (sample, _), rows in table.groupby(["sample", "input"]):
            assert rows.set_index("image").loc[names, "decision_plain"].tolist() == expected[sample], sample


def test_an_attack_without_look_alikes_has_no_rows_of_them(planted):
    call, *_ = planted
    args = ("experiment=backdoor", "backdoor.samples=[clean,cross]", "backdoor.inputs=[edge]")
    for attack, samples in (("badnet", ["clean"]), ("wanet", ["clean", "cross"])):
        table = pd.read_parquet(call(attack, *args).made[-1])
        assert list(table["sample"].unique()) == samples and len(table) == 5 * len(samples)


def test_energy_inside_a_mask_is_its_transcription():
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(6, 3, 7, 5, generator=generator, dtype=torch.float64)
    r[1, :, 2:4, 1:3] *= 50
    mask = torch.zeros(6, 1, 7, 5, dtype=torch.bool)
    mask[:5, :, 2:4, 1:3] = True
    r[4] = 0
    found = inside_mask(r, mask)
    for b in range(4):
        score, inside = r[b].abs().sum(0).flatten().numpy(), mask[b].flatten().numpy()
        m = inside.sum()
        top = set(np.argsort(-score)[:m])
        wide = set(np.argsort(-score)[: 3 * m])
        within = set(np.flatnonzero(inside))
        assert np.isclose(found["energy"][b], score[inside].sum() / score.sum())
        assert np.isclose(found["rank_accuracy"][b], len(top & within) / m)
        assert np.isclose(found["iou"][b], len(wide & within) / len(wide | within))
        assert found["pointing"][b] == (score.argmax() in within)
    assert found["rank_accuracy"][1] == 1 and found["iou"][1] == pytest.approx(1 / 3)
    assert all(found[name][4:].isnan().all() for name in ("energy", "rank_accuracy", "iou", "pointing"))
    assert found["share"].tolist() == [4 / 35] * 5 + [0]
    change = torch.rand(6, 3, 7, 5, generator=generator, dtype=torch.float64).round(decimals=1)  # with ties
    ranks = rank_correlation(r, change)
    for b in range(4):
        expected = spearmanr(r[b].abs().sum(0).flatten(), change[b].sum(0).flatten()).statistic
        assert np.isclose(ranks[b], expected)
    assert ranks[4].isnan()


def test_highlight_measures_the_map_of_the_triggered_image(planted):
    call, module, folder, names = planted
    ended = call("badnet", "experiment=highlight", "rule=gbp")
    assert ended.code == 0, ended.err
    table = pd.read_parquet(ended.made[-1])
    assert list(table) == highlight.COLUMNS and set(table["map"]) == {"attribution", "filter"}
    network = trace(module.double().eval(), mean=MEAN, std=STD)
    clean = normalised(folder, names)
    record = network.forward(white(clean))
    for name, r in (("attribution", walk.attribute(record, Gbp())), ("filter", first_layer_filter(record))):
        score = r.abs().sum(1)
        expected = score[:, 13:, 13:].sum((1, 2)) / score.sum((1, 2))
        rows = table[table["map"] == name].set_index("image").loc[names]
        np.testing.assert_allclose(rows["energy"], expected, atol=1e-6)
        assert (rows["share"] == 9 / 256).all()
        change = ((white(clean) - clean) * torch.tensor(STD).double().view(-1, 1, 1)).abs().sum(1).flatten(1)
        ranks = [spearmanr(a, b).statistic for a, b in zip(score.flatten(1), change, strict=True)]
        np.testing.assert_allclose(rows["rank_correlation"], ranks, atol=1e-6)
    everywhere = pd.read_parquet(call("wanet", "experiment=highlight", "rule=activation").made[-1])
    assert everywhere["energy"].isna().all() and everywhere["rank_correlation"].notna().any()


@pytest.mark.parametrize(
    "args, complaint",
    [
        (("attack=none",), "experiment=backdoor shows images with the trigger of a trained attack; set attack=planted"),
        (("planted.path=nowhere.attack.safetensors",), "there is no attack's state at nowhere.attack.safetensors"),
        (("planted.name=wanet",), "is the state of the attack badnet and not of wanet"),
        (("planted.path=null",), "there is no attack's state beside"),
        (("backdoor.samples=[cross]",), "the attack badnet has no images that only look triggered"),
        (("backdoor.samples=[dirty]",), "samples must name some of clean, triggered"),
        (("backdoor.inputs=[]",), "inputs must name some of attribution"),
        (("model.resize=8", "model.crop=8"), "was trained on images of 16 x 16 pixels, and the model takes 8 x 8"),
    ],
)
def test_what_can_not_be(planted, args, complaint):
    call, *_ = planted
    ended = call("badnet", "experiment=backdoor", *args)
    assert ended.code == 1 and complaint in ended.complaint


def test_images_without_labels_are_refused(planted):
    call, _, folder, _ = planted
    (folder / "labels.csv").unlink()
    for experiment in ("backdoor", "highlight"):
        ended = call("badnet", f"experiment={experiment}")
        assert ended.code == 1 and "has no label; choose labelled data" in ended.complaint
