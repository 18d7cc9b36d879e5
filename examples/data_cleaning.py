"""Wrong labels, found: one weight for each training example, tuned on a small clean set.

Half of the training labels of scikit-learn's digits are drawn at random. The weights of the
examples are hyperparameters of a softmax regression that is solved to the end at each outer step;
L-BFGS moves them within the box [0, 1] on exact hypergradients of the validation loss. Beside it
stand the simple things: all examples alike, the clean validation set alone, and the examples whose
label a model of the validation set agrees with.
"""

import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import bestresponse as br

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)  # small matrices

digits = load_digits()
order = torch.randperm(len(digits.target))
train, valid, test = order[:1000], order[1000:1200], order[1200:]
x, y = torch.tensor(digits.data) / 16, torch.tensor(digits.target)
random = torch.rand(len(train)) < 0.5
labels = torch.where(random, torch.randint(10, (len(train),)), y[train])
wrong = labels != y[train]


class Weights(torch.nn.Module):
    """A weight for each example, as it is: the optimizer keeps it in the box."""

    def __init__(self, n):
        super().__init__()
        self.of = torch.nn.Parameter(torch.full((n,), 0.5))


model, weights = torch.nn.Linear(64, 10, bias=False), Weights(len(train))


def inner(x, y):
    """The mean of weight times loss, plus a decay that makes the optimum one point."""
    losses = F.cross_entropy(model(x), y, reduction="none")
    return (weights.of * losses).mean() + 0.002 * model.weight.square().sum()


nested = br.Nested(
    params=model,
    hyper=weights,
    inner=inner,
    outer=lambda x, y: F.cross_entropy(model(x), y),
    method=br.Implicit(br.CG(max_steps=200, rtol=1e-5, warm_start=True)),
)


def fit(loss):
    """The inner problem solved, from where the model is."""
    solver = torch.optim.LBFGS(
        model.parameters(), max_iter=500, history_size=30, line_search_fn="strong_wolfe",
        tolerance_grad=1e-6, tolerance_change=0.0,
    )  # fmt: skip

    def closure():
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    solver.step(closure)


def value_and_gradient(vector):
    """The validation loss of the best response to these weights, and its gradient."""
    weights.of.data.copy_(torch.tensor(vector))
    fit(lambda: nested.inner_loss(x[train], labels))
    weights.zero_grad()
    loss, _ = nested((x[train], labels), (x[valid], y[valid]))
    loss.backward()
    return loss.item(), weights.of.grad.numpy()


def accuracy(rows):
    """The share of right answers."""
    return float((model(x[rows]).argmax(1) == y[rows]).double().mean())


def plain(rows, targets):
    """Test accuracy of the same model, trained on some examples alike."""
    decay = 0.002
    fit(lambda: F.cross_entropy(model(x[rows]), targets) + decay * model.weight.square().sum())
    return accuracy(test)


if __name__ == "__main__":
    print(f"all examples alike: test accuracy {plain(train, labels):.3f}")
    print(f"validation set alone: test accuracy {plain(valid, y[valid]):.3f}")
    agreed = (model(x[train]).argmax(1) == labels).nonzero()[:, 0]
    print(f"filtered by that model: test accuracy {plain(train[agreed], labels[agreed]):.3f}")
    minimize(
        value_and_gradient, weights.of.detach().numpy(), jac=True, method="L-BFGS-B",
        bounds=[(0, 1)] * len(train), options={"maxfun": 30, "maxcor": 20},
    )  # fmt: skip
    found = roc_auc_score(wrong.numpy(), -weights.of.detach().numpy())
    print(
        f"tuned weights: test accuracy {accuracy(test):.3f}, wrong labels found: AUROC {found:.3f}"
    )
