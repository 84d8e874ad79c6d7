"""Reading a config and refusing keys that nothing reads."""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import Registry
from mmengine.utils import import_modules_from_strings

from anybev.engine import host as hosts
from anybev.engine import registry
from anybev.models.bevfusion.head_config import SMALL_CLASSES, SMALL_RADIUS
from anybev.models.common.arguments import refuse_unknown, suggestion

# What mmengine's Runner reads at the top of a config; other names there are the config's own
# variables, unless they look like one of these misspelled.
_TOP_LEVEL_TEXT = """
auto_scale_lr custom_hooks custom_imports data_preprocessor ddp default_hooks default_scope env_cfg
experiment_name find_unused_parameters launcher load_from load_from_may_lack log_level
log_processor model optim_wrapper param_scheduler randomness resume runner_type test_cfg
test_dataloader test_evaluator train_cfg train_dataloader val_cfg val_dataloader val_evaluator
visualizer vis_backends work_dir
"""
TOP_LEVEL = frozenset(_TOP_LEVEL_TEXT.split())
# Keys that mmengine takes off before it builds the class.
_BESIDE = {"optim_wrapper": {"constructor", "paramwise_cfg"}}
# Read by the class that they are given to; an imported mmcv has classes of their types.
_DESCRIPTIONS = ("conv_cfg", "norm_cfg", "act_cfg", "upsample_cfg", "decoder_layer")
_MISSPELLED = 0.85
_SUFFIXES = (".py", ".json", ".yaml", ".yml")


def registries() -> tuple[Registry, ...]:
    """AnyBEV's registries with everything registered."""
    found = [r for r in vars(registry).values() if isinstance(r, Registry)]
    for module in {location for r in found for location in r._locations}:
        importlib.import_module(module)
    return tuple(found)


def _parameters(type_name: str) -> Mapping[str, inspect.Parameter] | None:
    """Arguments of a registered type, or None when it takes any."""
    for candidate in registries():
        entry = candidate.get(registry.bare_name(type_name))
        if entry is None:
            continue
        parameters = inspect.signature(entry).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return None
        return parameters
    return None


def _typed(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if isinstance(node.get("type"), str):
            yield path, node
        for key, value in node.items():
            if key not in _DESCRIPTIONS:
                yield from _typed(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _typed(value, f"{path}[{index}]")


def check(config: Config) -> None:
    """Compare every typed dict with what its class takes.

    Raises:
        ValueError: a key that nothing reads, with its path and the nearest known one.
    """
    for name in config:
        if name not in TOP_LEVEL and suggestion(name, TOP_LEVEL, _MISSPELLED):
            refuse_unknown("config", [name], TOP_LEVEL)
    for name in sorted(TOP_LEVEL & set(config)):
        for path, node in _typed(config[name], name):
            parameters = _parameters(node["type"])
            if parameters is None:
                continue
            keys = [key for key in node if key != "type" and not key.startswith("_")]
            known = {*parameters, *_BESIDE.get(path, ())}
            refuse_unknown(f"config: {path}: {node['type']}", keys, known)


def option_value(text: str) -> Any:
    """The value of one ``KEY=VALUE`` of ``--cfg-options``.

    As mmengine reads it, but blanks stay in a text that is no list, and quotation marks inside the
    value keep commas: folders may have both in their names.

    Args:
        text: what stands behind the first equals sign.
    """
    text = text.strip()
    bare = text.strip("'\"")
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    is_list = bare.startswith(("[", "(")) and bare.endswith(("]", ")"))
    if not is_list and (" " in bare or (quoted and "," in bare)):
        return bare
    return DictAction._parse_iterable(text)


def _name_small_classes(config: Config) -> None:
    """Tell the head where nuScenes' small classes are in a list that is not nuScenes' own.

    By itself it knows them by their numbers in nuScenes' list of ten.
    """
    names = config.get("class_names")
    test_cfg = ((config.get("model") or {}).get("bbox_head") or {}).get("test_cfg")
    if not names or test_cfg is None or test_cfg.get("dataset", "nuScenes") != "nuScenes":
        return
    small = [label for label, name in enumerate(names) if name in SMALL_CLASSES]
    if len(names) == 10 and small == [8, 9]:
        return
    if test_cfg.get("pointwise_classes") is None:
        test_cfg["pointwise_classes"] = small
    if test_cfg.get("nms_radius") is None:
        test_cfg["nms_radius"] = [SMALL_RADIUS if c in small else -1.0 for c in range(len(names))]


def load(
    path: str | Path,
    options: Mapping[str, Any] | None = None,
    host: hosts.Prepare | None = None,
) -> Config:
    """Read a config file and merge ``--cfg-options`` into it.

    Every key of a config is checked, unless its classes are those of mmdetection3d.

    Args:
        path: mmengine Python config; ``mmdet3d::FOLDER/FILE.py`` is one of an installed package.
        options: dotted keys to values.
        host: makes mmdetection3d ready, where the caller can run its models.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file; an unknown key, in the file or among the options; a
            config of mmdetection3d that the caller cannot run.
        MachineError: a config of mmdetection3d, which is not installed or cannot be patched.
    """
    path = hosts.installed_config(str(path))
    if not Path(path).is_file():
        raise FileNotFoundError(f"config: no file {path}; see configs/ for those that ship")
    if Path(path).suffix not in _SUFFIXES:
        raise ValueError(f"config: {path} must end in one of {', '.join(_SUFFIXES)}")
    config = Config.fromfile(path, import_custom_modules=False)
    for key in options or {}:
        first = key.split(".")[0]
        if first not in config and first not in TOP_LEVEL:
            raise ValueError(
                f"config: --cfg-options must name keys of {path}, got {key!r}"
                f"{suggestion(first, TOP_LEVEL | set(config))}"
            )
    if options:
        config.merge_from_dict(dict(options))
    config.setdefault("default_scope", registry.SCOPE)
    if hosts.is_host(config):
        hosts.make_ready(config, host)
        return config
    if imports := config.get("custom_imports"):
        import_modules_from_strings(**imports)
    check(config)
    _name_small_classes(config)
    return config
