"""Dropout rates tuned in the run that trains the network, by a learned best response.

A small convolutional network on scikit-learn's digits, 400 for training. Two dropout rates and the
size of a hole cut into each training image, a whole number, are tuned while it trains: its layers
learn how good weights change with the three, and a validation step follows that. The training loss
is never differentiated in them. Beside it the same network at one fixed setting after another.
"""

import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import bestresponse as br

torch.set_num_threads(1)
torch.manual_seed(0)

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(digits.target)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, valid, test = order[:400], order[400:900], order[900:]
STEPS, BATCH = 900, 50


class LeNet(nn.Module):
    """Two convolutions and two linear layers, a dropout before each of these."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(128, 64), nn.Linear(64, 10)
        self.drop1, self.drop2 = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, x):
        """Logits."""
        x = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = F.max_pool2d(torch.relu(self.conv2(x)), 2).flatten(1)
        return self.fc2(self.drop2(torch.relu(self.fc1(self.drop1(x)))))


def batches(rows):
    """Random batches without end."""
    while True:
        yield from rows[torch.randperm(len(rows))].split(BATCH)


def loss_of(net, rows):
    """Cross-entropy in eval mode."""
    with torch.no_grad():
        return F.cross_entropy(net.eval()(images[rows]), labels[rows]).item()


def fixed(model, rate, side):
    """The same training at one setting; validation and test loss."""
    torch.manual_seed(0)
    model.drop1.p = model.drop2.p = rate
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _, rows in zip(range(STEPS), batches(train), strict=False):
        x = br.hyper.augment(images[rows], cutout=float(side))
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), labels[rows]).backward()
        optimizer.step()
    return loss_of(model, valid), loss_of(model, test), rate, side


start = LeNet()
hyper = br.hyper.Bounded(
    first=(0.0, 0.9, 0.05), second=(0.0, 0.9, 0.05), side=(br.hyper.Integers(0, 4), 1)
)
net = br.response.SelfTuning(start, hyper, {"drop1": "first", "drop2": "second"}, centred=True)
print(f"layers that respond: {', '.join(net.converted)}")

weights = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
hypers = torch.optim.Adam([*hyper.parameters(), *net.scales.parameters()], lr=0.02)
schedule, valid_batches = br.response.Schedule(), batches(valid)
for step, rows in zip(range(STEPS), batches(train), strict=False):
    weights.zero_grad()
    net.training_loss(
        F.cross_entropy,
        images[rows],
        labels[rows],
        augment=lambda x, drawn: br.hyper.augment(x, cutout=drawn["side"]),
    ).backward()
    weights.step()
    if step % 3 == 2 and step > 100:  # after the warm-up, one validation step to three
        rows = next(valid_batches)
        hypers.zero_grad()
        net.validation_loss(F.cross_entropy, images[rows], labels[rows]).backward()
        hypers.step()
    if step % 180 == 179:
        schedule.record(step + 1, net, validation=loss_of(net, valid))
        net.train()
        now = {name: round(value.item(), 2) for name, value in schedule.at(step + 1).items()}
        print(f"step {step + 1}: {now}, validation loss {schedule.column('validation')[-1]:.3f}")

model = net.freeze()  # a plain LeNet
tuned = loss_of(model, test)
settings = [(0.05, 1), (0.5, 1), (0.05, 3), (0.5, 3)]
_, test_loss, rate, side = min(fixed(copy.deepcopy(start), *setting) for setting in settings)
print(
    f"best of {len(settings)} fixed settings: rates {rate}, side {side}; test loss {test_loss:.3f}"
)
print(f"self-tuned: test loss {tuned:.3f}")
