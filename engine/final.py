"""Failures that a restart would only repeat: a process of a job tells its launcher."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

from anybev import envs
from anybev.engine.hooks.finite import NonFiniteLossError
from anybev.engine.job.rendezvous import FINAL
from anybev.engine.job_events import one_line
from anybev.engine.stopping import Stopped

_FINAL = (NonFiniteLossError, Stopped, ValueError, TypeError, FileNotFoundError)
_REACH_S = 10.0
_LENGTH = 300


@contextlib.contextmanager
def tells_final_failures() -> Iterator[None]:
    """Around a process of a job: an error that would come again keeps the job from a restart."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, _FINAL) and envs.JOB_ROUND in os.environ:
            _tell(one_line(error).split("\n")[0][:_LENGTH])
        raise


def _tell(words: str) -> None:
    """Leave the words in the store of the round, which node 0's launcher holds."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if not address or not port.isdigit():
        return
    # Where nothing listens the launcher is gone: it restarts nothing.
    with contextlib.suppress(DistError):
        limit = timedelta(seconds=_REACH_S)
        TCPStore(address, int(port), is_master=False, timeout=limit).set(FINAL, words)
