"""Training and evaluation on mmengine: loops, hooks, checkpoints, registry bindings."""

if not __name__.startswith("anybev."):
    raise ImportError("import anybev.engine, not engine: a second copy of every class")
