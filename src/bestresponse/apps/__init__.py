"""Finished uses: one application a file, each a settings dataclass whose `run()` gives a report."""
