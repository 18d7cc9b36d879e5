"""Strength of concrete: regression that must increase with cement and age, on a UCI data set.

    python examples/jacnet_concrete.py FOLDER

where FOLDER holds data.txt, index_features.txt, index_target.txt and index_train_0.txt … as in the
UCI benchmark of Hernández-Lobato and Adams (2015). What everybody knows of concrete is put in: more
cement, and more days, do not make it weaker. Five of the splits; root mean squared error in MPa.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from bestresponse.apps.estimators import MonotoneRegressor

torch.set_num_threads(1)

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/uci/concrete")
if not (folder / "data.txt").is_file():
    sys.exit(f"Skipped: '{folder}' has no data.txt; give the folder of the UCI concrete data.")
table = np.loadtxt(folder / "data.txt")
x = table[:, np.loadtxt(folder / "index_features.txt", dtype=int)]
y = table[:, int(np.loadtxt(folder / "index_target.txt"))]
x[:, 7] = np.log(x[:, 7])  # days: from 1 to 365
signs = [1, 0, 0, 0, 0, 0, 0, 1]  # cement, slag, ash, water, plasticizer, coarse, fine, age

models = {
    "linear regression": LinearRegression(),
    "boosted trees": HistGradientBoostingRegressor(random_state=0),
    "boosted trees, monotone": HistGradientBoostingRegressor(monotonic_cst=signs, random_state=0),
    "monotone network": MonotoneRegressor(signs, hidden=16, knots=17, alpha=2e-5, iterations=150),
}
errors = {name: [] for name in models}
for split in range(5):
    train, test = (
        np.loadtxt(folder / f"index_{part}_{split}.txt", dtype=int) for part in ("train", "test")
    )
    for name, model in models.items():
        model.fit(x[train], y[train])
        errors[name].append(np.sqrt(np.mean((model.predict(x[test]) - y[test]) ** 2)))
for name, found in errors.items():
    print(f"{name}: {np.mean(found):.2f} ± {np.std(found):.2f} MPa")

typical = np.tile(np.median(x, axis=0), (200, 1))
figure = Figure(figsize=(9, 3.2), layout="constrained")
least = np.inf
for axes, feature, label in zip(
    figure.subplots(1, 2), (0, 7), ("cement, kg/m³", "log of age in days"), strict=True
):
    at = typical.copy()
    at[:, feature] = np.linspace(x[:, feature].min(), x[:, feature].max(), 200)
    for name in ("boosted trees", "boosted trees, monotone", "monotone network"):
        curve = models[name].predict(at)
        axes.plot(at[:, feature], curve, label=name)
    least = min(least, np.diff(curve).min())
    axes.set(xlabel=label, ylabel="MPa", title="strength of a typical mixture")
    axes.legend(fontsize=7)
out = Path("runs/jacnet_concrete.png")
out.parent.mkdir(exist_ok=True)
figure.savefig(out, dpi=120)
print(f"picture: {out}; the network's strength rises by at least {least:.1e} from point to point")
print(f"monotone network: {np.mean(errors['monotone network']):.3f} MPa")
