"""Official data-set layouts in, ``Sample`` and ``Batch`` out."""

if not __name__.startswith("anybev."):
    raise ImportError("import anybev.datasets, not datasets: a second copy of every class")
