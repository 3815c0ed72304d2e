"""Fixed filters: P x = W_1 W_1^T x and its relatives, and the ridge that fits the best one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from pipeline.engine.filters import alike_in_spectrum, first_layer_filter, two_layer_filter
from pipeline.engine.network import trace
from pipeline.errors import UserError
from pipeline.measures import ridge
from pipeline.measures.ridge import filtered, held_out, moments
from tests.tiny import network


@pytest.mark.parametrize(
    "model, side",
    [
        (network, 16),  # padded, with a bias
        (resnet18, 64),  # a strided stem
        (lambda: nn.Sequential(nn.ZeroPad2d(2), nn.Conv2d(3, 4, 5, 2), nn.Flatten(), nn.Linear(144, 2)), 12),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 3)), 4),
    ],
)
def test_the_fixed_filter_is_a_gradient(model, side):
    module = model().double().eval()
    traced = trace(module)
    x = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    first = traced.layers[0].layer
    if isinstance(first, nn.Linear):
        z = F.linear(x.flatten(1), first.weight)
    else:
        padded = F.pad(x, (2, 2, 2, 2)) if isinstance(module, nn.Sequential) and side == 12 else x
        z = F.conv2d(padded, first.weight, None, first.stride, first.padding)
    (expected,) = torch.autograd.grad(z.square().sum() / 2, x)
    found = first_layer_filter(traced.forward(x.detach()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    twice = first_layer_filter(traced.forward(2 * x.detach()))
    torch.testing.assert_close(twice, 2 * found, rtol=1e-12, atol=1e-12)  # linear: no mask, no bias


class TwoStems(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3), nn.Linear(72, 2)

    def forward(self, x):
        return self.out((self.a(x).relu() + self.b(x).relu()).flatten(1))


def test_two_first_layers_are_refused():
    with pytest.raises(UserError, match="needs one first layer that reads the pixels, and this model has 2"):
        first_layer_filter(trace(TwoStems()).forward(torch.randn(1, 3, 8, 8)))


def test_the_filter_is_the_layers_matrix_times_its_transpose():
    """Basis vector by basis vector, without PyTorch's transpose."""
    traced = trace(network().double())
    x, layer = torch.randn(1, 3, 16, 16, dtype=torch.float64), traced.layers[0].layer
    basis = torch.eye(3 * 16 * 16, dtype=torch.float64).view(-1, 3, 16, 16)
    matrix = F.conv2d(basis, layer.weight, None, padding=1).flatten(1)  # W_1, (pixels, units)
    expected = matrix @ (matrix.T @ x.flatten())
    torch.testing.assert_close(first_layer_filter(traced.forward(x)).flatten(), expected)


def test_other_images_and_other_weights_go_through_the_same_filter():
    traced = trace(network().double())
    x, other = torch.randn(2, 2, 3, 16, 16, dtype=torch.float64)
    record, weight = traced.forward(x), torch.randn(8, 3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(first_layer_filter(record, other), first_layer_filter(traced.forward(other)))
    there = F.conv2d(x, weight, padding=1)
    expected = F.conv_transpose2d(there, weight, padding=1)
    torch.testing.assert_close(first_layer_filter(record, weight=weight), expected)


def test_a_tight_first_layer_gives_the_image_back():
    """W_1 W_1^T = c I: patches side by side, in a basis of directions that are orthogonal."""
    conv = nn.Conv2d(3, 27, 3, stride=3).double()
    conv.weight.data = 2 * torch.linalg.qr(torch.randn(27, 27).double())[0].view(27, 3, 3, 3)
    traced = trace(nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(27 * 16, 5).double()))
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(first_layer_filter(traced.forward(x)), 4 * x)


class Pooled(nn.Module):
    """Two layers with all that may stand between them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 5, 3), nn.Linear(5 * 36, 4)

    def forward(self, x):
        z = nn.functional.pad(F.max_pool2d(self.a(x).relu(), 2, 1), (1, 0, 0, 1))
        return self.out(self.b(z).relu().flatten(1))


def test_the_filter_of_two_layers_has_no_masks_and_no_biases():
    model = Pooled().double()
    traced = trace(model)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    _, routes = F.max_pool2d(model.a(x).relu(), 2, 1, return_indices=True)
    pooled = F.conv2d(x, model.a.weight, None, 2, 1).flatten(2).gather(2, routes.flatten(2)).view_as(routes)
    z = F.conv2d(F.pad(pooled, (1, 0, 0, 1)), model.b.weight)
    (expected,) = torch.autograd.grad(z.square().sum() / 2, x)
    torch.testing.assert_close(two_layer_filter(traced.forward(x.detach())), expected)


def test_weights_turned_at_random_keep_their_spectrum():
    weight = torch.randn(8, 3, 5, 5)
    first, second = (alike_in_spectrum(weight, key) for key in (1, 2))
    spectrum = torch.linalg.svdvals(weight.flatten(1))
    for turned in (first, second):
        assert turned.shape == weight.shape and turned.dtype == weight.dtype
        torch.testing.assert_close(torch.linalg.svdvals(turned.flatten(1)), spectrum)
    assert torch.equal(first, alike_in_spectrum(weight, 1))
    cosine = F.cosine_similarity(first.flatten(), second.flatten(), 0)
    assert abs(cosine) < 0.3 and abs(F.cosine_similarity(first.flatten(), weight.flatten(), 0)) < 0.3


def test_turned_weights_point_everywhere():
    """Haar's measure: the mean of the projections on their directions is isotropic."""
    weight = torch.randn(2, 1, 1, 3, dtype=torch.float64)
    turned = torch.stack([alike_in_spectrum(weight, key).flatten(1) for key in range(2000)])
    mean = (turned.transpose(1, 2) @ turned).mean(0)
    torch.testing.assert_close(mean, weight.square().sum() / 3 * torch.eye(3).double(), rtol=0.1, atol=0.1)
    assert turned.mean(0).abs().max() < 0.1


# ---- the best filter -------------------------------------------------------------------------------------------------


def images(count: int, side: int = 16) -> torch.Tensor:
    """With the spectrum of real ones, more or less."""
    white = torch.randn(count, 3, side, side, dtype=torch.float64)
    return white + 3 * F.interpolate(white[:, :, ::4, ::4], size=side, mode="bilinear")


def fit(x, maps, size=3, penalty=1e-9):
    return held_out([moments(a, r, size) for a, r in zip(x, maps, strict=True)], penalty)


def test_the_ridge_recovers_a_planted_filter(monkeypatch):
    monkeypatch.setattr(ridge, "STRIP", 4 * 27 * 16)  # four rows of pixels at once
    x, kernel = images(6), torch.randn(3, 3, 3, 3, dtype=torch.float64)
    x = x / F.conv2d(x, kernel, padding=1).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    r = F.conv2d(x, kernel, padding=1)
    for one, (seen, filters) in zip(zip(x, r, strict=True), fit(x, r[:, None]), strict=True):
        assert abs(seen.share - 1) < 1e-6 and abs(seen.cosine - 1) < 1e-6
        found = filters[0].T.view(3, 3, 3, 3)
        torch.testing.assert_close(found, kernel, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(filtered(one[0], filters, 3)[0], one[1], rtol=1e-5, atol=1e-5)


def test_the_ridge_recovers_a_planted_filter_from_the_maps_that_are_there():
    x, kernel = images(6), torch.randn(3, 3, 3, 3, dtype=torch.float64)
    r = F.conv2d(x, kernel, padding=1)[:, None]
    r = r / r.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    x = x / F.conv2d(x, kernel, padding=1).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    r[[1, 4]] = 0
    for i, (seen, _) in enumerate(fit(x, r)):
        assert seen.share.isnan() if i in (1, 4) else abs(seen.share - 1) < 1e-6


def test_the_ridge_explains_nothing_of_noise():
    x = images(20, 32)
    held = fit(x, torch.randn(20, 1, 3, 32, 32, dtype=torch.float64), size=5)
    assert abs(torch.cat([seen.share for seen, _ in held]).mean()) < 0.01
    assert abs(torch.cat([seen.cosine for seen, _ in held]).mean()) < 0.03


def test_the_ridge_against_a_regression_on_stacked_patches():
    """All that is said of a held-out image, with maps that are partly linear, missing or alike."""
    x, size = images(4), 5
    maps = torch.randn(4, 3, 3, 16, 16, dtype=torch.float64)
    maps[:, 0] += F.conv2d(x, torch.randn(3, 3, 5, 5, dtype=torch.float64), padding=2)
    maps[:, 2] = maps[:, 0] + 0.1 * maps[:, 1]
    maps[1, 1] = 0  # dead
    unit = maps / maps.flatten(2).norm(dim=2)[..., None, None, None]
    patches = F.unfold(F.pad(x, [2] * 4), size).transpose(1, 2)  # (4, pixels, p)
    held = fit(x, maps, size, penalty=0.01)
    for i, (seen, filters) in enumerate(held):
        others = [j for j in range(4) if j != i]
        residuals = []
        for t in range(3):
            there = [j for j in others if not (t == 1 and j == 1)]
            a = torch.cat([patches[j] for j in there])
            b = torch.cat([patches[j].T @ unit[j, t].flatten(1).T for j in there]).view(len(there), 75, 3).sum(0)
            gram = a.T @ a
            best = torch.linalg.inv(gram + 0.01 * gram.diagonal().mean() * torch.eye(75).double()) @ b
            torch.testing.assert_close(filters[t], best)
            predicted = (patches[i] @ best).T.reshape(3, 16, 16)
            residuals.append(unit[i, t] - predicted)
            if t == 1 and i == 1:
                assert seen.share[t].isnan() and seen.cosine[t].isnan() and seen.residuals[0, t].isnan()
                continue
            torch.testing.assert_close(seen.share[t], 1 - residuals[t].square().sum())
            cosine = F.cosine_similarity(unit[i, t].flatten(), predicted.flatten(), 0)
            torch.testing.assert_close(seen.cosine[t], cosine)
            expected = F.cosine_similarity(residuals[t].flatten(), x[i].flatten(), 0)
            torch.testing.assert_close(seen.alignment[t], expected)
        expected = F.cosine_similarity(residuals[0].flatten(), residuals[2].flatten(), 0)
        torch.testing.assert_close(seen.residuals[0, 2], expected)


def test_one_image_alone_has_no_other_to_fit():
    ((seen, filters),) = fit(images(1), torch.randn(1, 2, 3, 16, 16, dtype=torch.float64))
    assert seen.share.isnan().all() and filters.isnan().all()
