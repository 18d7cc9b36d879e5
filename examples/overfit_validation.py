"""Enough hyperparameters fit the validation set itself: one weight decay for each weight.

Logistic regression on 50 digits, with its 650 decays tuned on 50 others until both are predicted
without error; 1,697 digits that neither saw tell what that is worth. Beside it, the same with one
decay for all weights, which cannot learn the validation digits.
"""

import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.data import load_digits, split

IMAGES, MOST_STEPS = 50, 600

roles = split(load_digits(), train=IMAGES, validation=IMAGES, test=1000, seed=0)
train, validation, test = (part.batch() for part in (roles.train, roles.validation, roles.test))


def accuracy(model, batch):
    """Share of the images that get their own class."""
    with torch.no_grad():
        return float((model(batch[0]).argmax(1) == batch[1]).float().mean())


def run(per):
    """Train, and tune beside it, until training and validation images are all right."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    decay = br.hyper.WeightDecay(model, per=per, init=0.03, biases=True)
    nested = br.Nested(
        model,
        decay,
        lambda x, y: F.cross_entropy(model(x), y) + decay(model),  # inner
        lambda x, y: F.cross_entropy(model(x), y),  # outer
        br.Implicit(br.Scale()),  # the inverse Hessian as the identity: two gradients, no solve
    )
    weights = torch.optim.Adam(model.parameters(), lr=0.01)
    decays = torch.optim.RMSprop(decay.parameters(), lr=0.5)
    for step in range(1, MOST_STEPS + 1):
        weights.zero_grad()
        nested.inner_loss(*train).backward()
        weights.step()
        if step > 20 and step % 2 == 0:
            decays.zero_grad()
            loss, _ = nested(train, validation)
            loss.backward()
            decays.step()
            with torch.no_grad():  # a decay beyond does nothing more
                for leaf in decay.parameters():
                    leaf.clamp_(-18.0, 7.0)
        if accuracy(model, train) == accuracy(model, validation) == 1.0:
            break
    count = sum(leaf.numel() for leaf in decay.parameters())
    print(
        f"decays: {count}, after {step} steps: training {accuracy(model, train):.2f}, validation "
        f"{accuracy(model, validation):.2f}, test {accuracy(model, test):.2f}"
    )
    return accuracy(model, validation) - accuracy(model, test)


run("model")
print(f"validation accuracy above test accuracy by {run('weight'):.3f}")
