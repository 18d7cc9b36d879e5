"""`bestresponse jacnet`: a structured map fitted to a table, and its predictions."""

from bestresponse.apps.jacnet._command import JacNetFit, JacNetPredict, load_run

__all__ = ["JacNetFit", "JacNetPredict", "load_run"]
