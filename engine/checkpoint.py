"""Checkpoints: written whole, read without running code they carry, loaded whole or not at all."""

import errno
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import anybev
from anybev.engine.safe_load import UnsafeCheckpointError, load_untrusted
from anybev.engine.weights import CheckpointMismatchError, LoadReport, fill
from anybev.envs import MachineError
from anybev.files import whole_file

__all__ = [
    "CheckpointMismatchError",
    "LoadReport",
    "UnsafeCheckpointError",
    "fill",
    "load_into",
    "read",
    "save",
]

_PLAIN = (str, bytes, int, float, bool, type(None), torch.dtype, torch.device)


def _plain(value: Any, where: str) -> Any:
    """``value`` as containers, numbers, text and CPU tensors: what any weights-only reader takes.

    Raises:
        TypeError: something else is in it; the message says where.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {_plain(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(
        f"save: {where} must be tensors, numbers, text or containers of them, got "
        f"{type(value).__name__}; try torch.from_numpy or a plain dict"
    )


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MIB = 2**20


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_tensor_bytes, value.values()))
    return sum(map(_tensor_bytes, value)) if isinstance(value, (list, tuple)) else 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def disk_full(error: BaseException) -> OSError | None:
    """The error of a full disk, quota or file size limit behind ``error``, if that is what it is.

    torch's writer hides it behind an error about positions in the file.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return cause
    return None


@contextmanager
def name_full_disk(folder: Path) -> Iterator[None]:
    """Around a training or evaluation: a log or table without space ends in a clear error too.

    Args:
        folder: work directory, whose free space the message tells.

    Raises:
        MachineError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(folder).free / _MIB
        raise MachineError(
            f"run: {folder} must have space for logs and checkpoints, got {error.strerror!r} "
            f"({error.filename or 'file not told'}) with {free:.1f} MiB free; try --resume when "
            "there is room"
        ) from error


def save(
    path: Path | str,
    weights: nn.Module | Mapping[str, Tensor],
    *,
    meta: Mapping[str, Any] | None = None,
    config: str = "",
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint that any ``torch.load(weights_only=True)`` can read.

    The file appears under its name only when it is complete. It has mmengine's layout: ``meta``
    (epoch, iter, ``cfg``, versions, time), ``state_dict``, and ``state`` for what a resumed run
    needs besides the weights.

    Args:
        path: file to write; its folder is made when missing.
        weights: a model whose ``state_dict`` is kept, or a state dict.
        meta: facts of the run: ``epoch``, ``iter``, ``seed`` ...
        config: text of the whole config.
        state: optimizer, schedulers, random generators, position of the sampler.

    Raises:
        TypeError: ``meta`` or ``state`` holds something else than plain data.
        MachineError: the disk is full; an older file of that name stays as it was.
    """
    path = Path(path)
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    versions = {
        "anybev": anybev.__version__,
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    content = {
        "meta": {
            "cfg": config,
            "versions": versions,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **_plain(meta or {}, "meta"),
        },
        "state_dict": _plain(tensors, "state_dict"),
        "state": _plain(state or {}, "state"),
    }
    try:
        with whole_file(path, durable=True) as stream:
            torch.save(content, stream)
    except (OSError, RuntimeError) as error:
        full = disk_full(error)
        if full is None:
            raise
        free, needed = shutil.disk_usage(path.parent).free, _tensor_bytes(content)
        raise MachineError(
            f"save: {path} must find {needed / _MIB:.1f} MiB of space, got {full.strerror!r} with "
            f"{free / _MIB:.1f} MiB free; what was saved before is untouched: try --resume when "
            "there is room"
        ) from error


def read(path: Path | str, *, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint of ours, of mmengine, or a bare state dict.

    Args:
        path: file that ``torch.save`` wrote.
        map_location: device of the tensors.

    Returns:
        At least ``state_dict`` (key -> tensor), ``meta`` and ``state``; whatever else the file
        holds stays under its key. Objects of OpenMMLab's classes come as placeholders.

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpointError: the file names code that would have to run.
        ValueError: the file is damaged, or holds no weights.
    """
    path = Path(path)
    content = load_untrusted(path, map_location)
    if not isinstance(content, Mapping):
        raise ValueError(f"read: {path} must hold a dict, got {type(content).__name__}")
    if content and all(isinstance(value, Tensor) for value in content.values()):
        content = {"state_dict": content}
    elif "state_dict" not in content and isinstance(content.get("model"), Mapping):
        content = {**content, "state_dict": content["model"]}
    weights = content.get("state_dict")
    if not isinstance(weights, Mapping):
        keys = ", ".join(sorted(map(str, content)))
        raise ValueError(
            f"read: {path} must hold weights under state_dict, got {keys or 'nothing'}"
        )
    odd = [key for key, value in weights.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(
            f"read: state_dict of {path} must hold tensors alone, got "
            f"{type(weights[odd[0]]).__name__} under {odd[0]!r}"
        )
    return {"meta": {}, "state": {}, **content, "state_dict": dict(weights)}


def load_into(
    model: nn.Module,
    path: Path | str,
    *,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    may_lack: Sequence[str] = (),
    sparse_layout: str | None = None,
) -> LoadReport:
    """Fill a model from a checkpoint file, or fail with the keys that do not fit.

    Args:
        model: what to fill; unchanged when an error is raised.
        path: checkpoint of ours, of mmengine, or a bare state dict.
        allow_missing: patterns (``img_*``) of the model's keys that may be absent.
        allow_unexpected: patterns of the file's keys that may be left over.
        may_lack: parts of the model (``img_backbone``) that may be absent as a whole.
        sparse_layout: ``krsc``, ``rsck`` or ``rskc`` where the shapes do not tell.

    Returns:
        What was loaded, converted and left.

    Raises:
        CheckpointMismatchError: keys or shapes differ; the message lists them.
        FileNotFoundError, UnsafeCheckpointError, ValueError: see ``read`` and ``fill``.
    """
    return fill(
        model,
        read(path)["state_dict"],
        path,
        allow_missing=allow_missing,
        allow_unexpected=allow_unexpected,
        may_lack=may_lack,
        layout=sparse_layout,
    )
