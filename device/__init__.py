"""Which machine: backend facts, and the operators' contracts with their plain-PyTorch references."""

if not __name__.startswith("anybev."):
    raise ImportError("import anybev.device, not the bare name 'device': it would be a second copy")
