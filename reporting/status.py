"""Numbers of every kind to JSON files that a reader sees whole."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anybev import files


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: NaN and infinity become None, numpy numbers Python's.

    Raises:
        TypeError: something in it has no counterpart in JSON.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError(
        f"json: values must be numbers, text, lists or dicts, got {type(value).__name__}"
    )


def write_json(path: Path | str, content: Any) -> None:
    """Write strict, indented JSON under its name only when it is complete.

    Args:
        path: file to write; its folder is made when missing.
        content: dicts, lists, text, numbers (numpy's and zero-dimensional tensors too).

    Raises:
        TypeError: see ``plain``; the old file stays.
    """
    files.write_json(Path(path), plain(content), indent=2)
