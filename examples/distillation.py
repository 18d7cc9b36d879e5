"""Ten learned images that teach logistic regression what a thousand real ones do.

The images are the hyperparameters. The inner problem, logistic regression with a small weight
decay on the ten images alone, is solved each time; the outer loss is that of the solution on the
real training images. `bestresponse distill` does the same with larger data, and writes the files.
"""

import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.data import load_digits, split

DECAY = 0.01

torch.set_num_threads(1)  # small matrices
torch.set_default_dtype(torch.float64)

digits = load_digits()
roles = split(digits, validation=200, seed=0)
(x, y), (x_test, y_test) = (
    (inputs.double(), labels) for inputs, labels in (roles.train.batch(), roles.test.batch())
)

means = torch.stack([x[y == label].mean(0) for label in range(10)])
data = br.hyper.Distilled(means, labels=torch.arange(10))


def logistic_regression():
    """One with all weights zero."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return net


def fit(net, loss):
    """Train to the optimum."""
    solver = torch.optim.LBFGS(
        net.parameters(), max_iter=500, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=1e-8, tolerance_change=0.0,
    )  # fmt: skip

    def closure():
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    solver.step(closure)


def test_accuracy(net):
    """The share of test images that are told right."""
    with torch.no_grad():
        return (net(x_test).argmax(1) == y_test).double().mean().item()


def of_the_images(net, images):
    """The inner loss."""
    penalty = 0.5 * DECAY * sum(p.square().sum() for p in net.parameters())
    return data.loss(net(images)) + penalty


def trained_on_the_images():
    """The test accuracy of a model that sees nothing but the ten images."""
    net = logistic_regression()
    fit(net, lambda: of_the_images(net, data.images.detach()))
    return test_accuracy(net)


if __name__ == "__main__":
    net = logistic_regression()
    nested = br.Nested(
        params=net,
        hyper=data,
        inner=lambda: of_the_images(net, data.images),
        outer=lambda: F.cross_entropy(net(x), y),
        method=br.Implicit(br.CG(max_steps=200, rtol=1e-6, warm_start=True)),
    )
    before = trained_on_the_images()
    optimizer = torch.optim.Adam(data.parameters(), lr=0.02)
    for step in range(100):
        fit(net, nested.inner_loss)  # from the last solution on
        loss, report = nested()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            data.images.clamp_(0, 1)  # still images
        if step % 20 == 19:
            print(f"step {step + 1}: outer loss {report.outer_loss:.3f}")

    everything = logistic_regression()
    fit(everything, lambda: F.cross_entropy(everything(x), y))
    print(f"trained on all {len(y)} images: test accuracy {test_accuracy(everything):.4f}")
    print(f"trained on the ten mean images: test accuracy {before:.4f}")
    print(f"trained on the ten learned images: test accuracy {trained_on_the_images():.4f}")
