"""Sensor calibration: vapour pressure of mercury from temperature, and the temperature back.

Nineteen measured points (the data set `pressure` of R, after Weast's Handbook of Chemistry and
Physics). An increasing function of the temperature is fitted to the logarithm of the pressure;
its inverse reads a temperature off a pressure. Judged by leaving each point out once, beside the
physical law log p = a − b/T and beside interpolation.
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from bestresponse.apps.estimators import MonotoneRegressor

torch.set_num_threads(1)

temperature = np.arange(0.0, 361.0, 20.0)  # in °C
pressure = np.array(  # in mm of mercury
    [0.0002, 0.0012, 0.006, 0.03, 0.09, 0.27, 0.75, 1.85, 4.2, 8.8, 17.3, 32.1, 57.0, 96.0, 157.0,
     247.0, 376.0, 558.0, 806.0]
)  # fmt: skip
log_pressure = np.log10(pressure)


def monotone(t, y):
    """A prediction of log10 p by an increasing network."""
    return MonotoneRegressor().fit(t[:, None], y)


def clausius_clapeyron(t, y):
    """The line through log p over 1/T."""
    slope, start = np.polyfit(1 / (t + 273.15), y, 1)
    return lambda new: start + slope / (new + 273.15)


def left_out(fit):
    """The error at each point of a fit to all others."""
    errors = []
    for i in range(len(temperature)):
        kept = np.arange(len(temperature)) != i
        model = fit(temperature[kept], log_pressure[kept])
        predict = model.predict if hasattr(model, "predict") else model
        at = temperature[i : i + 1]
        value = predict(at[:, None] if hasattr(model, "predict") else at)[0]
        errors.append(abs(value - log_pressure[i]))
    return np.array(errors)


model = monotone(temperature, log_pressure)
inner = slice(1, -1)  # between other points; the two ends are extrapolation
for name, errors in {
    "monotone network": left_out(monotone),
    "Clausius-Clapeyron, which knows the law": left_out(clausius_clapeyron),
    "linear interpolation": left_out(lambda t, y: lambda new: np.interp(new, t, y)),
}.items():
    print(f"{name}: left-out error of log10 p {np.median(errors[inner]):.4f} between points, "
          f"{errors[[0, -1]].max():.3f} at the ends")  # fmt: skip

back = model.inverse_predict(model.predict(temperature[:, None]))
figure = Figure(figsize=(9, 3.4), layout="constrained")
left, right = figure.subplots(1, 2)
grid = np.linspace(0, 360, 300)
left.plot(temperature, log_pressure, "o", grid, model.predict(grid[:, None]))
left.set(title="log10 pressure over temperature", xlabel="°C")
values = np.linspace(*model.range_, 300)
right.plot(log_pressure, temperature, "o", values, model.inverse_predict(values))
right.set(title="temperature over log10 pressure", ylabel="°C")
out = Path("runs/jacnet_pressure.png")
out.parent.mkdir(exist_ok=True)
figure.savefig(out, dpi=120)
print(f"10 mm of mercury: {model.inverse_predict([1.0])[0]:.1f} °C (picture: {out})")
print(f"inverse of the prediction: largest error {np.abs(back - temperature).max():.1e} K")
