"""Calibrated probabilities: naive Bayes scores made honest, beside isotonic regression and Platt.

Two of scikit-learn's data sets. Naive Bayes is trained on a third of the rows, calibrated on the
second, and judged on the third by log loss, over ten splits.
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB

from bestresponse.apps.estimators import Calibrator

torch.set_num_threads(1)


def scores(model, x):
    """The logarithm of the odds, kept within what a float can tell apart from certainty."""
    logs = model.predict_log_proba(x)
    return np.clip(logs[:, 1] - logs[:, 0], -50, 50)[:, None]


def calibrated(score, y, new):
    """The probabilities of each method for new scores."""
    isotonic = IsotonicRegression(out_of_bounds="clip", y_min=1e-3, y_max=1 - 1e-3)
    return {
        "as they are": 1 / (1 + np.exp(-new[:, 0])),
        "Platt": LogisticRegression().fit(score, y).predict_proba(new)[:, 1],
        "isotonic": isotonic.fit(score[:, 0], y).predict(new[:, 0]),
        "Calibrator": Calibrator().fit(score, y).predict_proba(new)[:, 1],
    }


digits = load_digits()
problems = {
    "breast cancer": load_breast_cancer(return_X_y=True),
    "digits, 8 or not": (digits.data, (digits.target == 8).astype(int)),
}
figure = Figure(figsize=(9, 3.6), layout="constrained")
for axes, (name, (x, y)) in zip(figure.subplots(1, 2), problems.items(), strict=True):
    losses = {}
    for seed in range(10):
        x_fit, x_rest, y_fit, y_rest = train_test_split(
            x, y, test_size=2 / 3, random_state=seed, stratify=y
        )
        x_cal, x_test, y_cal, y_test = train_test_split(
            x_rest, y_rest, test_size=0.5, random_state=seed, stratify=y_rest
        )
        bayes = GaussianNB(var_smoothing=1e-6).fit(x_fit, y_fit)
        score, new = scores(bayes, x_cal), scores(bayes, x_test)
        found = calibrated(score, y_cal, new)
        for method, p in found.items():
            losses.setdefault(method, []).append(log_loss(y_test, np.clip(p, 1e-15, 1 - 1e-15)))
    print(name + ": " + ", ".join(f"{m} {np.mean(v):.3f}" for m, v in losses.items()))
    order = np.argsort(new[:, 0])
    for method in ("Platt", "isotonic", "Calibrator"):
        axes.plot(new[order, 0], found[method][order], label=method)
    axes.set(title=name, xlabel="score (log odds of naive Bayes)", ylabel="probability")
    axes.legend()

out = Path("runs/jacnet_calibration.png")
out.parent.mkdir(exist_ok=True)
figure.savefig(out, dpi=120)
gain = np.mean(losses["as they are"]) / np.mean(losses["Calibrator"])
print(f"picture: {out}; the last data set's log loss is lower by a factor of {gain:.2f}")
