"""The papers' networks: their number of weights, and their blocks against plain functions."""

import pytest
import torch
import torch.nn.functional as F

from bestresponse._errors import InputError
from bestresponse.apps import _models
from bestresponse.apps._networks import resnet18, resnet44, wide_mlp

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
COUNTS = [
    (_models.linear, MNIST, 7_850),
    (_models.linear, CIFAR, 30_730),
    (wide_mlp, MNIST, 623_290),
    (wide_mlp, CIFAR, 9_470_986),
    (_models.BUILT_IN["alexnet"], MNIST, 20_125_386),
    (_models.BUILT_IN["alexnet"], CIFAR, 23_272_266),
    (_models.BUILT_IN["resnet44"], CIFAR, 658_586),
    (_models.BUILT_IN["resnet18"], CIFAR, 11_173_962),
]


@pytest.mark.parametrize(("make", "shape", "count"), COUNTS, ids=lambda x: str(x)[:20])
def test_as_many_weights_as_published(make, shape, count):
    with torch.device("meta"):
        model = make(shape, 10)
        assert model(torch.zeros(2, *shape)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    ("name", "least"), [("alexnet", 15), ("resnet18", 8), ("resnet44", 4), ("resnet", 4)]
)
def test_the_smallest_image_is_taken_and_a_smaller_one_refused(name, least):
    model = _models.build(name, (1, least, least), 3, seed=0)
    assert model.train()(torch.rand(4, 1, least, least)).shape == (4, 3)
    with pytest.raises(InputError, match=rf"--model {name} needs images of at least {least}×"):
        _models.build(name, (1, least, least - 1), 3, seed=0)
    with pytest.raises(InputError, match=f"--model {name} needs images"):
        _models.build(name, (64,), 3, seed=0)


def _normed(x, weights, name):
    """Batch normalization by a convolution's own statistics, as in training."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    scale, shift = (weights[f"{name}.{k}"].reshape(1, -1, 1, 1) for k in ("weight", "bias"))
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


@pytest.mark.parametrize(("make", "widths", "blocks"), [
    (resnet18, (64, 128, 256, 512), 2), (resnet44, (16, 32, 64), 7),
])  # fmt: skip
def test_residual_networks_against_their_definition(make, widths, blocks):
    torch.manual_seed(0)
    model = make((3, 8, 8), 5).train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    w, x = dict(model.named_parameters()), torch.randn(4, 3, 8, 8)
    out = _normed(F.conv2d(x, w["0.weight"], padding=1), w, "1").relu()
    for place in range(len(widths) * blocks):
        name, stride = f"{3 + place}", 2 if place % blocks == 0 and place > 0 else 1
        inner = F.conv2d(out, w[f"{name}.body.0.weight"], stride=stride, padding=1)
        inner = _normed(inner, w, f"{name}.body.1").relu()
        inner = F.conv2d(inner, w[f"{name}.body.3.weight"], padding=1)
        inner = _normed(inner, w, f"{name}.body.4")
        if stride == 2 and make is resnet18:
            out = F.conv2d(out, w[f"{name}.skip.0.weight"], stride=2)
            out = _normed(out, w, f"{name}.skip.1")
        elif stride == 2:
            extra = torch.zeros(*out.shape[:1], out.shape[1] // 2, *inner.shape[2:])
            out = torch.cat([extra, out[:, :, ::2, ::2], extra], 1)
        out = (out + inner).relu()
    last = f"{len(model) - 1}"
    expected = out.mean((2, 3)) @ w[f"{last}.weight"].T + w[f"{last}.bias"]
    torch.testing.assert_close(model(x), expected)
