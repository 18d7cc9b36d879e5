"""`bestresponse tune`: hyperparameters tuned while a model trains."""

from bestresponse.apps.tune._command import Tune

__all__ = ["Tune"]
