"""Boxes to metrics, scored by the official judges."""

if not __name__.startswith("anybev."):
    raise ImportError("import anybev.evaluation, not evaluation: a second copy of every class")
