"""Processes of earlier jobs that still run: named, never killed."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anybev.engine.job import nodes

# Programs whose children are ranks.
_AGENTS = ("torchrun", "torch.distributed.run", "torch.distributed.launch", nodes.MODULE)
_PROC = Path("/proc")
_NODE_RANK = re.compile(rb"(?:^|\0)GROUP_RANK=(\d+)")
_AGENT_RANK = re.compile(r"--rdzv-conf=(?:.*,)?rank=(\d+)")


@dataclass(frozen=True)
class Leftover:
    """A process of an earlier job.

    Attributes:
        pid: of the process.
        same_work_dir: it writes where the new job would.
        command: its command line, cut short.
    """

    pid: int
    same_work_dir: bool
    command: str

    def __str__(self) -> str:
        why = (
            "an earlier job still trains into this work directory"
            if self.same_work_dir
            else "a training process lost its job and still runs"
        )
        return f"{why}: process {self.pid} ({self.command}); end it: kill {self.pid}"


def find(work_dir: Path | None, node_rank: int = 0) -> list[Leftover]:
    """Trainings of earlier jobs on this host, as far as this user may see.

    Args:
        work_dir: of the new job.
        node_rank: of this node: other nodes of one job may share a host.
    """
    wanted = work_dir.resolve() if work_dir else None
    found = []
    for pid in _others():
        try:
            words = _read(pid, "cmdline").decode(errors="replace").split("\0")
            if not any(Path(word).name == "train.py" for word in words):
                continue
            if _node(pid, words) not in (None, node_rank):
                continue
            same = wanted is not None and _work_dir(pid, words) == wanted
            if same or _is_orphan(pid):
                found.append(Leftover(pid, same, " ".join(words).strip()[:200]))
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return found


def _read(pid: int, name: str) -> bytes:
    return (_PROC / str(pid) / name).read_bytes()


def _others() -> Iterator[int]:
    """Processes but this one and those it was started by."""
    own, pid = set(), os.getpid()
    while pid > 0 and pid not in own:
        own.add(pid)
        pid = _parent(pid)
    if _PROC.is_dir():
        pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
        yield from (pid for pid in pids if pid not in own)


def _parent(pid: int) -> int:
    try:
        status = _read(pid, "stat").decode(errors="replace")
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])  # the name before may hold anything


def _work_dir(pid: int, words: Sequence[str]) -> Path | None:
    for index, word in enumerate(words):
        flag, _, value = word.partition("=")
        if flag == "--work-dir":
            value = value or (words[index + 1] if index + 1 < len(words) else "")
            return (Path(os.readlink(_PROC / str(pid) / "cwd")) / value).resolve()
    return None


def _node(pid: int, words: Sequence[str]) -> int | None:
    """Node rank of a worker or of torchrun; None for a training without either."""
    for word in words:
        if match := _AGENT_RANK.search(word):
            return int(match.group(1))
    match_bytes = _NODE_RANK.search(_read(pid, "environ"))
    return int(match_bytes.group(1)) if match_bytes else None


def _is_orphan(pid: int) -> bool:
    """Whether torchrun started it and is gone: whoever adopted it is neither one nor a training.

    Workers of data loaders look like the training that forked them.
    """
    if b"TORCHELASTIC_RUN_ID=" not in _read(pid, "environ"):
        return False
    words = _read(_parent(pid), "cmdline").decode(errors="replace").split("\0")
    return not any(Path(word).name in ("train.py", *_AGENTS) for word in words)
