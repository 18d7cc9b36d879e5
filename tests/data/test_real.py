"""The published sets, where they lie beside the repository."""

from pathlib import Path

import pytest
import torch

from bestresponse.data import load

DATA = Path(__file__).parents[3] / "shared" / "data"
MNIST = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")


def real(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not at ../shared/data/{name}, seen from the repository")
    return load(DATA / name)


def nearest_mean_accuracy(data):
    """Only right if images and labels are in step; the order of rows does not matter."""
    train, test = (d.inputs.flatten(1).float() for d in (data, data.official_test))
    means = torch.stack([train[data.labels == k].mean(0) for k in range(10)])
    hits = torch.cdist(test, means).argmin(1) == data.official_test.labels
    return hits.double().mean().item()


def test_mnist():
    data = real("mnist")
    assert data.inputs.shape == (60000, 1, 28, 28)
    assert data.official_test.inputs.shape == (10000, 1, 28, 28)
    assert data.class_names == tuple("0123456789")
    assert torch.bincount(data.labels).tolist() == MNIST
    assert torch.bincount(data.official_test.labels).tolist() == MNIST_TEST
    assert data.inputs.double().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert nearest_mean_accuracy(data) == pytest.approx(0.8203, abs=1e-3)


def test_cifar10():
    data = real("cifar10")
    assert data.inputs.shape == (50000, 3, 32, 32)
    assert data.official_test.inputs.shape == (10000, 3, 32, 32)
    assert data.class_names == ("airplane", "automobile", *ANIMALS, "ship", "truck")
    assert torch.bincount(data.labels).tolist() == [5000] * 10
    assert torch.bincount(data.official_test.labels).tolist() == [1000] * 10
    means = [data.inputs[:, c].double().mean().item() / 255 for c in range(3)]
    # Some copies are JPEG instead of PNG, which moves the published means in the fourth digit.
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=3e-4)
    assert nearest_mean_accuracy(data) == pytest.approx(0.277, abs=3e-3)
