"""How a job began and ended, in its status.json."""

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from mmengine.runner import BaseLoop

from anybev.engine.stopping import Stopped, ends_with_a_word
from anybev.reporting.status import STATUS_FILE, append_status

_STOPPED = {
    "train": "no step was under way, --resume goes on from the newest checkpoint",
    "evaluate": "the evaluation is not finished",
}
# Where each launcher tells a process its rank and the number of processes.
_PLACES = {
    "pytorch": ("RANK", "WORLD_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}


def place(launcher: str) -> tuple[int, int]:
    """Rank and number of processes, known before and after there is a process group."""
    rank, size = _PLACES.get(launcher, ("", ""))
    return _number(rank, 0), _number(size, 1)


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "") if variable else ""
    return int(text) if text.isdigit() else default


def one_line(error: BaseException) -> str:
    """An error's kind and text."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; training goes on with --resume"
    if isinstance(error, Stopped):
        return f"{error.signal_name}: {error.text}"
    if isinstance(error, SystemExit):
        return f"stopped with exit status {error.code}"
    return f"{type(error).__name__}: {error}".rstrip(": ")


def progress(runner: Any) -> dict[str, int]:
    """Epoch at hand, steps done and steps of all of a training; empty without one."""
    loop = getattr(runner, "_train_loop", None)  # asking for train_loop would build it
    if not isinstance(loop, BaseLoop):
        return {}
    epoch = min(loop.epoch + 1, loop.max_epochs)
    return {"epoch": epoch, "step": loop.iter, "steps": loop.max_iters}


class JobEvents:
    """Context around a job: ``STARTED``, then ``SUCCESS`` or ``FAILURE``.

    The first process tells of the beginning and of success; of failure whichever process fails.
    ``StatusHook`` tells of what lies between.

    Args:
        work_dir: of the job.
        kind: ``train`` or ``evaluate``.
        launcher: of the config.
        message: what is done, for people.

    Attributes:
        runner: set it when there is one; the end tells how far its training came.
        kpi: set it to what the job measured; ``SUCCESS`` carries it.
    """

    def __init__(self, work_dir: Path | str, kind: str, launcher: str, message: str) -> None:
        self.path = Path(work_dir) / STATUS_FILE
        self.kind, self.message = kind, message
        self.rank, self.world_size = place(launcher)
        self.runner: Any = None
        self.kpi: Mapping[str, Any] = {}
        self._alone = launcher == "none"
        self._stopping = ExitStack()

    def __enter__(self) -> "JobEvents":
        if self.rank == 0:
            self._append("STARTED", self.message)
        if self._alone:  # others may hang in a collective, and must end at once
            self._stopping.enter_context(ends_with_a_word(_STOPPED[self.kind]))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.close()
        if error is None or (isinstance(error, SystemExit) and not error.code):
            if self.rank == 0:
                self._append("SUCCESS", f"{self.message}: done")
            return
        if isinstance(error, Stopped) and self.rank:
            return  # all of them stop at the same step
        try:
            self._append("FAILURE", one_line(error))
        except OSError as second:  # the first error is the one to see
            print(f"{self.path}: could not say so there: {second}", file=sys.stderr)

    def _append(self, status: str, message: str) -> None:
        append_status(
            self.path,
            status=status,
            kind=self.kind,
            message=message,
            kpi=self.kpi,
            rank=self.rank,
            world_size=self.world_size,
            **progress(self.runner),
        )
