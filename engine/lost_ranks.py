"""Says which process went away or hangs, where torch only says that a connection failed."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from anybev.envs import MachineError

# How long the others may take to notice as well, each at the end of its own time-out.
_ROLL_CALL_S = 8.0
_DEFAULT_TIMEOUT_S = 1800.0
_COLLECTIVE = re.compile(r"gloo|pair closure|ProcessGroup|NCCL|HCCL|process group", re.I)


class LostRankError(MachineError):
    """Another process of the job went away or stopped answering; the message names it."""


def _of_a_collective(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or bool(_COLLECTIVE.search(str(error)))


def _reason(error: RuntimeError) -> str:
    """First line of torch's text, without places in its source."""
    return re.sub(r"\[[^\]]*\.(?:cc|cpp|h):\d+\]\s*", "", str(error).strip()).split("\n")[0][:200]


def _hang_up() -> None:
    """Close this process's connections to the others: those that wait for it fail at once.

    Gloo fails an operation where its own pair is lost and nowhere else, and aborting a group of it
    closes nothing: ranks next to the ones that failed would wait on, and be taken for lost.
    The store's connection stays. Without effect where the kernel is not Linux.
    """
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        return
    place = _store_port()
    for entry in list(descriptors.iterdir()):
        with contextlib.suppress(OSError):  # a listener, or what another thread closed meanwhile
            if os.readlink(entry).startswith("socket:"):
                _shut(int(entry.name), place)


def _shut(descriptor: int, kept_port: int | None) -> None:
    """Shut a connection over the network, unless it is to or from a port."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return
        if kept_port not in (connection.getsockname()[1], connection.getpeername()[1]):
            connection.shutdown(socket.SHUT_RDWR)


def _store_port() -> int | None:
    """Where the job's store listens; None where it is no store of the network."""
    store = _get_default_store()
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    return getattr(store, "port", None)


def _roll_call() -> str:
    """Which ranks do not answer any more, in words.

    By the store, not by a collective: gloo's monitored barrier names a rank that hangs, none that
    was killed.
    """
    store = _get_default_store()
    names = {rank: f"lost_rank/{rank}" for rank in range(dist.get_world_size())}
    try:
        store.set(names[dist.get_rank()], "here")
        store.wait(list(names.values()), timedelta(seconds=_ROLL_CALL_S))
    except RuntimeError:
        try:
            silent = [str(rank) for rank, name in names.items() if not store.check([name])]
        except RuntimeError:  # with one node lost its host goes as well
            return "the job's store is gone, and with it the process that started the job"
        if silent:
            return f"rank {', '.join(silent)} did not answer within {_ROLL_CALL_S:.0f} s"
    return "every rank answers"


@contextmanager
def name_lost_ranks(timeout_s: float | None = None) -> Iterator[dist.ProcessGroup | None]:
    """Around a training: a failed collective becomes an error that names who does not answer.

    Args:
        timeout_s: of the yielded group; torch's half hour when None.

    Yields:
        A group of all processes by gloo, beside the one of the gradients and never on an
        accelerator; None with one process.

    Raises:
        LostRankError: a collective failed or timed out.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield None
        return
    timeout = timedelta(seconds=_DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s)
    hosts = dist.new_group(backend="gloo", timeout=timeout)
    try:
        yield hosts
    except MachineError:  # it says what it is, whatever words it quotes
        raise
    except RuntimeError as error:
        if not _of_a_collective(error):
            raise
        _hang_up()
        raise LostRankError(
            f"rank {dist.get_rank()}: every rank must take part in a step, got {_reason(error)!r}: "
            f"{_roll_call()}; what ended there is in its own lines and in torchrun's last "
            "ones, and --resume goes on from the newest checkpoint"
        ) from error
