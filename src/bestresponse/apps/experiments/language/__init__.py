"""A recurrent language model whose regularization is tuned."""

from bestresponse.apps.experiments.language._experiment import Language

__all__ = ["Language"]
