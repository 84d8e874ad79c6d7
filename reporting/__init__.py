"""Metrics to the files that people read."""

if not __name__.startswith("anybev."):
    raise ImportError(
        "import anybev.reporting, not the bare name 'reporting': it would be a second copy"
    )
