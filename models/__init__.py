"""Plain torch.nn models; every stage is named in the detector's forward."""

if not __name__.startswith("anybev."):
    raise ImportError("import anybev.models, not models: a second copy of every class")
