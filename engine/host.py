"""mmdetection3d's own models and data sets, started by AnyBEV's tools.

The host itself is not imported here: who starts a tool hands over the function that makes it ready,
``anybev.patches.apply``.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.utils import import_modules_from_strings
from torch import nn

from anybev.engine.hooks import LastMetricsHook, RunFactsHook, StatusHook, ThroughputHook
from anybev.engine.launched import LaunchedRunner
from anybev.engine.registry import RUNNERS
from anybev.engine.safe_load import Placeholder, load_untrusted

#: ``default_scope`` of configs whose classes are the host's.
SCOPES = ("mmdet3d",)
#: What ``--task`` says of a config whose results are drawn.
TASKS = ("mono_det", "multi-view_det", "lidar_det", "lidar_seg", "multi-modality_det")
#: Makes the host ready to be imported.
Prepare = Callable[[], object]
_LISTED = 12


def installed_config(path: str) -> str:
    """``PACKAGE::FOLDER/FILE`` to the file of an installed package's configs; others as they are.

    Raises:
        FileNotFoundError: the package is not installed or has no such config.
    """
    package, mark, name = path.partition("::")
    if not mark:
        return path
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"config: {path} must name an installed package, got {package!r}")
    folder = Path(found.submodule_search_locations[0])
    # An editable installation has its configs beside the package.
    for place in (folder / ".mim" / "configs", folder.parent / "configs"):
        if (place / name).is_file():
            return str(place / name)
    raise FileNotFoundError(f"config: {path} must be among the configs of {folder}, got no {name}")


def is_host(config: Mapping[str, Any]) -> bool:
    """Whether a config's classes are the host's."""
    return config.get("default_scope") in SCOPES


def make_ready(config: Config, host: Prepare | None) -> None:
    """Have the host patched, then import what the config asks for.

    A checkout's ``projects`` are found from the current folder too, as from its own tools.

    Raises:
        ValueError: whoever reads the config cannot run a host's model, or the config starts
            workers that would come up without the patches.
        MachineError: the host is not installed, or cannot be patched.
    """
    if host is None:
        raise ValueError(
            f"config: {config.filename} describes a model of mmdetection3d itself, which "
            "tools/train.py and tools/test.py run, and no other command"
        )
    method = config.get("env_cfg", {}).get("mp_cfg", {}).get("mp_start_method", "fork")
    if method != "fork":
        raise ValueError(
            "config: env_cfg.mp_cfg.mp_start_method must be fork with a model of mmdetection3d, "
            f"got {method!r}: other processes start without the patches"
        )
    host()
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    if imports := config.get("custom_imports"):
        import_modules_from_strings(**imports)
    # Each process keeps its own running statistics, as with mmengine's runner.
    config.setdefault("ddp", {"broadcast_buffers": False})


def show(config: Config, folder: str, score_threshold: float, task: str | None) -> None:
    """Have the host draw what it finds.

    Args:
        config: of a host's model.
        folder: for the pictures, below the log's.
        score_threshold: least score of a box that is drawn.
        task: one of ``TASKS``.

    Raises:
        ValueError: no task, or the config has no hook that draws.
    """
    if task is None:
        raise ValueError(f"test: --show-dir needs --task {'|'.join(TASKS)} with this config")
    hook = config.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise ValueError("test: --show-dir needs default_hooks.visualization in the config")
    hook.update(draw=True, test_out_dir=folder, vis_task=task, score_thr=score_threshold)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of mmdetection3d's test.py that only its own models have."""
    parser.add_argument("--task", choices=TASKS, help="what --show-dir draws of a host's model")


def _history(value: Any) -> Any:
    """Turn the placeholder of a restricted load into a log history of mmengine."""
    if not isinstance(value, Placeholder) or not isinstance(value.state, dict):
        return value
    state = value.state
    return HistoryBuffer(
        state.get("_log_history", ()),
        state.get("_count_history", ()),
        state.get("max_length", 1000000),
    )


def read_checkpoint(filename: str, map_location: Any = "cpu") -> Any:
    """A checkpoint of the host, read without running code that it carries.

    Args:
        filename: local file.
        map_location: device of the tensors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or would have to run code.
    """
    content = load_untrusted(Path(filename).expanduser(), map_location)
    hub = content.get("message_hub") if isinstance(content, dict) else None
    if isinstance(hub, dict):
        hub["log_scalars"] = {k: _history(v) for k, v in hub.get("log_scalars", {}).items()}
        facts = hub.get("runtime_info", {})
        hub["runtime_info"] = {k: v for k, v in facts.items() if not isinstance(v, Placeholder)}
    return content


@contextmanager
def reads_safely() -> Iterator[None]:
    """Inside the block mmengine reads local checkpoint files by ``read_checkpoint``.

    Its own reader runs the code of a file that torch's weights-only loader refuses.
    """
    before = CheckpointLoader._schemes[""]
    CheckpointLoader.register_scheme("", read_checkpoint, force=True)
    try:
        yield
    finally:
        CheckpointLoader.register_scheme("", before, force=True)


def unfilled(model: nn.Module, weights: Mapping[str, Any]) -> list[str]:
    """Keys of a model that weights do not fill.

    Args:
        model: bare, out of every wrapper.
        weights: a checkpoint's ``state_dict``. Sparse convolutions have several layouts of one
            size, so that only sizes are compared.
    """
    found = {key.removeprefix("module."): value for key, value in weights.items()}
    return [
        key
        for key, own in model.state_dict().items()
        if isinstance(own, torch.Tensor)
        and not key.endswith("num_batches_tracked")
        and (key not in found or found[key].numel() != own.numel())
    ]


def _bare(model: Any) -> nn.Module:
    bare: nn.Module = getattr(model, "module", model)
    return bare


class HostRunner(LaunchedRunner):
    """Drives a model of mmdetection3d; see ``mmengine.runner.Runner`` for the arguments.

    What differs from mmdetection3d's tools: several processes also without an accelerator; status,
    environment and speed are written down as for AnyBEV's models; checkpoints are read without
    running code they carry; evaluation refuses one that does not fill the model.
    """

    _evaluates = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for hook in (LastMetricsHook(), RunFactsHook(), ThroughputHook(), StatusHook()):
            self.register_hook(hook)

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        with super()._named_failures(), reads_safely():
            yield

    def test(self) -> dict[str, float]:
        """As mmengine's.

        Raises:
            ValueError: the checkpoint does not fill the model.
        """
        self._evaluates = True
        return super().test()

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As mmengine's; to be evaluated, a model must be filled whole.

        Raises:
            ValueError: the checkpoint lacks weights; the message lists their keys.
        """
        content: dict[str, Any] = super().load_checkpoint(filename, *args, **kwargs)
        if self._evaluates:
            lacking = unfilled(_bare(self.model), content.get("state_dict", content))
            if lacking:
                more = f" and {len(lacking) - _LISTED} more" if len(lacking) > _LISTED else ""
                raise ValueError(
                    f"checkpoint: {filename} must fill the model, got no fitting weights for "
                    f"{', '.join(lacking[:_LISTED])}{more}"
                )
        return content


def build_runner(config: Config) -> Any:
    """The runner of a host's config, its own where it names one."""
    return RUNNERS.build(config) if "runner_type" in config else HostRunner.from_cfg(config)
