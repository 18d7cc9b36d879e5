"""Learned example weights against wrong labels, raced against other methods."""

from bestresponse.apps.experiments.cleaning._experiment import DataCleaning

__all__ = ["DataCleaning"]
