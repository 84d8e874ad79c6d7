"""Training and evaluation on mmengine: loops, hooks, checkpoints, registry bindings."""

if not __name__.startswith("anybev."):
    raise ImportError("import anybev.engine, not the bare name 'engine': it would be a second copy")
