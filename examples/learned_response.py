"""A best response learned as a function, from solves and from their Jacobians.

Ridge regression on scikit-learn's diabetes data with two log decays λ, one for each half of the
features. A JacNet learns λ ↦ w*(λ) from a few inner solves. Each can also tell how w* moves: by the
implicit function theorem ∂w*/∂λ costs one linear solve a decay, with products of the Hessian.
Trained on both (Sobolev training), fewer inner solves do.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes

import bestresponse as br
from bestresponse import jacnet

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

data = load_diabetes()
x = torch.tensor(data.data)
x, y = (x - x.mean(0)) / x.std(0), torch.tensor(data.target)
y = (y - y.mean()) / y.std()
half = torch.arange(10) % 2  # which of the two decays a feature has


def inner(params, hyper):
    """Half the mean squared error, and the decays' penalty."""
    w, decay = params["w"], hyper["log"].exp()[half]
    return 0.5 * (x @ w - y).square().mean() + 0.5 * (decay * w * w).sum()


def solved(log):
    """w*(λ) in closed form."""
    matrix = x.T @ x / len(x) + torch.diag(log.exp()[half])
    return torch.linalg.solve(matrix, x.T @ y / len(x))


def jacobian(log, w):
    """∂w*/∂λ, (10, 2): by the implicit function theorem one linear solve a decay."""
    operator = br.Hessian(br.Linearization(inner, {"w": w}, {"log": log}))
    slope = lambda log: torch.func.grad(inner)({"w": w}, {"log": log})["w"]  # noqa: E731
    mixed = torch.func.jacrev(slope)(log)
    return torch.stack(
        [-br.linear_solve(operator, column, br.CG(max_steps=10)).value for column in mixed.T], 1
    )


CENTRE, REACH = torch.tensor([-2.0, -2.0]), 3.0


def points(count, seed):
    """λ in [−5, 1]²."""
    generator = torch.Generator().manual_seed(seed)
    return CENTRE + REACH * (2 * torch.rand(count, 2, generator=generator) - 1)


def scaled(logs):
    """λ as what the network takes, in [−1, 1]²."""
    return (logs - CENTRE) / REACH


def learned(logs, slopes_too, seed):
    """A network for the Jacobian, integrated, trained on solves and, if asked, on their slopes."""
    w = torch.stack([solved(log) for log in logs])
    slopes = REACH * torch.stack(list(map(jacobian, logs, w)))
    torch.manual_seed(seed)
    f = jacnet.PathIntegral(
        2, 10, activation=jacnet.Free(), hidden=32, value=solved(CENTRE),
        rule=jacnet.GaussLegendre(6),
    )  # fmt: skip
    optimizer = torch.optim.LBFGS(f.parameters(), max_iter=150, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (f(scaled(logs)) - w).square().mean() / w.var()
        if slopes_too:
            loss = loss + (f.jacobian(scaled(logs)) - slopes).square().mean() / slopes.var()
        (loss + 1e-7 * sum(p.square().sum() for p in f.parameters())).backward()
        return loss

    optimizer.step(closure)
    return f


def error(f):
    """Relative, at 300 new λ."""
    logs = points(300, 99)
    true = torch.stack([solved(log) for log in logs])
    with torch.no_grad():
        return float((f(scaled(logs)) - true).norm() / (true - true.mean(0)).norm())


# what the warning is about does not matter here: f itself is differentiated, not its field
warnings.filterwarnings("ignore", "PathIntegral in 2 dimensions")
counts, found = (4, 8, 16, 32), {"solves": [], "solves and Jacobians": []}
for count in counts:
    for name, both in zip(found, (False, True), strict=True):
        errors = [error(learned(points(count, seed), both, seed)) for seed in range(3)]
        found[name].append(float(np.median(errors)))
    print(f"{count} inner solves: error {found['solves'][-1]:.3f} from solves, "
          f"{found['solves and Jacobians'][-1]:.3f} with Jacobians")  # fmt: skip

figure = Figure(figsize=(5, 3.4), layout="constrained")
axes = figure.subplots()
for name, errors in found.items():
    axes.loglog(counts, errors, "o-", label=name)
axes.set(xlabel="inner solves", ylabel="relative error of w*(λ)")
axes.legend()
out = Path("runs/learned_response.png")
out.parent.mkdir(exist_ok=True)
figure.savefig(out, dpi=120)
target = found["solves"][-1]
enough = min(c for c, e in zip(counts, found["solves and Jacobians"], strict=True) if e <= target)
print(f"picture: {out}; what {counts[-1]} solves reach, {enough} with Jacobians do: "
      f"{counts[-1] / enough:.1f} times fewer")  # fmt: skip
