"""How a job stands, from its run folder alone: running, finished, failed or dead."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from anybev.files import named_in
from anybev.reporting.run import number
from anybev.reporting.status import SILENT_AFTER_S, STATUS_FILE, read_status

RUNNING, FINISHED, FAILED, DIED = "running", "finished", "failed", "died"
_TAIL_LINES = 12
_MAX_TAIL_BYTES = 65_536
_KILLED = " was killed by SIG"
_QUANTITIES = ("data_time", "time", "memory")

Event = Mapping[str, Any]


@dataclass(frozen=True)
class JobStatus:
    """One job of a run folder: the newest start of it.

    Attributes:
        path: the folder.
        state: ``running``, ``finished``, ``failed`` or ``died`` (gone without a word).
        detail: the state in words: what the process does, or why it ended.
        kind: ``train``, ``evaluate`` or ``launch``.
        started, last_event: ISO 8601 with zone.
        silent_s: seconds since the newest event.
        host, pid: of the first process.
        world_size: number of processes.
        starts: how often the job was started, restarts included.
        epoch, step, steps: as in the newest event that has them.
        eta_s: seconds left, of a running job where it is known.
        kpi: the newest numbers of training: ``loss``, ``samples_per_s``, ...
        metrics: the newest evaluation's, without those of single classes.
        ranks: one a process: ``rank``, ``data_time`` and ``time`` (s), ``memory`` (MiB).
        checkpoint: the newest one, None without.
        log: the log of the newest start, None without one.
        tail: its last lines, of a job that failed or died.
        notes: what is missing or odd, in words.
    """

    path: Path
    state: str
    detail: str
    kind: str
    started: str
    last_event: str
    silent_s: float
    host: str
    pid: int
    world_size: int
    starts: int = 1
    epoch: int = 0
    step: int = 0
    steps: int = 0
    eta_s: float | None = None
    kpi: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    ranks: Sequence[Mapping[str, Any]] = ()
    checkpoint: Path | None = None
    log: Path | None = None
    tail: Sequence[str] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_well(self) -> bool:
        """Whether it runs, or ended as it should."""
        return self.state in (RUNNING, FINISHED)


def job_status(path: Path, silent_after_s: float = SILENT_AFTER_S) -> JobStatus:
    """How the newest job of a run folder stands.

    Args:
        path: ``--work-dir`` of training or evaluation.
        silent_after_s: a job on another host that was silent for longer counts as dead.

    Raises:
        FileNotFoundError: there is no such folder, or no event in it.
        NotADirectoryError: it is a file.
    """
    if not path.exists():
        raise FileNotFoundError(f"status: RUN must be an existing folder, got {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"status: RUN must be a folder, got the file {path}")
    file = path / STATUS_FILE
    events, notes = read_status(file) if file.is_file() else ([], [])
    if not events:
        raise FileNotFoundError(
            f"status: RUN must hold a {STATUS_FILE} with events, got {path} without; try the "
            "--work-dir of tools/train.py or tools/test.py"
        )
    starts, job, launcher = _newest_job(events)
    first, last = job[0], job[-1]
    silent_s = (datetime.now().astimezone() - _time(last)).total_seconds()
    state, detail = _state(job, launcher, silent_s, silent_after_s)
    if state == RUNNING and silent_s > silent_after_s:
        notes.append(f"no event for {silent_s:.0f} s: the process is there, but it may hang")
    # A launch that has started no process yet has no log: the newest is of the job before.
    start = None if first.get("kind") == "launch" else _newest_start(path)
    log = next(iter(sorted(start.glob("*.log"))), None) if start else None
    checkpoint = _checkpoint(path, notes)
    place: Event = next((e for e in reversed(job) if number(e.get("steps"))), {})
    return JobStatus(
        path=path,
        state=state,
        detail=detail,
        kind=str(first.get("kind")),
        started=str(first.get("time")),
        last_event=str(last.get("time")),
        silent_s=silent_s,
        host=str(first.get("host")),
        pid=int(number(first.get("pid")) or 0),
        world_size=int(number(first.get("world_size")) or 1),
        starts=starts,
        epoch=int(number(place.get("epoch")) or 0),
        step=int(number(place.get("step")) or 0),
        steps=int(number(place.get("steps")) or 0),
        eta_s=number(last.get("eta_s")) if state == RUNNING else None,
        kpi=_newest_kpi(job, "loss"),
        metrics=_scores(events),
        ranks=_ranks(_newest_row(start)) if start and first.get("kind") != "evaluate" else (),
        checkpoint=checkpoint,
        log=log,
        tail=_end_of(log)[-_TAIL_LINES:] if log and state in (FAILED, DIED) else (),
        notes=tuple(notes),
    )


def _newest_job(events: Sequence[Event]) -> tuple[int, list[Event], Event]:
    """How often jobs of this kind began, the events of the newest, and its launcher's first.

    What a launcher says of the end belongs to the job that it launched. Without a launcher the
    last is empty.
    """
    begins = [i for i, event in enumerate(events) if event["status"] == "STARTED"]
    begin = begins[-1] if begins else 0
    kind = events[begin].get("kind")
    starts = sum(1 for i in begins if events[i].get("kind") == kind)
    job = [event for event in events[begin:] if event.get("kind") in (kind, "launch")]
    launches = [events[i] for i in begins if events[i].get("kind") == "launch"]
    return max(starts, 1), job, launches[-1] if launches else {}


def _is_here(event: Event) -> bool:
    """Whether the process that an event is about runs on this host."""
    pid = int(number(event.get("pid")) or 0)
    return event.get("host") == socket.gethostname() and is_alive(pid, _time(event))


def _state(
    job: Sequence[Event], launcher: Event, silent_s: float, silent_after_s: float
) -> tuple[str, str]:
    first, last = job[0], job[-1]
    failures = [event for event in job if event["status"] == "FAILURE"]
    if failures:
        # A killed process tells nothing; the others fail because it is gone.
        of_launcher = [e for e in failures if e.get("kind") == "launch"]
        killed = (e for e in of_launcher if _KILLED in str(e.get("message")))
        told = next(killed, failures[0])
        text = f"rank {told.get('rank')}: {told.get('message')}"
        restarts = number(dict(launcher.get("kpi") or {}).get("max_restarts"))
        if restarts and not of_launcher and _is_here(launcher):
            return RUNNING, f"{text}; its launcher is there and may start it again"
        return FAILED, text
    if any(e["status"] == "SUCCESS" and e.get("kind") == first.get("kind") for e in job):
        return FINISHED, str(last.get("message"))
    host, pid = first.get("host"), int(number(first.get("pid")) or 0)
    if host == socket.gethostname():
        if _is_here(first):
            return RUNNING, str(last.get("message"))
        if _is_here(launcher):  # it is about to tell, or to start the job again
            return RUNNING, f"process {pid} is gone, its launcher is there"
        return DIED, f"process {pid} is gone and left no word; it was {last.get('message')}"
    if silent_s <= silent_after_s:
        return RUNNING, f"{last.get('message')} (on {host}, {silent_s:.0f} s ago)"
    return DIED, f"no event from {host} for {silent_s:.0f} s; it was {last.get('message')}"


def is_alive(pid: int, since: datetime) -> bool:
    """Whether a process of this machine still runs, and not another one of the same number.

    Args:
        pid: its number.
        since: a time at which it was there: a younger process is another one.
    """
    if pid <= 0:
        return False
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            boot = next(
                int(line.split()[1])
                for line in Path("/proc/stat").read_text().splitlines()
                if line.startswith("btime ")
            )
        except (FileNotFoundError, ProcessLookupError):
            return False
        began_s = boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")
        # btime is in whole seconds, and clocks are set now and then.
        return fields[0] not in "ZX" and began_s <= since.timestamp() + 5
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _time(event: Event) -> datetime:
    try:
        return datetime.fromisoformat(str(event.get("time"))).astimezone()
    except ValueError:
        return datetime.fromtimestamp(0).astimezone()


def _newest_kpi(job: Sequence[Event], key: str) -> dict[str, Any]:
    found = (event["kpi"] for event in reversed(job) if isinstance(event.get("kpi"), dict))
    return next((dict(kpi) for kpi in found if key in kpi), {})


def _scores(events: Sequence[Event]) -> dict[str, Any]:
    """Of the newest evaluation, also an earlier start's."""
    return {k: v for k, v in _newest_kpi(events, "NDS").items() if "/" not in k}


def _newest_start(path: Path) -> Path | None:
    """The folder of the newest single start: their names are their times."""
    starts = (folder for folder in path.iterdir() if folder.is_dir() and folder.name[:8].isdigit())
    return max(starts, key=lambda folder: folder.name, default=None)


def _newest_row(start: Path) -> dict[str, Any]:
    """The newest whole row of training in scalars.json."""
    file = start / "vis_data" / "scalars.json"
    for line in reversed(_end_of(file) if file.is_file() else []):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # half a line: it is written right now, or a crash
            continue
        if isinstance(row, dict) and "loss" in row:
            return row
    return {}


def _ranks(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each process measured at the newest logged step."""
    found = {
        int(key.partition("/rank")[2])
        for key in row
        if key.startswith("time/rank") and key.partition("/rank")[2].isdigit()
    }
    if not found and "time" in row:
        return [{"rank": 0, **{name: row.get(name) for name in _QUANTITIES}}]
    return [
        {"rank": rank, **{name: row.get(f"{name}/rank{rank}") for name in _QUANTITIES}}
        for rank in sorted(found)
    ]


def _checkpoint(path: Path, notes: list[str]) -> Path | None:
    pointer = path / "last_checkpoint"
    if not pointer.is_file():
        return None
    named, found = named_in(pointer)
    if found is None:
        notes.append(f"last_checkpoint names {named}, which is not there")
    return found


def _end_of(file: Path) -> list[str]:
    """The last lines that are not empty; of a long file as many as fit."""
    with file.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - _MAX_TAIL_BYTES))
        text = stream.read().decode("utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()]
