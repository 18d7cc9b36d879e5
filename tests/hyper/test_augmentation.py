"""Learned augmentation: each map against its own formula, its hypergradient against autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

import bestresponse as br
from bestresponse.hyper import Augmentation, AugmentationNetwork

IMAGES = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def at_the_end_of(monkeypatch, **ranges):
    """The augmentation with every amount at the upper end of its range."""
    monkeypatch.setattr(torch, "rand", lambda size, **kind: torch.ones(size, **kind))
    return Augmentation(**ranges)


def test_a_right_angle_is_rot90(monkeypatch):
    turned = at_the_end_of(monkeypatch, rotate=math.pi / 2)(IMAGES)
    torch.testing.assert_close(turned, torch.rot90(IMAGES, 1, (2, 3)), atol=1e-12, rtol=0)


def test_a_turn_of_a_wide_image_is_a_turn_in_pixels(monkeypatch):
    """A disc stays a disc but for the interpolation, whatever the image's aspect."""
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(40.0), indexing="ij")
    disc = torch.exp(-((rows - 9.5) ** 2 + (columns - 19.5) ** 2) / 32)[None, None].double()
    turned = at_the_end_of(monkeypatch, rotate=0.7)(disc).detach()
    within = disc > 0.3  # farther out, the corners of the frame come in
    assert float((turned - disc)[within].abs().max()) < 0.02 < float(disc[~within].max())


@pytest.mark.parametrize("pixels", [1, 2])
def test_a_shift_by_whole_pixels_moves_them(monkeypatch, pixels):
    moved = at_the_end_of(monkeypatch, translate=pixels / 6)(IMAGES)
    expected = torch.zeros_like(IMAGES)
    expected[..., : 6 - pixels, : 6 - pixels] = IMAGES[..., pixels:, pixels:]
    torch.testing.assert_close(moved, expected, atol=1e-12, rtol=0)


def test_size_and_shear_are_the_affine_map_that_they_say(monkeypatch):
    moved = at_the_end_of(monkeypatch, scale=0.3, shear=0.4)(IMAGES)
    size = math.exp(0.3)
    matrix = torch.tensor([[size, 0.4 * size, 0.0], [0.0, size, 0.0]]).expand(3, 2, 3)
    grid = F.affine_grid(matrix, list(IMAGES.shape), align_corners=False)
    expected = F.grid_sample(IMAGES, grid, align_corners=False)
    torch.testing.assert_close(moved, expected, atol=1e-12, rtol=0)


def test_colours_are_their_formulas(monkeypatch):
    bright = at_the_end_of(monkeypatch, brightness=0.2)(IMAGES)
    torch.testing.assert_close(bright, IMAGES + 0.2)
    mean = IMAGES.mean((1, 2, 3), keepdim=True)
    strong = at_the_end_of(monkeypatch, contrast=0.5)(IMAGES)
    torch.testing.assert_close(strong, mean + 1.5 * (IMAGES - mean))
    grey = IMAGES.mean(1, keepdim=True)
    vivid = at_the_end_of(monkeypatch, saturation=0.25)(IMAGES)
    torch.testing.assert_close(vivid, grey + 1.25 * (IMAGES - grey))


def test_noise_has_the_deviation_that_it_says():
    torch.manual_seed(0)
    noise = Augmentation(noise=0.3)(torch.zeros(100, 1, 20, 20)).detach()
    assert abs(float(noise.std()) - 0.3) < 4 * 0.3 / math.sqrt(2 * noise.numel())
    assert abs(float(noise.mean())) < 4 * 0.3 / math.sqrt(noise.numel())


def test_amounts_fill_their_range_evenly():
    torch.manual_seed(0)
    shifts = Augmentation(brightness=0.2)(torch.zeros(4000, 1, 2, 2))[:, 0, 0, 0].detach()
    assert float(shifts.abs().max()) <= 0.2
    assert abs(float(shifts.mean())) < 4 * 0.2 / math.sqrt(3 * 4000)
    assert float(shifts.std()) == pytest.approx(0.2 / math.sqrt(3), rel=0.05)


def _reference_network(weights, x, number):
    """The U-Net of depth 2 written out."""

    def block(x, name):
        for layer in (0, 2):
            kernel, bias = weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"]
            x = F.relu(F.conv2d(x, kernel, bias, padding=1))
        return x

    noise = number.reshape(-1, 1, 1, 1).expand(len(x), 1, *x.shape[2:])
    top = block(torch.cat([x, noise], 1), "down.0")
    low = block(F.max_pool2d(top, 2), "down.1")
    up = F.conv_transpose2d(low, weights["up.0.weight"], weights["up.0.bias"], stride=2)
    merged = block(torch.cat([up, top], 1), "merge.0")
    return x + torch.tanh(F.conv2d(merged, weights["last.weight"], weights["last.bias"]))


def test_the_network_is_the_u_net_that_it_says():
    augment = AugmentationNetwork(3, depth=2, width=1)
    torch.manual_seed(1)
    number = torch.randn(3, 1, 1, 1)
    torch.manual_seed(1)
    expected = _reference_network(dict(augment.named_parameters()), IMAGES, number)
    torch.testing.assert_close(augment(IMAGES), expected)


@pytest.mark.parametrize(
    ("settings", "count"),
    [(dict(depth=2, width=3), 6_659), (dict(depth=5, width=6, noise="none"), 31_031_875),
     (dict(depth=1, width=2), 311)],
)  # fmt: skip
def test_published_sizes(settings, count):
    with torch.device("meta"):
        augment = AugmentationNetwork(3, **settings)
    assert sum(parameter.numel() for parameter in augment.parameters()) == count


def test_noise_by_image_by_pixel_and_none():
    zeros = torch.zeros(2, 1, 4, 4)
    (image,) = AugmentationNetwork(1)._draw(zeros)
    (pixel,) = AugmentationNetwork(1, noise="pixel")._draw(zeros)
    assert all(len(each.unique()) == 1 for each in image) and len(image.unique()) == 2
    assert len(pixel.unique()) == pixel.numel() == 32
    same = AugmentationNetwork(1, noise="none")
    torch.testing.assert_close(same(zeros), same(zeros), atol=0, rtol=0)


def test_the_regularizer_is_its_formula():
    augment = AugmentationNetwork(3, depth=1, width=1)
    torch.manual_seed(2)
    value = augment.regularizer(IMAGES, samples=4).detach()
    torch.manual_seed(2)
    draws = augment(IMAGES.repeat(4, 1, 1, 1)).reshape(4, *IMAGES.shape)
    deviation = ((draws - draws.mean(0)).square().sum(0) / 3).sqrt()
    expected = (draws.mean(0) - IMAGES).abs().mean() - deviation.mean()
    assert float(value) == pytest.approx(float(expected.detach()), abs=1e-4)


def ridge(inputs, targets):
    """The minimum of ½‖Xw − y‖² + ½‖w‖², differentiable."""
    gram = inputs.T @ inputs + torch.eye(inputs.shape[1])
    return torch.linalg.solve(gram, inputs.T @ targets)


@pytest.mark.parametrize(
    "make",
    [lambda: AugmentationNetwork(1, depth=2, width=2),
     lambda: Augmentation(translate=0.1, rotate=0.3, scale=0.1, shear=0.1, brightness=0.1,
                          contrast=0.2, noise=0.1)],
    ids=["network", "transforms"],
)  # fmt: skip
def test_hypergradient_is_the_gradient_through_the_closed_form(make):
    generator = torch.Generator().manual_seed(3)
    images, others = torch.rand(2, 8, 1, 4, 4, generator=generator)
    targets, wanted = torch.randn(2, 8, generator=generator)
    torch.manual_seed(4)
    augment = make()
    hyper = {name: leaf.detach() for name, leaf in augment.named_parameters()}

    def changed(hyper):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return functional_call(augment, hyper, (images,)).flatten(1)

    def inner(params, hyper):
        residual = changed(hyper) @ params["w"] - targets
        return 0.5 * residual.square().sum() + 0.5 * params["w"].square().sum()

    def outer(params, hyper):
        return (others.flatten(1) @ params["w"] - wanted).square().sum()

    best = {"w": ridge(changed(hyper), targets).detach()}
    found = br.hypergradient(inner, outer, best, hyper, br.Implicit(br.Dense())).value
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in hyper.items()}
    outer({"w": ridge(changed(leaves), targets)}, leaves).backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(found[name], leaf.grad, rtol=1e-8, atol=1e-10)
    longest = [float(leaf.grad.abs().max()) for leaf in leaves.values()]
    assert sum(length > 1e-6 for length in longest) > len(longest) / 2


REFUSED = {
    "no channel": (lambda: AugmentationNetwork(0), "positive whole numbers"),
    "noise": (lambda: AugmentationNetwork(1, noise="loud"), "image, pixel, none"),
    "deep": (lambda: AugmentationNetwork(1, depth=40), "2\\^42 channels"),
    "wide": (lambda: AugmentationNetwork(1, width=10**9), "4,096 at most"),
    "just too wide": (lambda: AugmentationNetwork(1, depth=6, width=8), "2\\^13 channels"),
    "odd": (lambda: AugmentationNetwork(1, depth=3)(torch.zeros(1, 1, 6, 6)), "halved 2 times"),
    "colours": (lambda: AugmentationNetwork(3)(torch.zeros(1, 1, 8, 8)), "of 3 channels"),
    "features": (lambda: AugmentationNetwork(3).check((5,)), "shape"),
    "one sample": (lambda: AugmentationNetwork(1).regularizer(torch.zeros(1, 1, 4, 4), 1), "two"),
    "kind": (lambda: Augmentation(flip=0.5), "no 'flip'.*translate"),
    "range": (lambda: Augmentation(translate=0.6), "translate starts at 0.6"),
    "table": (lambda: Augmentation()(torch.zeros(4, 7)), "for features"),
    "grey": (lambda: Augmentation(saturation=0.1)(torch.zeros(1, 1, 4, 4)), "no saturation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    act, says = REFUSED[name]
    with pytest.raises(br.InputError, match=says):
        act()
