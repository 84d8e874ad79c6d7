"""Numbers of every kind to JSON files that a reader sees whole; the events of a job as lines."""

import json
import math
import os
import socket
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from anybev import files

#: Name of the file of events in a work directory.
STATUS_FILE = "status.json"
#: Seconds without an event after which a job on another host counts as dead.
SILENT_AFTER_S = 600.0
STATES = ("STARTED", "RUNNING", "SUCCESS", "FAILURE")
KINDS = ("train", "evaluate", "launch")
_MAX_MESSAGE_CHARACTERS = 2000


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


def append_status(
    path: Path | str,
    *,
    status: str,
    kind: str,
    message: str,
    epoch: int = 0,
    step: int = 0,
    steps: int = 0,
    eta_s: float | None = None,
    kpi: Mapping[str, Any] | None = None,
    rank: int = 0,
    world_size: int = 1,
    pid: int | None = None,
) -> None:
    """Add one event to a ``status.json``: a whole line, in one write, on the disk on return.

    Readers and other writers never see half of it. After a crash in the middle of an older line
    the new one starts on a line of its own.

    Args:
        path: the file; its folder is made when missing.
        status: ``STARTED``, ``RUNNING``, ``SUCCESS`` or ``FAILURE``.
        kind: ``train``, ``evaluate`` or ``launch``.
        message: for people; line breaks become spaces, and it is cut at 2,000 characters.
        epoch: at hand, counted from 1.
        step: done so far.
        steps: of the whole job.
        eta_s: seconds until the end, None where not known.
        kpi: numbers of the moment.
        rank: of the process that the event is about.
        world_size: number of processes.
        pid: of that process; this process's when None.

    Raises:
        ValueError: an unknown status or kind.
        OSError: the line could not be written, for example because the disk is full.
    """
    for name, value, known in (("status", status, STATES), ("kind", kind, KINDS)):
        if value not in known:
            raise ValueError(f"status: {name} must be one of {', '.join(known)}, got {value!r}")
    event = {
        "time": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "status": status,
        "kind": kind,
        "message": " ".join(message.split())[:_MAX_MESSAGE_CHARACTERS],
        "epoch": epoch,
        "step": step,
        "steps": steps,
        "eta_s": eta_s,
        "kpi": dict(kpi or {}),
        "host": socket.gethostname(),
        "pid": os.getpid() if pid is None else pid,
        "rank": rank,
        "world_size": world_size,
    }
    files.append_line(Path(path), json.dumps(plain(event), allow_nan=False))


def read_status(path: Path | str) -> tuple[list[dict[str, Any]], list[str]]:
    """The events of a ``status.json``, oldest first, and notes about lines that are none.

    A process that dies while it writes leaves half a line: it is left out and noted.

    Raises:
        FileNotFoundError: there is no such file.
    """
    events: list[dict[str, Any]] = []
    notes: list[str] = []
    path = Path(path)
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # also bytes that are no text
            event = None
        if isinstance(event, dict) and event.get("status") in STATES:
            events.append(event)
        else:
            notes.append(f"{path.name}, line {number} is no whole event and was left out")
    return events, notes
