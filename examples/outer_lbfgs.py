"""An inner problem that can be solved: L-BFGS on exact hypergradients, beside stochastic steps.

Softmax regression on scikit-learn's digits with one weight decay for each pixel. L-BFGS moves the
decays on hypergradients of solved inner problems. The other run trains and tunes in one loop, a
hyper-step at every training step, for as long. Both are judged where it counts: by the validation
loss of weights that are fitted to their decays.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import bestresponse as br

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)  # small matrices

digits = load_digits()
x, y = torch.tensor(digits.data / 16), torch.tensor(digits.target)
order = torch.randperm(len(x))
train, valid = order[:400], order[400:800]
inner_batch, outer_batch = (x[train], y[train]), (x[valid], y[valid])


class PixelDecay(torch.nn.Module):
    """½ Σ e^λ w² with one λ for each pixel, shared by the ten classes."""

    def __init__(self):
        super().__init__()
        self.log_decay = torch.nn.Parameter(torch.full((64,), -5.0))

    def forward(self, model):
        """The penalty, a scalar."""
        return 0.5 * (self.log_decay.exp() * model.weight**2).sum()


def problem(solver):
    """A model, its decays, and the two as a nested problem."""
    model, decay = torch.nn.Linear(64, 10), PixelDecay()

    return (
        model,
        decay,
        br.Nested(
            params=model,
            hyper=decay,
            inner=lambda x, y: F.cross_entropy(model(x), y) + decay(model),
            outer=lambda x, y: F.cross_entropy(model(x), y),
            method=br.Implicit(solver),
        ),
    )


def fit(model, nested):
    """The best response: the inner problem solved, from where it is."""
    solver = torch.optim.LBFGS(
        model.parameters(), max_iter=500, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=1e-7, tolerance_change=0.0,
    )  # fmt: skip

    def closure():
        solver.zero_grad()
        loss = nested.inner_loss(*inner_batch)
        loss.backward()
        return loss

    solver.step(closure)


def lbfgs(evaluations):
    """The outer loss after so many exact hypergradients, and the seconds they took."""
    exact = br.CG(max_steps=500, rtol=1e-6, warm_start=True)
    model, decay, nested = problem(exact)
    start = time.perf_counter()

    def value_and_gradient(vector):
        vector_to_parameters(torch.tensor(vector), decay.parameters())
        fit(model, nested)
        decay.zero_grad()
        loss, _ = nested(inner_batch, outer_batch)
        loss.backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in decay.parameters()])
        return loss.item(), gradient.numpy()

    at = parameters_to_vector(decay.parameters()).detach().numpy()
    options = {"maxfun": evaluations, "maxiter": evaluations, "maxcor": 30}
    result = minimize(value_and_gradient, at, jac=True, method="L-BFGS-B", options=options)
    return float(np.min(result.fun)), time.perf_counter() - start


def stochastic(seconds):
    """The outer loss of weights fitted to the decays that single-loop tuning finds."""
    model, decay, nested = problem(br.SingleLoop())
    weights = torch.optim.Adam(model.parameters(), lr=1e-2)
    decays = torch.optim.Adam(decay.parameters(), lr=1e-2)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        weights.zero_grad()
        nested.inner_loss(*inner_batch).backward()
        weights.step()
        decays.zero_grad()
        nested(inner_batch, outer_batch)[0].backward()
        decays.step()
    fit(model, nested)
    return nested.outer(*outer_batch).item()


if __name__ == "__main__":
    exact, seconds = lbfgs(evaluations=20)
    print(
        f"a hyper-step a training step, {seconds:.1f} s: validation loss {stochastic(seconds):.4f}"
    )
    print(f"L-BFGS on 20 exact hypergradients, {seconds:.1f} s: validation loss {exact:.4f}")
