"""The one address where the nodes of a job meet, and the store that listens there."""

import contextlib
import datetime
import errno
import os
import socket
import threading
import time
from dataclasses import dataclass

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

from anybev import envs
from anybev.engine.job.interfaces import interfaces

_TRY_S = 5.0  # one attempt to connect; several fit in the time limit


@dataclass(frozen=True)
class Meeting:
    """Who meets where.

    Attributes:
        address: numeric IP address of node 0, on which alone it listens.
        port: TCP port; nodes other than 0 must use node 0's.
        node_rank: this node, 0 to ``nnodes - 1``.
        nnodes: nodes of the job.
        timeout_s: seconds within which all nodes must have joined.
        max_restarts: how often the job may start again, whichever node fails.
    """

    address: str
    port: int
    node_rank: int
    nnodes: int
    timeout_s: float
    max_restarts: int = 0

    @property
    def place(self) -> str:
        """Address and port as one reads them."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


def listening_socket(address: str, port: int) -> socket.socket:
    """A socket that listens on one address.

    Raises:
        MachineError: the address is not this host's, or the port is in use.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            own = ", ".join(sorted({found.address for found in interfaces()}))
            raise envs.MachineError(
                f"node 0: --master-addr must be an address of this host, got {address} (this host "
                f"has {own}); try one of them, or --node-rank 1 if this is not the first node"
            ) from error
        if error.errno == errno.EADDRINUSE:
            raise envs.MachineError(
                f"node 0: --port must be a free port of {address}, got {port}, which is in use; "
                "try another, the same on every node"
            ) from error
        raise
    return listener


def serve(address: str, port: int, timeout_s: float) -> TCPStore:
    """A store that listens on one address; torch's own would listen on all.

    Args:
        address: of this host.
        port: to listen on; 0 takes a free one.
        timeout_s: seconds that an operation of the store may take.

    Raises:
        MachineError: the address is not this host's, or the port is in use.
    """
    with listening_socket(address, port) as listener:
        return TCPStore(
            address,
            listener.getsockname()[1],
            is_master=True,
            wait_for_workers=False,
            timeout=datetime.timedelta(seconds=timeout_s),
            master_listen_fd=os.dup(listener.fileno()),  # the store closes its own
        )


def _why(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there; is node 0 started, with the same --port?"
    if isinstance(error, TimeoutError):
        return "no answer: wrong address, host down, or a firewall drops the packets"
    return (error.strerror or str(error)).lower()


def _store_of(meeting: Meeting, limit_s: float) -> TCPStore | None:
    """A client of the store at the meeting's place; None where no store answers in time."""
    made: list[TCPStore] = []

    def make() -> None:
        limit = datetime.timedelta(seconds=limit_s)
        # A refusal is an answer too: nothing was made.
        with contextlib.suppress(DistError):
            made.append(TCPStore(meeting.address, meeting.port, is_master=False, timeout=limit))

    # torch waits without limit for a greeting, which another program never sends.
    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(limit_s)
    if not made:
        return None
    made[0].set_timeout(datetime.timedelta(seconds=meeting.timeout_s))
    return made[0]


def connect(meeting: Meeting, deadline: float) -> TCPStore:
    """The store of node 0, as soon as it listens.

    Args:
        meeting: who meets where.
        deadline: on the monotonic clock, in seconds.

    Raises:
        MachineError: it cannot be reached in time; the message says where and why.
    """
    reason = "no time left"
    while (left := deadline - time.monotonic()) > 0:
        try:
            socket.create_connection((meeting.address, meeting.port), min(left, _TRY_S)).close()
        except OSError as error:
            reason = _why(error)
            time.sleep(max(0.0, min(0.5, deadline - time.monotonic())))
            continue
        # At least a second: who listens may be a store, and as slow as a busy host.
        store = _store_of(meeting, max(1.0, deadline - time.monotonic()))
        if store is not None:
            return store
        reason = "another program listens there; is --port node 0's?"
    raise envs.MachineError(
        f"node {meeting.node_rank}: could not reach node 0 at {meeting.place} within "
        f"{meeting.timeout_s:g} s ({reason})"
    )
