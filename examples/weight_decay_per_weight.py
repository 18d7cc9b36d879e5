"""One weight decay per weight, tuned in the training loop you already have."""

from itertools import cycle

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bestresponse as br
from bestresponse.data import load_digits, split

torch.manual_seed(0)
torch.set_num_threads(1)  # faster for tiny models
roles = split(load_digits(), train=200, validation=200)
train, validation, test = (TensorDataset(*part.batch()) for part in
                           (roles.train, roles.validation, roles.test))  # fmt: skip
train_loader = DataLoader(train, batch_size=50, shuffle=True)
val_loader = DataLoader(validation, batch_size=200)

model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
opt = torch.optim.Adam(model.parameters(), lr=3e-3)

decay = br.hyper.WeightDecay(model, per="weight", init=1e-4)
hyper_opt = torch.optim.Adam(decay.parameters(), lr=0.1)


def inner(x, y):
    return F.cross_entropy(model(x), y) + decay(model)


def outer(x, y):
    return F.cross_entropy(model(x), y)


nested = br.Nested(
    params=model,
    hyper=decay,
    inner=inner,
    outer=outer,
    method=br.Implicit(br.CG(max_steps=10), damping=1e-2),
)

val_batches = cycle(val_loader)
for epoch in range(100):
    for batch in train_loader:
        opt.zero_grad()
        nested.inner_loss(*batch).backward()
        opt.step()
    loss, report = nested(batch, next(val_batches))  # its gradient is the hypergradient
    hyper_opt.zero_grad()
    loss.backward()
    hyper_opt.step()
    if epoch % 20 == 19:
        print(f"epoch {epoch + 1}: {report}")

with torch.no_grad():
    x, y = test.tensors
    print(f"test accuracy {(model(x).argmax(1) == y).float().mean():.3f}")
