"""How far should training images be moved, turned, sized and blurred with noise? Learn it.

Five ranges are the hyperparameters. They are tuned by the validation loss, in the one training run
that uses them; the same training without augmentation stands beside it. `bestresponse tune --tune
augment` does the same with your data, and shows the changed images in its report.
"""

import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.data import load_digits, split

STEPS, INTERVAL, BATCH = 1200, 10, 64

torch.set_num_threads(1)  # small images

roles = split(load_digits(), validation=400, train=200, seed=0)
(x, y), (x_val, y_val), (x_test, y_test) = (
    part.batch() for part in (roles.train, roles.validation, roles.test)
)


def network():
    """Two convolutions and a linear layer; the same initial weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip


def batches(generator):
    """Training batches without end."""
    while True:
        for index in torch.randperm(len(y), generator=generator).split(BATCH):
            yield x[index], y[index]


@torch.no_grad()
def test_error(net):
    """In percent."""
    return 100 * (net(x_test).argmax(1) != y_test).float().mean().item()


def plain():
    """Trained on the images as they are."""
    net, data = network(), batches(torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(STEPS):
        images, labels = next(data)
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net


def tuned():
    """Trained on images that change anew at each step, within ranges that are learned."""
    net, data = network(), batches(torch.Generator().manual_seed(0))
    augment = br.hyper.Augmentation(translate=0.02, rotate=0.1, scale=0.05, shear=0.05, noise=0.05)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    hyper_optimizer = torch.optim.Adam(augment.parameters(), lr=0.03)
    nested = br.Nested(
        params=net,
        hyper=augment,
        inner=lambda images, labels: F.cross_entropy(net(augment(images)), labels),
        outer=lambda images, labels: F.cross_entropy(net(images), labels),
        method=br.Implicit(br.Scale(1.0)),
    )
    for step in range(STEPS):
        optimizer.zero_grad()
        nested.inner_loss(*next(data)).backward()
        optimizer.step()
        if step % INTERVAL == INTERVAL - 1:
            loss, report = nested((x, y), (x_val, y_val))
            hyper_optimizer.zero_grad()
            loss.backward()
            hyper_optimizer.step()
        if step % 300 == 299:
            found = ", ".join(f"{name} {r:.3f}" for name, r in augment.ranges().items())
            print(f"step {step + 1}: validation loss {report.outer_loss:.3f}; {found}")
    return net


if __name__ == "__main__":
    without = test_error(plain())
    print(f"without augmentation: test error {without:.2f} %")
    learned = test_error(tuned())
    print(f"with learned ranges: test error {learned:.2f} %, {1 - learned / without:.0%} lower")
