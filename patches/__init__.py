"""The bridge to an installed mmdetection3d: its models on AnyBEV's operators."""

if not __name__.startswith("anybev."):
    raise ImportError("import anybev.patches, not the bare name 'patches': it would be a second copy")
