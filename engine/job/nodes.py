"""torchrun on one or several nodes: which arguments, which network interface, which last line.

``python -m anybev.engine.job.nodes [torchrun's arguments] script ...`` is torchrun with the
rendezvous of ``anybev.engine.job.rendezvous`` among its backends.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import rendezvous_handler_registry

from anybev import envs
from anybev.engine.job import rendezvous
from anybev.engine.job.interfaces import resolve, towards

if TYPE_CHECKING:  # it brings mmengine along, which the agent does not need
    from anybev.engine.job.options import JobOptions

MODULE = "anybev.engine.job.nodes"
LOOPBACK = "127.0.0.1"


def torchrun_arguments(options: "JobOptions") -> list[str]:
    """Arguments of torchrun, to be given to ``python -m`` ``MODULE`` before the script.

    Args:
        options: counts, place and limits; one node alone needs no ``master_addr``: it then meets
            itself on the loopback address.

    Raises:
        ValueError: several nodes and no address of the first.
    """
    if options.nnodes > 1 and not options.master_addr:
        raise ValueError(
            "job: --master-addr must be given with --nnodes of 2 or more, got none; "
            "try the IP address of node 0"
        )
    address = options.master_addr or LOOPBACK
    host = f"[{address}]" if ":" in address else address
    return [
        f"--nnodes={options.nnodes}",
        f"--nproc-per-node={options.nproc}",
        f"--max-restarts={options.max_restarts}",
        f"--rdzv-backend={rendezvous.BACKEND}",
        f"--rdzv-endpoint={host}:{options.port}",
        f"--rdzv-conf=rank={options.node_rank},join_timeout={options.join_timeout_s},"
        f"max_restarts={options.max_restarts}",
        "--rdzv-id=anybev",
    ]


def torchrun_command(options: "JobOptions") -> list[str]:
    """The command that starts one node's share, up to the script's name."""
    return [sys.executable, "-m", MODULE, *torchrun_arguments(options)]


def network_environment(address: str, nnodes: int) -> dict[str, str]:
    """Variables that make collectives use the interface that leads to node 0.

    Left to themselves gloo takes the interface of the host's name, NCCL and HCCL the first one that
    is up. What the user has set stays.

    Args:
        address: numeric IP address of node 0.
        nnodes: on a single node NCCL and HCCL need no network.

    Raises:
        MachineError: no route leads to ``address``.
    """
    interface = towards(address)
    if interface is None:
        raise envs.MachineError(
            f"job: --master-addr must be reachable, got {address}, to which no route leads from "
            "this host; try `ip route get` with it"
        )
    names = {"GLOO_SOCKET_IFNAME": interface.name}
    if nnodes > 1:
        names |= {"NCCL_SOCKET_IFNAME": f"={interface.name}", "HCCL_SOCKET_IFNAME": interface.name}
    return {name: value for name, value in names.items() if name not in os.environ}


def _last_words(error: ChildFailedError) -> tuple[str, int]:
    """One line about the process that failed first, and its exit status as a shell counts it."""
    rank, failure = error.get_first_failure()
    if failure.exitcode >= 0:
        how, status = f"ended with status {failure.exitcode}", failure.exitcode
    else:
        how = f"was killed by {signal.Signals(-failure.exitcode).name}"
        status = 128 - failure.exitcode
    return f"rank {rank} (pid {failure.pid}, local rank {failure.local_rank}) {how}", status


def _heeded(names: str) -> str:
    """Of signals in a list, those that this process was not told to ignore (nohup)."""
    known = (name.strip() for name in names.split(","))
    return ",".join(
        name
        for name in known
        if signal.getsignal(getattr(signal, name, signal.SIGTERM)) is not signal.SIG_IGN
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run torchrun; the exit status is that of the process that failed first, or 0.

    Problems of the job's own making end in one line: nodes that do not meet with status 2, a signal
    with 128 and its number.
    """
    arguments = torchrun.parse_args(list(sys.argv[1:] if argv is None else argv))
    registry = rendezvous_handler_registry
    registry.register(rendezvous.BACKEND, rendezvous.create)
    try:
        host = arguments.rdzv_endpoint.rpartition(":")[0].strip("[]")
        nnodes = int(arguments.nnodes)
        os.environ.update(network_environment(resolve(host), nnodes))
        os.environ.setdefault(envs.JOB_STARTED, repr(time.time()))
        arguments.signals_to_handle = _heeded(arguments.signals_to_handle)
        torchrun.run(arguments)
    except ChildFailedError as error:
        words, status = _last_words(error)
        print(f"error: {words}; its own messages are above", file=sys.stderr)
        return status
    except SignalException as error:
        print(f"error: the job was ended by {error.sigval.name}", file=sys.stderr)
        return 128 + int(error.sigval)
    except envs.MachineError as error:
        if envs.traceback():
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
