"""Plain torch.nn models; every stage is named in the detector's forward."""

if not __name__.startswith("anybev."):
    raise ImportError("import anybev.models, not the bare name 'models': it would be a second copy")
