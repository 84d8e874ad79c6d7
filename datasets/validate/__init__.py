"""Checks of a data set before anyone trains on it; see ``run.validate``."""
