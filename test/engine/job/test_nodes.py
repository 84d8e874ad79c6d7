"""Nodes meet at one address, in time, or say why not."""

import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters

from anybev import envs
from anybev.engine.final import tells_final_failures
from anybev.engine.hooks.finite import NonFiniteLossError
from anybev.engine.job import interfaces, nodes, rendezvous
from anybev.engine.job.meeting import Meeting, listening_socket
from anybev.engine.job.options import JobOptions
from anybev.engine.job.rendezvous import NodeRendezvous
from anybev.engine.stopping import Stopped

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (envs.JOB_ROUND, envs.JOB_LAUNCHER):
        monkeypatch.setenv(name, "1")  # a rendezvous writes it


def _node(port: int, rank: int, nnodes: int = 2, **more: Any) -> NodeRendezvous:
    return NodeRendezvous(Meeting(HOST, port, rank, nnodes, **{"timeout_s": 20.0, **more}), "test")


def _at_once(*acts: Callable[[], Any]) -> list[Any]:
    """What each returns or raises, all running at the same time."""
    outcomes: list[Any] = [None] * len(acts)

    def run(index: int) -> None:
        try:
            outcomes[index] = acts[index]()
        except (envs.MachineError, ValueError) as error:
            outcomes[index] = error

    threads = [
        threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(acts))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


def test_nodes_keep_their_ranks_and_share_a_store(port: int) -> None:
    both = [_node(port, rank, max_restarts=1) for rank in (0, 1)]
    assert both[0].get_backend() == rendezvous.BACKEND
    first, second = _at_once(both[0].next_rendezvous, both[1].next_rendezvous)
    assert (first.rank, second.rank, first.world_size) == (0, 1, 2)
    place = first.bootstrap_store_info
    assert place.master_port == second.bootstrap_store_info.master_port != port
    first.store.set("key", "value")
    assert second.store.get("key") == b"value"
    # A node that waits for a new round makes torchrun restart the other one.
    assert both[0].num_nodes_waiting() == 0
    again = _at_once(both[1].next_rendezvous, lambda: _follow(both[0]))
    assert [info.rank for info in again] == [1, 0]
    assert again[0].bootstrap_store_info.master_port != place.master_port
    assert envs.job_round() == 2
    with pytest.raises(RuntimeError, match="job has failed 2 times, --max-restarts is 1"):
        both[1].next_rendezvous()


def _follow(node: NodeRendezvous) -> Any:
    end = time.monotonic() + 20
    while node.num_nodes_waiting() == 0 and time.monotonic() < end:
        time.sleep(0.05)
    return node.next_rendezvous()


def test_a_node_that_ends_the_job_frees_the_one_that_waits(port: int) -> None:
    both = [_node(port, rank, max_restarts=1) for rank in (0, 1)]
    _at_once(both[0].next_rendezvous, both[1].next_rendezvous)
    assert both[1].shutdown()
    assert both[0].is_closed()
    with pytest.raises(RuntimeError, match="node 0: node 1 has ended the job"):
        both[0].next_rendezvous()


def test_a_node_that_failed_ends_the_others_while_their_processes_run(port: int) -> None:
    both = [_node(port, rank, max_restarts=1) for rank in (0, 1)]
    _at_once(both[0].next_rendezvous, both[1].next_rendezvous)
    assert both[0].num_nodes_waiting() == 0
    try:
        raise envs.MachineError("rank 3 (pid 42) was killed")
    except envs.MachineError:
        assert both[1].shutdown()
    for node in (both[0], both[1]):
        with pytest.raises(RuntimeError, match=r"node [01]: node 1 has failed; its messages"):
            node.num_nodes_waiting()


def test_a_node_that_is_done_leaves_the_others_running(port: int) -> None:
    both = [_node(port, rank) for rank in (0, 1)]
    _at_once(both[0].next_rendezvous, both[1].next_rendezvous)
    assert both[1].shutdown()
    both[1].leave()
    assert both[0].num_nodes_waiting() == 0


def test_a_node_that_a_signal_ended_tells_at_its_exit(port: int) -> None:
    both = [_node(port, rank, max_restarts=1) for rank in (0, 1)]
    _at_once(both[0].next_rendezvous, both[1].next_rendezvous)
    both[1].leave()
    began = time.monotonic()
    for ask in (both[0].num_nodes_waiting, both[0].next_rendezvous):
        with pytest.raises(RuntimeError, match="node 0: node 1 has failed"):
            ask()
    assert time.monotonic() - began < 10  # of the 20 s that it waits for a node


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("lr must be positive"), r"ValueError: lr must be positive"),
        (FileNotFoundError("no a.pkl"), "FileNotFoundError: no a.pkl"),
        (NonFiniteLossError("loss is nan\n  rank 1"), r"NonFiniteLossError: loss is nan\)$"),
        (Stopped(signal.SIGTERM, "step 3 is saved"), "SIGTERM: step 3 is saved"),
        (envs.MachineError("rank 1 did not answer"), None),
        (RuntimeError("out of memory"), None),
    ],
)
def test_what_would_fail_the_same_way_is_not_restarted(
    port: int, error: BaseException, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = _node(port, 0, 1, max_restarts=2)
    place = node.next_rendezvous().bootstrap_store_info
    monkeypatch.setenv("MASTER_ADDR", place.master_addr)
    monkeypatch.setenv("MASTER_PORT", str(place.master_port))
    with pytest.raises(type(error)), tells_final_failures():
        raise error
    if words is None:
        node.next_rendezvous()
        assert envs.job_round() == 2
        return
    match = rf"node 0: not restarted: it would fail the same way \({words}"
    with pytest.raises(envs.MachineError, match=match):
        node.next_rendezvous()


def test_only_the_named_address_listens(port: int) -> None:
    with listening_socket(HOST, port) as listener:
        assert listener.getsockname() == (HOST, port)
        with socket.create_connection((HOST, port)):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 1)


def test_nothing_listens(port: int) -> None:
    message = rf"node 1: could not reach node 0 at {HOST}:{port} within 1 s \(connection refused"
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=message):
        _node(port, 1, timeout_s=1.0).next_rendezvous()
    assert time.monotonic() - began < 10


def test_a_node_is_missing(port: int) -> None:
    message = rf"not all nodes met at {HOST}:{port} within 1 s \(1 of 3 nodes joined, missing: 1, 2"
    with pytest.raises(RuntimeError, match=message):
        _node(port, 0, 3, timeout_s=1.0).next_rendezvous()


def test_a_rank_is_given_twice(port: int) -> None:
    outcomes = _at_once(
        *(_node(port, rank, 3, timeout_s=6.0).next_rendezvous for rank in (0, 1, 1))
    )
    assert sum("got 1, which" in str(outcome) for outcome in outcomes[1:]) == 1


def test_nodes_of_different_jobs(port: int) -> None:
    other = _node(port, 1, 3, timeout_s=8.0)
    outcomes = _at_once(_node(port, 0, 2, timeout_s=3.0).next_rendezvous, other.next_rendezvous)
    assert "--nnodes must be the same on every node, got 3 here and 2 on" in str(outcomes[1])


def test_another_program_listens(port: int) -> None:
    with (
        socket.create_server((HOST, port)),
        pytest.raises(RuntimeError, match=r"could not reach .* \(another program listens there"),
    ):
        _node(port, 1, timeout_s=2.0).next_rendezvous()


def test_port_in_use(port: int) -> None:
    with (
        socket.create_server((HOST, port)),
        pytest.raises(RuntimeError, match=f"--port must be a free port of {HOST}, got {port}"),
    ):
        _node(port, 0).next_rendezvous()


def test_address_of_another_host(port: int) -> None:
    node = NodeRendezvous(Meeting("192.0.2.250", port, 0, 2, 1.0), "test")
    message = r"--master-addr must be an address of this host, got 192\.0\.2\.250 \(this host has"
    with pytest.raises(RuntimeError, match=message):
        node.next_rendezvous()


def test_rank_out_of_range(port: int) -> None:
    with pytest.raises(ValueError, match=r"--node-rank must be 0 to 0, got 1"):
        _node(port, 1, 1).next_rendezvous()


def _parameters(endpoint: str, nnodes: int = 2, **config: Any) -> RendezvousParameters:
    return RendezvousParameters(rendezvous.BACKEND, endpoint, "test", nnodes, nnodes, **config)


def test_from_torchrun() -> None:
    made = rendezvous.create(_parameters("[::1]:29500", rank="1", join_timeout="7"))
    assert made.meeting == Meeting("::1", 29500, 1, 2, 7.0)
    assert made.meeting.place == "[::1]:29500"
    assert made.get_run_id() == "test"
    assert made.shutdown()


@pytest.mark.parametrize(("endpoint", "config"), [("10.0.0.1", {"rank": "0"}), ("10.0.0.1:1", {})])
def test_from_torchrun_refuses(endpoint: str, config: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"--rdzv-endpoint must be ADDRESS:PORT with rank=N"):
        rendezvous.create(_parameters(endpoint, **config))


def test_a_name_that_means_this_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "resolve", lambda host: "127.0.1.1")
    with pytest.raises(RuntimeError, match=r"reachable from the other nodes, got 'head', which is"):
        rendezvous.create(_parameters("head:29500", rank="0"))


def test_unknown_name() -> None:
    with pytest.raises(RuntimeError, match=r"--master-addr must be an address or a name .* 'no\.s"):
        interfaces.resolve("no.such.host.invalid")


def test_interfaces_of_this_host() -> None:
    found = interfaces.towards(HOST)
    assert found is not None
    assert found.address == HOST
    assert found in interfaces.interfaces()


def test_network_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(nodes, "towards", lambda address: interfaces.Interface("eth7", address))
    assert nodes.network_environment("10.0.0.1", 1) == {"GLOO_SOCKET_IFNAME": "eth7"}
    assert nodes.network_environment("10.0.0.1", 2)["NCCL_SOCKET_IFNAME"] == "=eth7"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    assert "GLOO_SOCKET_IFNAME" not in nodes.network_environment("10.0.0.1", 2)
    monkeypatch.setattr(nodes, "towards", lambda address: None)
    with pytest.raises(RuntimeError, match=r"--master-addr must be reachable, got 10\.0\.0\.1"):
        nodes.network_environment("10.0.0.1", 2)


def test_torchrun_arguments() -> None:
    options = JobOptions(
        config=Path("c.py"), nproc=4, nnodes=2, node_rank=1, master_addr="10.0.0.1", max_restarts=3
    )
    words = nodes.torchrun_command(options)
    assert words[1:3] == ["-m", nodes.MODULE]
    assert {"--nnodes=2", "--nproc-per-node=4", "--max-restarts=3"} < set(words)
    assert "--rdzv-endpoint=10.0.0.1:29500" in words
    assert "--rdzv-conf=rank=1,join_timeout=600,max_restarts=3" in words
    alone = nodes.torchrun_arguments(JobOptions(config=Path("c.py"), nnodes=1))
    assert f"--rdzv-endpoint={HOST}:29500" in alone
    with pytest.raises(ValueError, match=r"--master-addr must be given with --nnodes of 2 or more"):
        nodes.torchrun_arguments(JobOptions(config=Path("c.py"), nnodes=2))


@pytest.mark.parametrize(
    ("code", "words", "status"),
    [(-9, "was killed by SIGKILL", 137), (2, "ended with status 2", 2)],
)
def test_last_words(code: int, words: str, status: int) -> None:
    failure = ProcessFailure(local_rank=1, pid=42, exitcode=code, error_file="none")
    text, found = nodes._last_words(ChildFailedError("train", {3: failure}))
    assert text == f"rank 3 (pid 42, local rank 1) {words}"
    assert found == status
