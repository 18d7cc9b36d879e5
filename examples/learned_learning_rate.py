"""A learning rate that is tuned by unrolling: a setting that is a function of a hyperparameter."""

import torch
import torch.nn.functional as F
from torch import nn

import bestresponse as br
from bestresponse.data import load_digits, split

torch.manual_seed(0)
torch.set_num_threads(1)  # faster for tiny models
roles = split(load_digits(), validation=300)
x, y = roles.train.batch()
xv, yv = roles.validation.batch()

model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
hyper = br.hyper.Bounded(lr=(br.hyper.LogRange(1e-3, 2.0), 0.02))
hyper_opt = torch.optim.Adam(hyper.parameters(), lr=0.1)

nested = br.Nested(
    params=model,
    hyper=hyper,
    inner=lambda x, y: F.cross_entropy(model(x), y),
    outer=lambda x, y: F.cross_entropy(model(x), y),
    method=br.Unroll(br.optim.SGD(lr=lambda: hyper.lr), steps=10),
)
for step in range(40):  # the model itself stays where it is: what is tuned is its first 10 steps
    loss, report = nested((x, y), (xv, yv))
    hyper_opt.zero_grad()
    loss.backward()
    hyper_opt.step()
    if step % 10 == 0:
        print(f"lr {hyper.lr.item():.3f}: validation loss after 10 steps {loss.item():.3f}")
print(f"lr {hyper.lr.item():.3f}: validation loss after 10 steps {loss.item():.3f}")
