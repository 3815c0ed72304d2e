"""Our maps under Quantus and Captum, whose answers are worked out here another way."""

import copy
import runpy
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from pipeline import Attribution, UserError, adapters, attribute, explain_func, rule, trace
from pipeline.engine.rules import RULES, RectGrad
from tests import tiny
from tests.models import images, seeded

CLASSES = [3, 1, 4]
SIDE = (3, 16, 16)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def quantus() -> Any:
    return pytest.importorskip("quantus", exc_type=ImportError)  # its OpenCV needs libGL


@pytest.fixture
def x() -> Tensor:
    return images(3, SIDE)


@pytest.fixture(params=["explain_func", "Attribution"])
def maps(request) -> Callable[..., Tensor]:
    """Maps (model, inputs, targets, rule, **settings) by either door."""
    if request.param == "explain_func":
        return lambda model, inputs, targets, *by, **more: torch.from_numpy(
            explain_func(*by, **more)(model, inputs, targets)
        )
    return lambda model, inputs, targets, *by, **more: Attribution(model, *by, **more).attribute(inputs, targets)


def linear() -> nn.Module:
    """One layer: the gradient of class k is the row w_k."""
    return seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)))


def rows(model: nn.Module, x: Tensor, classes: list[int] = CLASSES) -> Tensor:
    return model[1].weight.detach()[classes].view_as(x)


# ---- the maps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bottom", [False, True])
@pytest.mark.parametrize("name", [name for name in RULES if name not in ("activation", "external")])
def test_every_rule_is_that_of_the_api_bit_for_bit(maps, name, bottom, x):
    model = seeded(tiny.normalised)
    expected = attribute(trace(model, mean=MEAN, std=STD), x, rule(name), target=torch.tensor(CLASSES), bottom=bottom)
    found = maps(model, x, CLASSES, name, bottom, mean=MEAN, std=STD)
    assert found.flatten(1).any(1).all() and torch.equal(found, expected)


def test_settings_rules_made_by_hand_and_the_activation(maps, x):
    model = seeded(tiny.network)
    expected = attribute(trace(model), x, RectGrad(0.5), target=torch.tensor(CLASSES))
    assert not torch.equal(expected, attribute(trace(model), x, "rectgrad", target=torch.tensor(CLASSES)))
    assert torch.equal(maps(model, x, CLASSES, "rectgrad", quantile=0.5), expected)
    assert torch.equal(maps(model, x, CLASSES, RectGrad(0.5)), expected)
    assert np.array_equal(explain_func("rectgrad", quantile=0.8)(model, x, CLASSES, quantile=0.5), expected)
    assert torch.equal(
        maps(model, x, CLASSES, "activation", layer=2), attribute(trace(model), x, "activation", layer=2)
    )


@pytest.mark.parametrize("target, classes", [
    (3, [3, 3, 3]), (np.int32(3), [3, 3, 3]), ([3], [3, 3, 3]), ((3,), [3, 3, 3]), (torch.tensor(3), [3, 3, 3]),
    (torch.tensor([[3]]), [3, 3, 3]), (CLASSES, CLASSES), (tuple(CLASSES), CLASSES), (np.array(CLASSES), CLASSES),
    (np.array(CLASSES, np.uint8), CLASSES), (np.array(CLASSES, float), CLASSES), ([(k,) for k in CLASSES], CLASSES),
    (torch.tensor(CLASSES, dtype=torch.int32), CLASSES), (None, None),
])  # fmt: skip
def test_targets_of_all_kinds(maps, target, classes, x):
    model = seeded(tiny.network)
    asked = model(x).argmax(1) if classes is None else torch.tensor(classes)
    assert torch.equal(maps(model, x, target), attribute(trace(model), x, "gbp", target=asked))


def test_inputs_of_all_kinds(maps, x):
    model = seeded(tiny.network)
    expected = attribute(trace(model), x, "gbp", target=torch.tensor(CLASSES))
    flipped = np.ascontiguousarray(x.numpy()[:, :, ::-1])[:, :, ::-1]
    frozen = x.numpy().copy()
    frozen.flags.writeable = False
    for inputs in (x.clone().requires_grad_(), flipped, frozen, x.numpy().copy("F"), x.tolist()):
        before = copy.deepcopy(inputs) if not isinstance(inputs, Tensor) else inputs.detach().clone()
        found = maps(model, inputs, CLASSES)
        assert torch.equal(found, expected) and found.is_contiguous() and not found.requires_grad
        assert np.array_equal(before, inputs.detach() if isinstance(inputs, Tensor) else inputs)
    single = seeded(tiny.network).float()
    found = maps(single, x.numpy(), CLASSES)  # float64 into a float32 model
    assert found.dtype == torch.float32
    assert torch.equal(found, attribute(trace(single), x.float(), "gbp", target=torch.tensor(CLASSES)))


def test_arrays_for_quantus_and_tuples_for_captum(x):
    model = seeded(tiny.network)
    found = explain_func()(model=model, inputs=x.numpy(), targets=np.array(CLASSES), device="cpu")
    assert type(found) is np.ndarray and found.flags.c_contiguous
    (of_tuple,) = Attribution(model).attribute((x,), target=CLASSES)
    assert np.array_equal(of_tuple.numpy(), found)


# ---- the model -------------------------------------------------------------------------------------------------------


def state(model: nn.Module) -> tuple:
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [
        (name, m.training, getattr(m, "inplace", None), len(m._forward_hooks)) for name, m in model.named_modules()
    ]
    return tensors, flags, [(p.requires_grad, p.grad, p.device, p.data_ptr(), p.stride()) for p in model.parameters()]


def unchanged(model: nn.Module, before: tuple) -> bool:
    tensors, *rest = state(model)
    same = tensors.keys() == before[0].keys() and all(torch.equal(tensors[name], before[0][name]) for name in tensors)
    return same and rest == list(before[1:])


def test_the_model_stays_as_it_is_in_training_mode_too(maps, x):
    model = seeded(tiny.normalised).train()
    before = state(model)
    found = maps(model, x, CLASSES)  # explained as it will be used, in evaluation mode
    assert unchanged(model, before) and model.training
    assert torch.equal(found, attribute(trace(model.eval()), x, "gbp", target=torch.tensor(CLASSES)))


def test_the_device_that_quantus_names_is_where_the_maps_are_made(monkeypatch, x):
    model, seen = seeded(tiny.network), []

    def stand_in(network, x, *_, **__):
        seen.extend([x.device.type, *(p.device.type for p in network.module.parameters())])
        return torch.zeros(x.shape)

    monkeypatch.setattr(adapters.api, "attribute", stand_in)
    before = state(model)
    explain_func()(model, x, CLASSES, device="meta")
    assert set(seen) == {"meta"} and unchanged(model, before)
    explain_func(device="meta")(model, x, CLASSES, device="cpu")
    assert seen[-1] == "cpu"


def in_place(model: nn.Module) -> None:
    with torch.no_grad():
        model[0].weight.mul_(-1)


def behind_autograds_back(model: nn.Module) -> None:
    model[0].weight.data.mul_(-1)


def by_a_new_parameter(model: nn.Module) -> None:
    model[0].weight = nn.Parameter(-model[0].weight.detach())


def by_a_state_dict(model: nn.Module) -> None:
    model.load_state_dict({name: -value if name == "0.weight" else value for name, value in model.state_dict().items()})


def by_another_module(model: nn.Module) -> None:
    other = copy.deepcopy(model[0])
    in_place(nn.Sequential(other))
    model[0] = other


@pytest.mark.parametrize("change", [
    in_place, behind_autograds_back, by_a_new_parameter, by_a_state_dict, by_another_module,
])  # fmt: skip
def test_maps_are_of_the_weights_of_the_moment(change, x):
    model = seeded(tiny.network)
    explain, attribution = explain_func("lrp"), Attribution(model, "lrp")
    old = explain(model, x, CLASSES)
    assert np.array_equal(attribution.attribute(x, CLASSES), old)
    change(model)
    expected = attribute(trace(model), x, "lrp", target=torch.tensor(CLASSES)).numpy()
    assert not np.allclose(expected, old)
    assert np.array_equal(explain(model, x, CLASSES), expected)
    assert np.array_equal(attribution.attribute(x, CLASSES), expected)


# ---- Quantus ---------------------------------------------------------------------------------------------------------


def by_hand(model: nn.Module, x: np.ndarray, name: str, classes: list[int] = CLASSES) -> np.ndarray:
    return attribute(trace(model), torch.from_numpy(x), name, target=torch.tensor(classes)).flatten(1).numpy()


@pytest.mark.parametrize("name", ["gbp", "lrp"])
def test_under_quantus_randomisation_the_maps_are_those_of_the_random_weights(quantus, name, x):
    model, pixels = seeded(tiny.network).float(), x.float().numpy()
    before = state(model)
    metric = quantus.MPRT(
        similarity_func=quantus.similarity_func.correlation_spearman, abs=False, normalise=False, seed=7,
        disable_warnings=True,
    )  # fmt: skip
    scores = metric(model, pixels, np.array(CLASSES), channel_first=True, explain_func=explain_func(name), batch_size=2)
    drawn, kept = copy.deepcopy(model), by_hand(model, pixels, name)
    assert list(scores) == ["original", "6", "3", "0"]
    np.testing.assert_allclose(scores.pop("original"), 1)
    for layer, found in scores.items():
        torch.manual_seed(8)
        drawn.get_submodule(layer).reset_parameters()
        expected = [spearmanr(a, b)[0] for a, b in zip(kept, by_hand(drawn, pixels, name), strict=True)]
        assert max(expected) < 0.999
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert unchanged(model, before)


def test_pixel_flipping(quantus, x):
    """Pixels go to 0 by the map, the largest first; the probability of the class after each step."""
    model, pixels, step = seeded(tiny.network).float(), x.float().numpy(), 64
    before = state(model)
    metric = quantus.PixelFlipping(
        features_in_step=step, perturb_baseline=0.0, normalise=False, disable_warnings=True
    )  # fmt: skip
    found = metric(model, pixels, np.array(CLASSES), channel_first=True, explain_func=explain_func("lrp"))
    for b, (a, k) in enumerate(zip(by_hand(model, pixels, "lrp"), CLASSES, strict=True)):
        image, expected = x[b].float().flatten(), []
        for at in np.split(np.argsort(-a), len(a) // step):
            image[at] = 0
            expected.append(model(image.view_as(x[:1])).softmax(1)[0, k].item())
        np.testing.assert_allclose(found[b], expected, rtol=1e-5)
    assert unchanged(model, before)


def test_sensitivity(quantus, x):
    """Of x * w_k, to a shift of the pixels by d: |d * w_k| / |x * w_k|."""
    model, pixels = linear(), x.numpy()
    metric = quantus.MaxSensitivity(
        nr_samples=2, normalise=False, perturb_func=lambda arr, **_: arr + 0.1, disable_warnings=True
    )
    found = metric(model, pixels, np.array(CLASSES), channel_first=True, explain_func=explain_func("grad", bottom=True))
    w = rows(model, x).flatten(1)
    torch.testing.assert_close(torch.tensor(found), (0.1 * w).norm(dim=1) / (x.flatten(1) * w).norm(dim=1))


def test_quantus_evaluate_takes_it_by_name(quantus, x):
    model, pixels, y = seeded(tiny.network).float(), x.float().numpy(), np.array(CLASSES)
    metric = quantus.RandomLogit(
        num_classes=5, similarity_func=quantus.similarity_func.correlation_spearman, seed=3, normalise=False,
        disable_warnings=True,
    )  # fmt: skip
    explain = explain_func("lrp")
    found = quantus.evaluate(
        {"logit": metric}, {"ours": explain}, model, pixels, y, agg_func=np.mean, explain_func_kwargs={},
        call_kwargs={"only": {"channel_first": True}}, verbose=False,
    )  # fmt: skip
    alone = metric(model, pixels, y, channel_first=True, explain_func=explain)
    assert found["ours"]["logit"] == pytest.approx(np.mean(alone)) and np.mean(alone) < 0.999


# ---- Captum ----------------------------------------------------------------------------------------------------------


def test_infidelity(x):
    """A linear model's gradient explains it without a rest; another class's leaves the mean of (d . (w_j - w_k))^2."""
    metrics = pytest.importorskip("captum.metrics")
    model, asked = linear(), torch.tensor(CLASSES)
    attribution = Attribution(model, "gbp")

    def shift(inputs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(inputs, 0.1), inputs - 0.1

    own = metrics.infidelity(model, shift, x, attribution.attribute(x, target=asked), target=asked, n_perturb_samples=3)
    assert own.max() < 1e-24
    other = attribution.attribute(x, target=0)
    found = metrics.infidelity(model, shift, x, other, target=asked, n_perturb_samples=3)
    expected = (0.1 * (rows(model, x, [0, 0, 0]) - rows(model, x))).flatten(1).sum(1) ** 2
    torch.testing.assert_close(found, expected)


def test_sensitivity_max(x):
    metrics = pytest.importorskip("captum.metrics")
    model = linear()
    before = state(model)
    explain = Attribution(model, "grad", bottom=True).attribute
    found = metrics.sensitivity_max(explain, x, lambda inputs: inputs + 0.1, n_perturb_samples=2, target=CLASSES)
    w = rows(model, x).flatten(1)
    torch.testing.assert_close(found, (0.1 * w).norm(dim=1) / (x.flatten(1) * w).norm(dim=1))
    assert unchanged(model, before)


def test_noise_tunnel(x):
    """The mean of the maps of 4 noisy copies of each image, for the class of each."""
    attr = pytest.importorskip("captum.attr")
    model, count = seeded(tiny.network), 4
    before = state(model)
    torch.manual_seed(5)
    found = attr.NoiseTunnel(Attribution(model, "lrp")).attribute(x, nt_samples=count, stdevs=0.3, target=CLASSES)
    torch.manual_seed(5)
    copies = x.repeat_interleave(count, 0)
    noisy = copies + torch.normal(0, torch.full(copies.shape, 0.3))
    asked = torch.tensor(CLASSES).repeat_interleave(count)
    expected = attribute(trace(model), noisy, "lrp", target=asked).unflatten(0, (-1, count)).mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    assert unchanged(model, before)


# ---- what is missing, and what is wrong ------------------------------------------------------------------------------


def test_neither_library_is_needed(monkeypatch, x):
    for name in ("quantus", "captum"):
        monkeypatch.setitem(sys.modules, name, None)  # import raises ImportError
    alone = runpy.run_path(adapters.__file__)
    assert np.array_equal(
        alone["explain_func"]()(seeded(tiny.network), x, CLASSES), explain_func()(seeded(tiny.network), x, CLASSES)
    )


@pytest.mark.parametrize("inputs, targets, words", [
    ("x", 0, "the inputs must be numbers, as a tensor or an array, not str"),
    ([[1.0], [1.0, 2.0]], 0, "the inputs must be numbers"),
    ((images(1, SIDE), images(1, SIDE)), 0, "one batch of images (B, C, H, W), not of shape (2, 1, 3, 16, 16)"),
    (images(1, SIDE)[0], 0, "not of shape (3, 16, 16)"),
    (images(3, SIDE), [0, 1], "target must be a class from 0 to 4 for each of the 3 images"),
    (images(3, SIDE), [0, 1, 5], "from 0 to 4"),
    (images(3, SIDE), -1, "from 0 to 4"),
    (images(3, SIDE), 0.5, "from 0 to 4"),
    (images(3, SIDE), torch.eye(3), "from 0 to 4"),
    (images(3, SIDE), "dog", "the targets must be numbers, as a tensor or an array, not str"),
])  # fmt: skip
def test_wrong_inputs_and_targets_end_in_a_sentence(maps, inputs, targets, words):
    with pytest.raises(UserError) as error:
        maps(seeded(tiny.network), inputs, targets)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_wrong_rules_and_models_end_in_a_sentence(x):
    for made, words in [
        (lambda: explain_func("nosuch"), "there is no rule 'nosuch'"),
        (lambda: explain_func("gbp", quantile=0.5), "no setting 'quantile'"),
        (
            lambda: explain_func(RectGrad(0.5), quantile=0.9),
            "RectGrad was made with its settings; give it quantile there",
        ),
        (
            lambda: explain_func()(seeded(tiny.network), x, 0, xai_lib="captum"),
            "no setting 'xai_lib'",
        ),  # not heeded, not taken
        (lambda: explain_func()(lambda x: x, x, 0), "a torch.nn.Module, not function"),
        (lambda: explain_func(5), "a name or a Method, not int"),
        (lambda: Attribution(seeded(tiny.network), None), "a name or a Method, not NoneType"),
        (lambda: Attribution(nn.Sequential(tiny.network(), nn.Softmax(1))).attribute(x), "softmax"),
        (lambda: explain_func("activation")(seeded(tiny.network), x, 0), "layer=l, a number from 1 to 3"),
        (
            lambda: explain_func("external", call="tests.tiny:mean_gradient")(seeded(tiny.network), x, 0),
            "call it yourself",
        ),
    ]:
        with pytest.raises(UserError, match=f"(?i){words}") as error:
            made()
        assert "\n" not in str(error.value)
