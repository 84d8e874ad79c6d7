"""Signals that end a training, as a scheduler or Ctrl-C sends them, and whom they must not end."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

#: What ends a run after a checkpoint; one that the process was told to ignore (nohup) stays so.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# torchrun and a scheduler may both pass one request on: what comes this soon is the same one.
_SAME_REQUEST_S = 5.0
_PR_SET_PDEATHSIG = 1
_STDERR = 2


class Stopped(SystemExit):
    """A run that a signal ended after its checkpoint; exit status 128 + the signal's number.

    Attributes:
        signal_name: ``SIGTERM`` ...
        text: what was saved.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(128 + number)
        self.signal_name = signal.Signals(number).name
        self.text = text


class StopRequest:
    """Remembers the first stopping signal; a second one ends the process at once.

    Attributes:
        number: of the signal, 0 until one came.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since_s = 0.0
        self._owner = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Take the stopping signals; without effect outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN and number not in self._before:
                self._before[number] = signal.signal(number, self._receive)

    def release(self) -> None:
        """Leave the signals to whoever had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return  # a forked worker: its parent decides
        name = signal.Signals(number).name
        if not self.number:
            self.number, self._since_s = number, time.monotonic()
            _say(f"{name}: this step is finished and saved, then the run ends; again: at once")
        elif time.monotonic() - self._since_s > _SAME_REQUEST_S:
            _say(f"{name} again: ends at once, nothing is saved")
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(128 + number)


@contextlib.contextmanager
def ends_with_a_word(text: str) -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise ``Stopped`` where they would end the process without a word.

    For a process by itself: one that a collective blocks could not act on them. What a
    ``StopRequest`` inside the block takes it gives back here. Without effect outside of the main
    thread.

    Args:
        text: what the end means for the user.
    """
    owner, before = os.getpid(), {}

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker ends as if nothing were set
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Stopped(number, text)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    # print may be what the signal interrupted.
    rank = os.environ.get("RANK")
    # The terminal or the launcher that read this may be gone: the step is saved all the same.
    with contextlib.suppress(OSError):
        os.write(_STDERR, f"{f'rank {rank}: ' if rank else ''}{text}\n".encode())


def end_with_parent(launcher: int | None = None) -> None:
    """Have the kernel send SIGTERM when the parent dies: torchrun killed must leave no orphan.

    Without effect where the kernel is not Linux.

    Args:
        launcher: process that must be the parent or an ancestor; where it is none any more it died
            before the kernel was asked, and the signal comes at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if launcher is not None and not _descends_from(launcher):
        os.kill(os.getpid(), signal.SIGTERM)


def _descends_from(ancestor: int) -> bool:
    """Whether a process is this one's parent, or further up: there may be a script in between."""
    pid = os.getppid()
    while pid > 1 and pid != ancestor:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return pid == ancestor


class ShieldedWorker:
    """Set-up of a data loader's worker process: signals to the whole job leave it running.

    torchrun and terminals signal the workers along with the process that trains, which still needs
    them for its last step. They end when that process ends them, or is gone.

    Args:
        then: the set-up to run besides, with the worker's number.
    """

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self.then = then

    def __call__(self, number: int) -> None:
        """Called in the worker."""
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()
        if self.then is not None:
            self.then(number)


def _obey(parent: int) -> None:
    """End on the parent's SIGTERM, which is how multiprocessing ends its workers; on no other's."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        continue
    os._exit(0)
