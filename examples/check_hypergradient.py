"""Whether a hypergradient is right, and why not.

The same from the shell: bestresponse check examples/check_hypergradient.py:problem
"""

import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.data import load_digits, split


def problem(method=None):
    """A trained classifier with one weight decay a weight, and the batches to check it on."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # faster for tiny models
    roles = split(load_digits(), train=200, validation=200)
    train, validation = roles.train.batch(), roles.validation.batch()

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    decay = br.hyper.WeightDecay(model, per="weight", init=1e-2, biases=True)
    nested = br.Nested(
        params=model,
        hyper=decay,
        inner=lambda x, y: F.cross_entropy(model(x), y) + decay(model),
        outer=lambda x, y: F.cross_entropy(model(x), y),
        method=method or br.Implicit(br.CG(max_steps=30)),
    )
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = nested.inner_loss(*train)
        loss.backward()
        return loss

    optimizer.step(closure)
    return nested, train, validation


if __name__ == "__main__":
    for method in (br.Implicit(br.Scale(1.0)), br.Implicit(br.CG(max_steps=30))):
        print(br.check(*problem(method)), end="\n\n")
