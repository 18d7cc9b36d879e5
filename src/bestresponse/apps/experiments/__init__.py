"""Experiments: what the papers show, one a file, each with its figures in a run folder."""
