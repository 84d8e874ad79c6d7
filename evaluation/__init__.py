"""Boxes to metrics, scored by the official judges."""

if not __name__.startswith("anybev."):
    raise ImportError("import anybev.evaluation, not the bare name 'evaluation': it would be a second copy")
