"""A run's config as flat data, without running it."""

from __future__ import annotations

import ast
from typing import Any


def flat_config(text: str) -> dict[str, Any]:
    """A config as mmengine writes it, flattened: ``{"model.type": "BEVFusion", ...}``.

    Nothing is run: a value is a literal or ``dict(...)``; what is neither stays as its source.
    Lists of dicts have numbers as keys. Text that is no Python gives an empty dict.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            _flatten(node.targets[0].id, node.value, found)
    return found


def _flatten(key: str, node: ast.expr, found: dict[str, Any]) -> None:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        for keyword in node.keywords:
            if keyword.arg is not None:
                _flatten(f"{key}.{keyword.arg}", keyword.value, found)
        return
    if isinstance(node, ast.Dict):
        for name, value in zip(node.keys, node.values, strict=True):
            if name is not None:
                _flatten(f"{key}.{ast.unparse(name)}", value, found)
        return
    if isinstance(node, ast.List | ast.Tuple) and any(isinstance(e, ast.Call) for e in node.elts):
        for index, element in enumerate(node.elts):
            _flatten(f"{key}.{index}", element, found)
        return
    try:
        found[key] = ast.literal_eval(node)
    except ValueError:
        found[key] = ast.unparse(node)
