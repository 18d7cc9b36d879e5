"""How many examples to give to validation."""

from bestresponse.apps.experiments.split._experiment import ValidationShare

__all__ = ["ValidationShare"]
