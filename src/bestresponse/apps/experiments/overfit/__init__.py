"""As many hyperparameters as weights overfit the validation set."""

from bestresponse.apps.experiments.overfit._experiment import Overfit

__all__ = ["Overfit"]
