"""What a written config says about a run's numbers, without where it ran: entries and a hash."""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

# What decides numbers; other names at the top are variables that these were made from.
_TOP_TEXT = """
auto_scale_lr custom_hooks custom_imports data_preprocessor ddp load_from load_from_may_lack model
optim_wrapper param_scheduler test_cfg test_dataloader test_evaluator train_cfg train_dataloader
val_cfg val_dataloader val_evaluator
"""
# Where things are, and how a machine is used: neither changes what is learned.
_BESIDE_TEXT = """
data_root output_dir out_dir work_dir seed num_workers persistent_workers pin_memory prefetch_factor
"""
# Only what a submission says of its sensors; the data sets' own entry counts.
_BESIDE_PATHS = frozenset({"val_evaluator.modality", "test_evaluator.modality"})
_TOP, _BESIDE = frozenset(_TOP_TEXT.split()), frozenset(_BESIDE_TEXT.split())
_NAMES = {"inf": math.inf, "nan": math.nan, "True": True, "False": False, "None": None}


def config_entries(text: str) -> dict[str, Any]:
    """Dotted keys to values of a resolved config; nothing in it is executed.

    Paths are cut to their last part, ``load_from`` to its last two; folders, seeds and numbers of
    data workers are left out.

    Args:
        text: the Python file that a run wrote beside its log.

    Raises:
        ValueError: the text is not what mmengine writes: assignments of plain values.
    """
    try:
        tree = ast.parse(text)
        values = {
            target.id: _value(statement.value)
            for statement in tree.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
    except (SyntaxError, RecursionError, TypeError, KeyError) as error:
        raise ValueError(
            f"regress: the config of a run must be assignments of plain values, got: {error}"
        ) from error
    flat: dict[str, Any] = {}
    for name in sorted(_TOP & set(values)):
        flat.update(_flat(values[name], name))
    return flat


def config_hash(entries: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the entries in the order of their keys."""
    text = json.dumps(dict(entries), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ, each as ``key: ours, theirs``; a dash where there is none."""
    found = []
    for key in sorted(set(ours) | set(theirs)):
        first, second = ours.get(key, "-"), theirs.get(key, "-")
        if first != second:
            found.append(f"{key}: {first}, {second}")
    return found


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        # A key of None would be an unpacked dict, which mmengine does not write.
        pairs = zip(node.keys, node.values, strict=True)
        return {str(_value(key)): _value(item) for key, item in pairs if key is not None}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.Name):
        return _NAMES[node.id]
    is_dict = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict"
    if is_dict and isinstance(node, ast.Call) and not node.args:
        return {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    raise ValueError(
        "regress: the config of a run must be assignments of plain values, got "
        f"{type(node).__name__} in line {node.lineno}"
    )


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            if key not in _BESIDE and f"{path}.{key}" not in _BESIDE_PATHS:
                yield from _flat(item, f"{path}.{key}")
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{path}.{index}")
    else:
        # Every training calls its checkpoints epoch_N.pth: the folder tells them apart.
        yield path, _plain(value, 2 if path == "load_from" else 1)


def _plain(value: Any, parts: int = 1) -> Any:
    if isinstance(value, str) and "/" in value:
        return "/".join(PurePosixPath(value).parts[-parts:]).lstrip("/")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
