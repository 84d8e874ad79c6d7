"""Measurements that a script wrote: operators and training against their peers."""

if not __name__.startswith("anybev."):
    raise ImportError("import anybev.benchmark, not benchmark: a second copy of every class")
