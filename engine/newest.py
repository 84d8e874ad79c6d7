"""Which checkpoint of a work directory a resumed run continues from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anybev.engine import checkpoint
from anybev.files import named_in

POINTER = "last_checkpoint"
#: What a run that was told to stop inside an epoch leaves, where checkpoints come by epochs.
STOPPED = "stopped.pth"
#: In a checkpoint's ``meta``: when the job began that wrote it.
JOB_STARTED = "job_started_s"
_NAME = re.compile(r"(?:(?:epoch|iter)_\d+|stopped)\.pth")


@dataclass(frozen=True)
class Found:
    """The checkpoint to continue from.

    Attributes:
        path: its file.
        content: what ``checkpoint.read`` gives.
        refused: why newer ones were passed over, one text each.
    """

    path: Path
    content: dict[str, Any]
    refused: tuple[str, ...] = field(default=())


def candidates(folder: Path) -> list[Path]:
    """Checkpoints of ``folder`` that training wrote, newest first.

    The one that ``last_checkpoint`` names comes first, wherever the folder was moved to; the rest
    follow by the time they were written.

    Args:
        folder: work directory.
    """
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_file()]
    files.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    pointer = folder / POINTER
    if pointer.is_file():
        named, found = named_in(pointer)
        first = [found] if found else []
        files = first + [path for path in files if path not in (*first, folder / named.name)]
    return files


def read_resumable(path: Path) -> dict[str, Any]:
    """Read a checkpoint that a run can be continued from.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or holds weights without the state of a training.
    """
    content = checkpoint.read(path)
    _check_resumable(path, content)
    return content


def _check_resumable(path: Path, content: Mapping[str, Any]) -> None:
    state, meta = content["state"], content["meta"]
    if not isinstance(state, Mapping) or "sampler" not in state or "optimizer" not in state:
        raise ValueError(
            f"resume: {path} must hold the optimizer and the position in the epoch, got a "
            "checkpoint with weights only; try load_from"
        )
    for name in ("epoch", "iter"):
        if not isinstance(meta.get(name), int):
            raise ValueError(
                f"resume: {path} must tell its {name} as a number, got {meta.get(name)!r}"
            )


def newest_good(folder: Path, job_started_s: float | None = None) -> Found | None:
    """The newest checkpoint of ``folder`` that can be read whole; None where there is none.

    Args:
        folder: work directory.
        job_started_s: only what the job wrote that started then counts, by its own word: the clock
            of a file server may be another.

    Raises:
        ValueError: there are some, and none of them can be read: to start anew is the user's to
            choose.
    """
    refused: list[str] = []
    for path in candidates(folder):
        try:
            content = checkpoint.read(path)
            if job_started_s is not None and content["meta"].get(JOB_STARTED) != job_started_s:
                continue
            _check_resumable(path, content)
            return Found(path, content, tuple(refused))
        except (ValueError, FileNotFoundError) as error:
            refused.append(str(error))
    if refused:
        raise ValueError(
            f"resume: {folder} must hold a whole checkpoint, got {len(refused)} that cannot be "
            f"read: {'; '.join(refused)}; move them away to start anew"
        )
    return None
