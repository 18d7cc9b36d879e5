"""A landscape from noisy slopes: a conservative field is integrated, whatever the path.

Heights of the Jacksboro fault (a sample of matplotlib), smoothed. What is measured are slopes with
noise, at a quarter of the grid's points; what is wanted are heights. A `Potential` is fitted to the
slopes and *is* the height; an unconstrained field is integrated along a path and depends on it.
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib import cbook
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter
from torch import nn

from bestresponse import jacnet

torch.set_num_threads(1)
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)

heights = np.load(cbook.get_sample_data("jacksboro_fault_dem.npz", asfileobj=False))["elevation"]
heights = gaussian_filter(heights.astype(float), 8)[:320:8, :320:8]  # 40 × 40 points
heights = torch.tensor(heights)
heights = (heights - heights.mean()) / heights.std()
size = len(heights)
axis = torch.linspace(-1, 1, size)
points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
steps = torch.gradient(heights, spacing=(axis, axis))
slopes = torch.stack(steps, -1).reshape(-1, 2)
noisy = slopes + 0.3 * slopes.std() * torch.randn_like(slopes)
seen = torch.randperm(len(points))[: len(points) // 4]


class Waves(nn.Module):
    """Sines and cosines of random directions, which a small network can follow a terrain with."""

    def __init__(self, count=96, spread=3.0):
        super().__init__()
        self.register_buffer("directions", spread * torch.randn(2, count))

    def forward(self, x):
        """(..., 2) to (..., 2·count)."""
        phase = x @ self.directions
        return torch.cat([phase.sin(), phase.cos()], -1)


def network(out):
    """Waves, one hidden layer, `out` outputs."""
    return nn.Sequential(Waves(), nn.Linear(192, 64), nn.Tanh(), nn.Linear(64, out))


def train(field):
    """Least squares on the slopes that were seen."""
    weights = [p for p in field.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=5e-3, weight_decay=1e-4)
    for _ in range(400):
        loss = (field(points[seen]) - noisy[seen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


potential, free = jacnet.Potential(2, net=network(1)), network(2)
for field in (potential, free):
    train(field)


def error(found):
    """Root mean squared error of heights, which are known up to a constant; in their spread."""
    found = found - found.mean() + heights.reshape(-1).mean()
    return float((found - heights.reshape(-1)).square().mean().sqrt())


start, rule = torch.zeros_like(points), jacnet.GaussLegendre(16, cells=4)
with torch.no_grad():
    found = {"potential": potential.potential(points)}
    for name, path in (("straight", jacnet.STRAIGHT), ("along the axes", jacnet.AXES)):
        rows = lambda x: free(x)[..., None, :]  # noqa: E731
        integral = jacnet.line_integral(rows, path, start, points, rule, chunk=400)
        found[f"unconstrained field, {name}"] = integral.value[:, 0]
for name, values in found.items():
    print(f"{name}: error of the heights {error(values):.3f}")
with torch.no_grad():
    rows = lambda x: potential(x)[..., None, :]  # noqa: E731
    ways = [jacnet.line_integral(rows, p, start, points, rule, chunk=400).value
            for p in (jacnet.STRAIGHT, jacnet.AXES)]  # fmt: skip
print(f"potential: two paths differ by at most {float((ways[0] - ways[1]).abs().max()):.1e}")

figure = Figure(figsize=(9, 2.8), layout="constrained")
shown = {"heights": heights.reshape(-1), **found}
for axes, (name, values) in zip(figure.subplots(1, 4), shown.items(), strict=True):
    axes.imshow(values.reshape(size, size).numpy(), cmap="gist_earth")
    axes.set_title(name, fontsize=8)
    axes.set_axis_off()
out = Path("runs/jacnet_terrain.png")
out.parent.mkdir(exist_ok=True)
figure.savefig(out, dpi=130)
print(f"picture: {out}; heights from slopes, error {error(found['potential']):.4f}")
