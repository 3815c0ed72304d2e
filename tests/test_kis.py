"""KIS (20) and its experiment against a literal transcription that shares no code with them."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from pipeline.api import rule
from pipeline.engine import walk
from pipeline.engine.network import Network, trace
from pipeline.errors import UserError
from pipeline.experiments import kis as experiment
from pipeline.experiments.kis import COLUMNS, INPUTS, Options, run
from pipeline.experiments.targets import Target
from pipeline.images.batches import Batch, Images, ImageSet, OnError, Preprocessing
from pipeline.images.nullmaps import blur, edges, noise
from pipeline.images.sets import CIFAR10_MEAN, CIFAR10_STD
from pipeline.measures.kis import Fill, Rescale, Rescaling, Score, kis, rescaled
from pipeline.networks.catalogue import Own
from pipeline.weights.states import HE_GAUSSIAN, network_of
from tests import tiny
from tests.models import GuidedRelu

MODEL = Own("tests.tiny:network", 16, 16, list(CIFAR10_MEAN), list(CIFAR10_STD), [])
NAMES = ("a.png", "b.png", "c.png", "d.png")
DECISION = Target("decision", lambda: pytest.fail("not asked for"))
PLAIN = Options(list(INPUTS), Rescale.minmax, 1.0, Score.pixel, None, Fill.zero, 28, 7)


def module() -> nn.Sequential:
    torch.manual_seed(0)
    return tiny.network().double().eval().requires_grad_(False)


def traced(model: nn.Module) -> Network:
    return trace(model, mean=CIFAR10_MEAN, std=CIFAR10_STD)


def pictures() -> Tensor:
    return torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@dataclass
class Pictures:
    """Images of one part, `size` at a time."""

    x: Tensor
    labels: Tensor
    size: int = 4

    def __iter__(self):
        for at in range(0, len(self.x), self.size):
            some = slice(at, at + self.size)
            yield Batch(self.x[some], NAMES[: len(self.x)][some], self.labels[some])

    def other(self, name: str, drawn: bool) -> Tensor:
        assert drawn
        i = (NAMES.index(name) + 1) % len(self.x)
        return self.x[i : i + 1]


def table(
    net: Network,
    options: Options = PLAIN,
    rules=("gbp",),
    target: Target = DECISION,
    labels=(0, 1, 2, -1),
    x=None,
    size: int = 4,
) -> list[pd.DataFrame]:
    x = pictures() if x is None else x
    images = Pictures(x, torch.tensor(labels[: len(x)]), size)
    return [result.table for result in run(net, images, [(rule(r), options) for r in rules], target, random_network)]


def random_network(seed: int) -> Network:
    return network_of(HE_GAUSSIAN, MODEL, seed, torch.float64, lambda: pytest.fail("not asked for"))


# ---- the transcription: one image, autograd and loops ----------------------------------------------------------------


def guided_backpropagation(model: nn.Sequential, x: Tensor, k: int) -> Tensor:
    leaf = x[None].clone().requires_grad_()
    a = leaf
    for layer in model:
        a = GuidedRelu.apply(a) if isinstance(layer, nn.ReLU) else layer(a)
    (r,) = torch.autograd.grad(a[0, k], leaf)
    return r[0]


def slow_filter(first: nn.Conv2d, x: Tensor) -> Tensor:
    """W_1 W_1^T x of 3 x 3 kernels with padding 1, entry by entry of W_1."""
    channels, height, width = x.shape
    rows = []
    for kernel in first.weight:
        for i in range(height):
            for j in range(width):
                row = torch.zeros(channels, height + 2, width + 2, dtype=x.dtype)
                row[:, i : i + 3, j : j + 3] = kernel
                rows.append(row[:, 1:-1, 1:-1].flatten())
    w = torch.stack(rows)  # r_0 = W_1 r_1 in the paper's letters: its W_1 is this one's transpose
    return (w.T @ (w @ x.flatten())).view(x.shape)


def slow_kis(v, a, v_star, a_star) -> float:
    above = below = 0.0
    for i in range(len(a)):
        above += abs(float(v_star[i]) * float(a_star[i]) - float(v[i]) * float(a[i]))
        below += abs(float(v[i]) * float(a[i]))
    return 1 - above / below if below else float("nan")


def slow_rescaled(r: Tensor, x: Tensor) -> Tensor:
    values, pixels = r.flatten().tolist(), x.flatten().tolist()
    return torch.tensor(
        [(v - min(values)) * (max(pixels) - min(pixels)) / (max(values) - min(values)) + min(pixels) for v in values],
        dtype=x.dtype,
    ).view(x.shape)


def slow_insertion(r: Tensor, x: Tensor, magnitude: bool, options: Options) -> tuple[Tensor, float]:
    channels, height, width = x.shape
    places = [(c, i, j) for c in range(channels) for i in range(height) for j in range(width)]
    score = {place: abs(float(r[place])) if magnitude else float(r[place]) for place in places}
    if options.score is Score.pixel:
        score = {(i, j): sum(score[c, i, j] for c in range(channels)) for i in range(height) for j in range(width)}
    if options.removed is None:
        gone = {place for place, s in score.items() if s < sum(score.values()) / len(score)}
    else:
        gone = set(sorted(score, key=lambda place: score[place])[: int(options.removed * len(score))])
    out = x.clone()
    for c, i, j in places:
        if ((i, j) if options.score is Score.pixel else (c, i, j)) in gone:
            out[c, i, j] = -CIFAR10_MEAN[c] / CIFAR10_STD[c] if options.fill is Fill.black else 0
    return out, 1 - len(gone) / len(score)


def slow_row(
    model: nn.Sequential, chance: nn.Sequential, x: Tensor, b: int, name: str, options: Options
) -> dict[str, float]:
    features, last = model[:-1], model[-1]
    with torch.no_grad():
        a = features(x[b : b + 1])[0]
        logits = last(a)
    order = sorted(range(len(logits)), key=lambda i: -float(logits[i]))
    k, after = order[0], x[(b + 1) % len(x)]
    r = guided_backpropagation(model, x[b], k)
    if name.startswith("insertion"):
        star, kept = slow_insertion(r, x[b], name == "insertion_magnitude", options)
    else:
        of_after = int(model(after[None]).argmax())
        maps = {
            "attribution": lambda: r, "edge": lambda: edges(x[b : b + 1])[0], "blur": lambda: blur(x[b : b + 1], 28)[0],
            "noise": lambda: noise(x[b], NAMES[b]), "filter": lambda: slow_filter(model[0], x[b]),
            "other": lambda: guided_backpropagation(model, after, of_after),
            "runner_up": lambda: guided_backpropagation(model, x[b], order[1]),
            "random_network": lambda: guided_backpropagation(chance, x[b], k),
        }  # fmt: skip
        star, kept = slow_rescaled(maps[name](), x[b]), float("nan")
    with torch.no_grad():
        a_star = features(star[None])[0]
        logits_star = last(a_star)
    k_star = max(range(len(logits)), key=lambda i: float(logits_star[i]))
    return {
        "decision": k, "decision_star": k_star, "s_own": slow_kis(last.weight[k], a, last.weight[k_star], a_star),
        "s_fixed": slow_kis(last.weight[k], a, last.weight[k], a_star), "margin": float(logits[k] - logits[order[1]]),
        "kept": kept, "probability_star": float(torch.exp(logits_star[k]) / torch.exp(logits_star).sum()),
    }  # fmt: skip


def random_module() -> nn.Sequential:
    """The control's weights in an ordinary module."""
    chance, layers = module(), random_network(7).layers
    for layer, op in zip([m for m in chance if hasattr(m, "weight")], layers, strict=True):
        layer.weight, layer.bias = (
            nn.Parameter(p, requires_grad=False) for p in (op.module.weight, torch.zeros_like(layer.bias))
        )
    return chance


FORMS = {
    "paper": PLAIN,
    "element": replace(PLAIN, score=Score.element, fill=Fill.black, inputs=["insertion_magnitude", "insertion"]),
    "share": replace(PLAIN, removed=0.3, fill=Fill.black, inputs=["insertion", "insertion_magnitude"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_experiment_equals_a_literal_transcription(form):
    options, model, x = FORMS[form], module(), pictures()
    (found,) = table(traced(model), options)
    expected = pd.DataFrame(
        [slow_row(model, random_module(), x, b, name, options) for b in range(4) for name in options.inputs]
    )
    assert (
        list(found) == COLUMNS
        and list(found["input"]) == options.inputs * 4
        and list(found["image"].unique()) == list(NAMES)
    )
    pd.testing.assert_frame_equal(found[list(expected)], expected, rtol=1e-9, atol=1e-12)
    assert (
        found["s_own"].nunique() == len(found)
        and (found["decision"] != found["decision_star"]).any()
        and (found["s_own"] != found["s_fixed"]).any()
    )
    assert (found["missing"] == "").all() and (
        found["kept"].notna() == found["input"].str.startswith("insertion")
    ).all()
    assert found.groupby("image")["correct"].first().tolist()[:3] == [
        d == i for i, d in enumerate(found.groupby("image")["decision"].first()[:3])
    ]
    assert found.groupby("image")["correct"].first().isna().tolist() == [
        False,
        False,
        False,
        True,
    ]  # no label, no verdict


def test_runs_of_several_rules_and_of_other_classes():
    net = traced(module())
    together = table(net, rules=("gbp", "lrp", "grad"))
    for one, name in zip(together, ("gbp", "lrp", "grad"), strict=True):
        pd.testing.assert_frame_equal(one, table(net, rules=(name,))[0])
    s = [one.set_index(["image", "input"])["s_own"].unstack() for one in together]
    nulls = ["edge", "noise", "blur", "filter"]
    pd.testing.assert_frame_equal(s[0][nulls], s[1][nulls], check_exact=True)
    assert (s[0]["attribution"] != s[1]["attribution"]).all()
    (labelled,) = table(net, target=Target("label", DECISION.original), labels=(0, 1, 2, 3))
    decided = together[0]
    changed = labelled["target"] != labelled["decision"]
    assert list(labelled["decision"]) == list(decided["decision"]) and changed.any()  # the map changes, k does not
    same = ["image", "input"]
    a, b = (
        t[t["input"].isin([*nulls, "other", "runner_up"])][[*same, "s_own"]].reset_index(drop=True)
        for t in (labelled, decided)
    )
    pd.testing.assert_frame_equal(a, b)
    own = labelled["input"] == "attribution"
    assert (labelled["s_own"] != decided["s_own"])[own & changed].all()


def test_what_is_asked_for_together_is_computed_once(monkeypatch):
    """Each table is the one that is asked for alone; a forward pass for x, for other images, and for each x~."""
    net, shares = traced(module()), [replace(PLAIN, inputs=["insertion"], removed=share) for share in (0.1, 0.5, 0.9)]
    forms = [
        replace(PLAIN, inputs=["attribution", "edge", "blur"]),
        replace(PLAIN, inputs=["edge", "attribution"], percent=7.0, blur=7),  # minmax has no percent
        replace(PLAIN, inputs=["blur", "attribution"], rescale=Rescale.percentile, percent=7.0, blur=7),
        replace(PLAIN, inputs=["insertion", "insertion_magnitude", "other"], fill=Fill.black),
    ]
    asked = [(rule("gbp"), options) for options in (*shares, *forms)] + [(rule("lrp"), forms[0])]
    images = Pictures(pictures(), torch.tensor([0, 1, 2, -1]))
    alone = [run(net, images, [one], DECISION, random_network)[0].table for one in asked]
    forward, attribute, passes, maps = Network.forward, walk.attribute, [], []
    monkeypatch.setattr(Network, "forward", lambda *args, **more: passes.append(1) or forward(*args, **more))
    monkeypatch.setattr(walk, "attribute", lambda *args, **more: maps.append(1) or attribute(*args, **more))
    for found, expected in zip(run(net, images, asked, DECISION, random_network), alone, strict=True):
        pd.testing.assert_frame_equal(found.table, expected, check_exact=True)
    assert len(passes) == 2 + 3 + 3 + 0 + 2 + 3 + 1 and len(maps) == 3  # gbp, gbp of the others, lrp


def test_the_star_pass_keeps_what_it_is_asked_to():
    net, x = traced(module()), pictures()
    whole, kept = net.forward(x), net.forward(x, keep=(net.ends[1],))
    assert torch.equal(kept.logits, whole.logits) and torch.equal(kept.activation(1), whole.activation(1))
    others = {net.ends[1], net.ops[-1].output}
    assert all((value is None) == (i not in others) for i, value in enumerate(kept.values))


@pytest.mark.parametrize("size", [1, 3])
def test_batches_change_nothing(size):
    net = traced(module())
    pd.testing.assert_frame_equal(table(net, size=size)[0], table(net)[0], rtol=1e-9)


# ---- degenerate cases ------------------------------------------------------------------------------------------------


def test_kis_by_hand():
    v, a = torch.tensor([[1.0, -2.0, 3.0]] * 4), torch.tensor([[1.0, 1.0, 1.0]] * 3 + [[0.0, 0.0, 0.0]])
    star = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    assert kis(v, a, v, star).tolist()[:3] == [1, 0, -1] and kis(v, a, v, star)[3].isnan()
    assert kis(v[:1], a[:1], -v[:1], a[:1]).tolist() == [-1]


def test_a_constant_map_is_missing_and_counted():
    model = module()
    nn.init.zeros_(model[0].weight)  # R = 0 everywhere, while biases still decide
    nn.init.ones_(model[0].bias)
    nn.init.ones_(model[3].bias)
    (found,) = table(traced(model))
    own = ~found["input"].isin(["edge", "noise", "blur", "random_network"])
    assert (found["missing"][own] == "constant map").all() and found[own][
        ["s_own", "s_fixed", "probability_star"]
    ].isna().all(axis=None)
    assert (
        (found["decision_star"][own] == -1).all()
        and (found["missing"][~own] == "").all()
        and found["s_own"][~own].notna().all()
    )
    flat = torch.cat([pictures()[:1], torch.full((1, 3, 16, 16), 0.3, dtype=torch.float64)])
    (found,) = table(traced(module()), replace(PLAIN, inputs=["edge", "attribution"]), x=flat)
    assert found["missing"].tolist() == ["", "", "constant map", ""]


def test_a_zero_denominator_is_missing_and_counted():
    model = module()

    nn.init.zeros_(model[3].weight)
    nn.init.constant_(model[3].bias, -1)  # A_L = 0
    (found,) = table(traced(model), replace(PLAIN, inputs=["noise", "attribution"]))
    assert found["missing"].tolist() == ["zero denominator", "constant map"] * 4 and found[
        ["s_own", "s_fixed"]
    ].isna().all(axis=None)
    assert (found["decision_star"][::2] == found["decision"][::2]).all()  # the biases' class


def test_overflow_is_missing():
    model = module().float()
    for layer in (model[0], model[3]):
        layer.weight.data *= 1e22
    (found,) = table(traced(model), replace(PLAIN, inputs=["attribution", "insertion", "noise"]), x=pictures().float())
    assert set(found["missing"]) == {"map not finite", "activations not finite"} and found["s_own"].isna().all()
    model = module().float()
    model[6].weight.data *= 5e19  # twice: only the logits overflow
    model[6].weight.data *= 1e20
    (found,) = table(traced(model), replace(PLAIN, inputs=["noise"]), x=pictures().float())
    missing = found["missing"] == "activations not finite"
    assert (
        missing.any()
        and found[missing][["s_own", "s_fixed"]].isna().all(axis=None)
        and (found["decision_star"][missing] == -1).all()
    )


def test_a_positive_factor_of_the_map_changes_nothing():
    small, large = module().float(), module().float()
    for layer in large:
        if hasattr(layer, "weight"):
            layer.weight.data *= 2.0**20
            layer.bias.data.zero_()
    for layer in small:
        if hasattr(layer, "weight"):
            layer.bias.data.zero_()
    some = replace(PLAIN, inputs=["attribution", "insertion", "insertion_magnitude", "edge"])
    a, b = (table(traced(m), some, x=pictures().float())[0] for m in (small, large))
    np.testing.assert_allclose(a["s_own"], b["s_own"], rtol=1e-4)


@pytest.mark.parametrize("how", list(Rescale))
def test_other_ways_to_make_an_image_of_a_map(how):
    x, r = pictures(), pictures().flip(0).pow(3) * 1e-30
    r[3] = 0.1  # whose mean is not exactly 0.1
    r[2, 0, 0, 0] = torch.inf
    out = rescaled(r, x, Rescaling(how, 10.0))
    assert out[2:].isnan().all() and out[:2].isfinite().all()
    for b in range(2):
        values, pixels = r[b].flatten().numpy(), x[b].flatten().numpy()
        if how is Rescale.contrast:
            expected = (values - values.mean()) / values.std() * pixels.std() + pixels.mean()
        else:
            percent = 10 if how is Rescale.percentile else 0
            low = np.sort(values)[int(percent / 100 * (len(values) - 1))]
            high = -np.sort(-values)[int(percent / 100 * (len(values) - 1))]
            expected = (np.minimum(np.maximum(values, low), high) - low) / (high - low) * (
                pixels.max() - pixels.min()
            ) + pixels.min()
        np.testing.assert_allclose(out[b].flatten(), expected, rtol=1e-9, atol=1e-9)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_model_without_a_last_linear_layer_is_refused():
    with pytest.raises(UserError, match=r"last operation is a linear layer, and this one ends in adaptive_avg_pool"):
        table(trace(tiny.ends_in_a_pool().double()), x=pictures())
    with pytest.raises(UserError, match="ends in relu"):
        table(trace(nn.Sequential(*tiny.network(), nn.ReLU()).double()))


def test_a_change_of_shape_may_follow_it():
    model = module()
    (found,) = table(trace(nn.Sequential(*model, nn.Identity(), nn.Flatten())), replace(PLAIN, inputs=["attribution"]))
    pd.testing.assert_frame_equal(found, table(traced(model), replace(PLAIN, inputs=["attribution"]))[0])


def test_labels_of_other_classes_and_unknown_inputs_are_refused():
    with pytest.raises(UserError, match=r"b.png has the label 9, but the model has the classes 0 to 4"):
        table(traced(module()), labels=(0, 9, 2, 3))
    with pytest.raises(UserError, match="normalisation"):
        table(trace(module()), replace(PLAIN, fill=Fill.black))
    for wrong in (
        {"inputs": ["edges"]},
        {"inputs": []},
        {"inputs": ["edge", "edge"]},
        {"percent": 50.0},
        {"removed": 1.0},
        {"blur": 0},
    ):
        with pytest.raises(ValueError):
            replace(PLAIN, **wrong)


def test_another_image_is_drawn_by_the_name():
    """All but the image itself, alike often; the next one only where that is asked for."""
    names = tuple(f"{i}.png" for i in range(200))
    shades = ImageSet(names, (0,) * 200, lambda i: Image.new("L", (1, 1), i).convert("RGB"))
    images = Images(
        shades,
        0,
        200,
        Preprocessing(1, 1, (0.0,) * 3, (1 / 255,) * 3, "bilinear"),
        OnError.stop,
        4,
        0,
        torch.device("cpu"),
        torch.float32,
        print,
    )
    drawn = [round(float(images.other(name, drawn=True)[0, 0])) for name in names]
    distance = np.array([(d - i) % 200 for i, d in enumerate(drawn)])
    assert distance.min() > 0 and np.allclose(np.histogram(distance, 4, (0, 200))[0], 50, atol=20)
    assert drawn == [round(float(images.other(name, drawn=True)[0, 0])) for name in names]
    assert [round(float(images.other(name)[0, 0])) for name in names[:2] + names[-1:]] == [1, 2, 0]


def test_a_figure_computes_cells_of_other_options_together(run, tmp_path, monkeypatch):
    """And those that were computed before are not computed again; five images are too few for an AUROC."""
    folder = tiny.images(tmp_path / "images")
    labels = [f"image{i:03d}.png,{i}" for i in range(5)]
    (folder / "labels.csv").write_text("\n".join(["file,class_index", *labels]))
    case_of, cases = experiment.case_of, []
    monkeypatch.setattr(experiment, "case_of", lambda *args: cases.append(1) or case_of(*args))
    asked = (*tiny.OWN, "data=folder", f"data.root={folder}", "weights=gaussian")
    alone = run("experiment=kis", *asked, "kis.inputs=[insertion,insertion_magnitude]", "kis.removed=0.3")
    assert alone.code == 0 and len(cases) == 1
    before = alone.made[-1].stat().st_mtime_ns
    ended = run("figure=kis", *asked)
    assert ended.code == 0, ended.err
    assert len(cases) == 3  # the class of the decision, that of the label
    assert alone.made[-1].stat().st_mtime_ns == before
    tables = sorted((tmp_path / "outputs" / "results" / "kis").glob("*/table.parquet"))
    assert len(tables) == 7 + 1 + 2 + 1 + 1 + 9
    shares = {path: yaml.safe_load((path.parent / "config.yaml").read_text())["experiment"] for path in tables}
    for path, options in shares.items():
        assert list(pd.read_parquet(path)["input"].unique()) == options["inputs"]
        if options["removed"]:
            assert np.allclose(pd.read_parquet(path)["kept"], 1 - int(options["removed"] * 256) / 256)


def test_command_line(cell, tmp_path):
    every = f"kis.inputs=[{','.join(INPUTS)}]"
    made = [cell("experiment=kis", every, f"run.batch_size={b}", output=tmp_path / str(b)) for b in (1, 5)]
    assert made[0].code == 0, made[0].err
    a, b = (pd.read_parquet(ended.made[-1]) for ended in made)
    pd.testing.assert_frame_equal(a, b, rtol=1e-4, atol=1e-5)
    assert (
        list(a) == COLUMNS
        and len(a) == 5 * len(INPUTS)
        and a["correct"].isna().all()
        and str(a["correct"].dtype) == "boolean"
    )
    assert list(pd.read_parquet(cell("experiment=kis").made[-1])["input"].unique()) == [
        "attribution",
        "insertion",
        "insertion_magnitude",
    ]
    external = pd.read_parquet(
        cell("experiment=kis", "rule=external", "rule.call=tests.tiny:mean_gradient", every).made[-1]
    )
    gradient = pd.read_parquet(cell("experiment=kis", "rule=grad", every).made[-1])
    np.testing.assert_allclose(external["s_own"], gradient["s_own"], rtol=1e-3, atol=1e-4)
    ended = cell("experiment=kis", "kis.inputs=[edges]")
    assert ended.code == 1 and "edges is none of them" in ended.complaint
