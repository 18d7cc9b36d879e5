"""`bestresponse distill`: a few learned images that teach as much as a data set."""

from bestresponse.apps.distill._command import Distill

__all__ = ["Distill"]
