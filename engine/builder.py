"""Config to detector: every nested ``dict(type=...)`` becomes the object it names."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from anybev.engine.registry import MODELS, TASK_UTILS, bare_name
from anybev.models.common.arguments import call, suggestion

# Descriptions that the class they are given to reads itself.
_DESCRIPTIONS = ("conv_cfg", "norm_cfg", "act_cfg", "upsample_cfg", "decoder_layer", "init_cfg")


def build_detector(model_cfg: Mapping[str, Any]) -> nn.Module:
    """Build the model a config describes.

    Args:
        model_cfg: mmdetection3d's ``model = dict(type="BEVFusion", ...)``.

    Returns:
        The detector, initialised, in training mode.

    Raises:
        ValueError: an unknown type or key, or a missing one, named with its place in the config.
    """
    model = _build(model_cfg, "model")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: type must name a model, got {model_cfg.get('type')!r}")
    return model


def _build(node: Any, path: str) -> Any:
    if isinstance(node, Mapping):
        children = {
            key: value if key in _DESCRIPTIONS else _build(value, f"{path}.{key}")
            for key, value in node.items()
        }
        return _construct(children, path) if "type" in children else children
    if isinstance(node, (list, tuple)):
        return type(node)(_build(value, f"{path}[{i}]") for i, value in enumerate(node))
    return node


def _construct(arguments: dict[str, Any], path: str) -> Any:
    name = arguments.pop("type")
    return call(path, _find(name, path), arguments)


def _find(name: Any, path: str) -> Any:
    if not isinstance(name, str):
        return name
    bare = bare_name(name)
    known: dict[str, Any] = {}
    for registry in (MODELS, TASK_UTILS):
        registry.import_from_location()
        known |= registry.module_dict
    if bare in known:
        return known[bare]
    raise ValueError(
        f"{path}: type must be one of {', '.join(sorted(known))}, got {name!r}"
        f"{suggestion(bare, known)}"
    )
