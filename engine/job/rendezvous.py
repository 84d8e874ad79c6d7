"""Where the nodes of a job meet: a backend of torchrun with fixed ranks and one named address.

The backends that torchrun brings listen on every address of node 0, number the nodes by their names
and give up without a word about where they tried. This one keeps what users of node scripts expect:
``--node-rank`` is the rank, only the named address listens, whoever cannot join ends in the
time that was set with a message that names address and port, and a failure restarts all nodes
together.
"""

import atexit
import contextlib
import ipaddress
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed import (  # type: ignore[attr-defined]
    DistError,
    PrefixStore,
    Store,
    TCPStore,
)
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)

import anybev
from anybev import envs
from anybev.engine.job.interfaces import resolve
from anybev.engine.job.meeting import Meeting, connect, serve

BACKEND = "anybev"  # torchrun's --rdzv-backend
#: In the store of a round: why another one would fail the same way.
FINAL = "final"
DEFAULT_JOIN_TIMEOUT_S = 600
_POLL_S = 0.1


class NodeRendezvous(RendezvousHandler):
    """All nodes of a job, in rounds: one at the start, one more after each failure.

    Args:
        meeting: who meets where.
        run_id: torchrun's name of the job.
    """

    def __init__(self, meeting: Meeting, run_id: str) -> None:
        self.meeting = meeting
        self._run_id = run_id
        self._name = f"{uuid.uuid4().hex} {socket.gethostname()}, pid {os.getpid()}"
        self._round = 0
        self._store: Store | None = None
        self._server: TCPStore | None = None  # of the workers, of the newest round
        self._has_told = False

    def get_backend(self) -> str:
        """Name of the backend."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """Node 0's agent holds the store that the workers use: they open no port for it."""
        return True

    def get_run_id(self) -> str:
        """Name of the job, as torchrun knows it."""
        return self._run_id

    def is_closed(self) -> bool:
        """Whether a node has ended the job."""
        return bool(self._call("check", ["closed"]))

    def set_closed(self) -> None:
        """Tell the other nodes that the job is over."""
        self._call("set", "closed", f"node {self.meeting.node_rank}")

    def shutdown(self) -> bool:
        """Tell the other nodes; those that wait for this one end at once.

        After a failure, torchrun calls it while that error is under way: then the others end even
        if their processes still run, which would wait in vain for those of this node.
        """
        self._has_told = True
        if self._store is None:
            return True
        try:
            if sys.exc_info()[1] is not None:
                self._tell_failure()
            self.set_closed()
        except envs.MachineError:
            return False  # node 0 is gone: nobody is left to be told
        return True

    def leave(self) -> None:
        """At the end of the process: a signal ends torchrun without a word to the other nodes."""
        if not self._has_told and self._store is not None:
            with contextlib.suppress(envs.MachineError):  # as above
                self._tell_failure()

    def _tell_failure(self) -> None:
        # Of several nodes the first says what began it.
        self._call("compare_set", "failed", "", f"node {self.meeting.node_rank}")

    def num_nodes_waiting(self) -> int:
        """Nodes that wait for a new round: more than none makes torchrun restart the others.

        torchrun asks again and again while its processes run.

        Raises:
            MachineError: another node has ended with a failure, or node 0 is gone.
        """
        self._end_after_failure()
        return int(self._call("add", f"round_{self._round + 1}/joined", 0))

    def next_rendezvous(self) -> RendezvousInfo:
        """Join the next round and wait until every node has.

        Raises:
            ValueError: the node's rank is out of range.
            MachineError: not all nodes joined in time, a rank was given twice, nodes do not fit
                together, the job is over, has failed too often or would fail the same way.
        """
        meeting = self.meeting
        if not 0 <= meeting.node_rank < meeting.nnodes:
            raise ValueError(
                f"job: --node-rank must be 0 to {meeting.nnodes - 1}, got {meeting.node_rank}"
            )
        deadline = time.monotonic() + meeting.timeout_s
        if self._store is None:
            self._store = (
                serve(meeting.address, meeting.port, meeting.timeout_s)
                if meeting.node_rank == 0
                else connect(meeting, deadline)
            )
            self._compare_facts(deadline)
        self._refuse_repetition()
        number = int(self._call("add", "rounds", 0)) + 1
        if number > meeting.max_restarts + 1:
            raise envs.MachineError(
                f"node {meeting.node_rank}: the job has failed {number - 1} times, --max-restarts "
                f"is {meeting.max_restarts}"
            )
        with self._joined(number):
            port = self._open(number, deadline)
        self._round = number
        # torchrun hands its environment to the workers.
        os.environ[envs.JOB_ROUND] = str(number)
        os.environ[envs.JOB_LAUNCHER] = str(os.getpid())
        return RendezvousInfo(
            PrefixStore(f"round_{number}/agents", self._store),
            meeting.node_rank,
            meeting.nnodes,
            RendezvousStoreInfo(meeting.address, port),
        )

    def _end_after_failure(self) -> None:
        """End where another node has ended with a failure: it will not come to a new round."""
        if self._call("check", ["failed"]):
            who = bytes(self._call("get", "failed")).decode()
            raise envs.MachineError(
                f"node {self.meeting.node_rank}: {who} has failed; its messages say why"
            )

    def _refuse_repetition(self) -> None:
        """End where a process of the last round said that another one would fail the same way."""
        if self._server is not None and self._server.check([FINAL]):
            words = bytes(self._server.get(FINAL)).decode(errors="replace")
            raise envs.MachineError(
                f"node {self.meeting.node_rank}: not restarted: it would fail the same way "
                f"({words})"
            )

    def _call(self, name: str, *arguments: object) -> Any:
        """One operation of the store, whose loss is the loss of node 0."""
        try:
            return getattr(self._store, name)(*arguments)
        except DistError as error:
            raise envs.MachineError(
                f"node {self.meeting.node_rank}: lost node 0 at {self.meeting.place}; its messages "
                "say why it ended"
            ) from error

    def _compare_facts(self, deadline: float) -> None:
        """End where nodes were started for different jobs: they would hang, or train nonsense."""
        own = {
            "--nnodes": str(self.meeting.nnodes),
            "torch": torch.__version__.split("+")[0],
            "anybev": anybev.__version__,
        }
        if self.meeting.node_rank == 0:
            self._call("set", "facts", json.dumps(own))
            return
        while not self._call("check", ["facts"]):
            self._pause(deadline, "node 0 listens but tells nothing about its job")
        theirs = json.loads(bytes(self._call("get", "facts")))
        for name, value in own.items():
            if theirs.get(name) != value:
                raise envs.MachineError(
                    f"node {self.meeting.node_rank}: {name} must be the same on every node, got "
                    f"{value} here and {theirs.get(name)} on node 0 ({self.meeting.place})"
                )

    @contextlib.contextmanager
    def _joined(self, number: int) -> Iterator[None]:
        """Be counted in a round; withdrawn again when it does not come about."""
        rank = self.meeting.node_rank
        claim = f"round_{number}/node_{rank}"
        holder = bytes(self._call("compare_set", claim, "", self._name)).decode()
        if holder != self._name:
            raise envs.MachineError(
                f"node {rank}: --node-rank must be another on every node, got {rank}, which "
                f"{holder.partition(' ')[2]} has"
            )
        self._call("add", f"round_{number}/joined", 1)
        complete = False
        try:
            yield
            complete = True
        finally:
            if not complete:
                with contextlib.suppress(envs.MachineError):  # node 0 may be what was lost
                    self._call("add", f"round_{number}/joined", -1)
                    self._call("delete_key", claim)

    def _open(self, number: int, deadline: float) -> int:
        """Wait for every node; the port of the round's store, which node 0 opens."""
        key = f"round_{number}/port"
        if self.meeting.node_rank != 0:
            while not self._call("check", [key]):
                self._pause(deadline, self._missing(number))
            return int(bytes(self._call("get", key)))
        while int(self._call("add", f"round_{number}/joined", 0)) < self.meeting.nnodes:
            self._pause(deadline, self._missing(number))
        # A store of its own for each round: no key of the last one can be taken for this one's.
        self._server = serve(self.meeting.address, 0, self.meeting.timeout_s)
        self._call("add", "rounds", 1)
        self._call("set", key, str(self._server.port))
        return int(self._server.port)

    def _missing(self, number: int) -> str:
        ranks = range(self.meeting.nnodes)
        absent = [r for r in ranks if not self._call("check", [f"round_{number}/node_{r}"])]
        names = ", ".join(map(str, absent)) or "none"
        return f"{len(ranks) - len(absent)} of {len(ranks)} nodes joined, missing: {names}"

    def _pause(self, deadline: float, state: str) -> None:
        """Wait a moment for the others.

        Raises:
            MachineError: the job is over, another node has failed, or the time is up.
        """
        meeting = self.meeting
        self._end_after_failure()
        if self.is_closed():
            who = bytes(self._call("get", "closed")).decode()
            raise envs.MachineError(f"node {meeting.node_rank}: {who} has ended the job")
        if time.monotonic() > deadline:
            raise envs.MachineError(
                f"node {meeting.node_rank}: not all nodes met at {meeting.place} within "
                f"{meeting.timeout_s:g} s ({state})"
            )
        time.sleep(_POLL_S)


def create(parameters: RendezvousParameters) -> NodeRendezvous:
    """The handler that torchrun asks for: ``--rdzv-conf`` holds ``rank`` and limits.

    Raises:
        ValueError: the endpoint has no port, or the rank is missing.
        MachineError: the address cannot be resolved, or no other node could reach it.
    """
    host, _, port = parameters.endpoint.rpartition(":")
    rank = parameters.get_as_int("rank")
    if not host or not port.isdigit() or rank is None:
        raise ValueError(
            "job: --rdzv-endpoint must be ADDRESS:PORT with rank=N in --rdzv-conf, got "
            f"{parameters.endpoint!r} and {parameters.config}"
        )
    host = host.strip("[]")
    address = resolve(host)
    by_name = host not in (address, "localhost")
    if parameters.max_nodes > 1 and by_name and ipaddress.ip_address(address).is_loopback:
        raise envs.MachineError(
            f"node {rank}: --master-addr must be reachable from the other nodes, got {host!r}, "
            f"which is {address} here; try the IP address of node 0's network interface"
        )
    timeout_s = parameters.get_as_int("join_timeout", DEFAULT_JOIN_TIMEOUT_S)
    restarts = parameters.get_as_int("max_restarts", 0)
    meeting = Meeting(
        address, int(port), rank, parameters.max_nodes, float(timeout_s or 0), restarts or 0
    )
    made = NodeRendezvous(meeting, parameters.run_id)
    atexit.register(made.leave)
    return made
