"""Jobs on two nodes: network namespaces with addresses of their own on this host."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import anybev
from anybev.testing.namespaces import Node, two_nodes, why_not
from anybev.testing.tiny_config import CONFIG_FILE, tiny_options

TRAIN = Path(anybev.__file__).resolve().parents[2] / "tools" / "train.py"
PORT = 29500
LIMIT_S = 420  # of any job here: a minute at most, on a host with nothing else to do

# Says who it is, then works until it is told to end: with "ask" it ends by itself.
WORKER = """
import os, signal, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.full((1,), float(dist.get_rank()))
dist.all_reduce(total)
attempt = os.environ["ANYBEV_JOB_ROUND"]
print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {total.item():g}, attempt {attempt}",
      flush=True)
if sys.argv[1] == "kill" and attempt == "1" and dist.get_rank() == int(sys.argv[2]):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "fail":  # the others wait for it, as in a collective of an accelerator
    sys.exit(3) if dist.get_rank() == int(sys.argv[2]) else time.sleep(600)
while sys.argv[1] == "stay" or (sys.argv[1] == "kill" and attempt == "1"):
    dist.all_reduce(total)
    time.sleep(0.05)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def _namespaces() -> None:
    reason = why_not()
    if reason:
        pytest.skip(f"no network namespaces: {reason}")


@pytest.fixture
def pair(_namespaces: None) -> Iterator[tuple[Node, Node]]:
    with two_nodes() as nodes:
        yield nodes
        assert [node.processes() for node in nodes] == [[], []]


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


def _torchrun(rank: int, address: str, *, limit_s: int = 60, restarts: int = 0) -> list[str]:
    return [
        *(sys.executable, "-m", "anybev.engine.job.nodes", "--nnodes=2", "--nproc-per-node=2"),
        *("--rdzv-backend=anybev", f"--rdzv-endpoint={address}:{PORT}"),
        f"--rdzv-conf=rank={rank},join_timeout={limit_s},max_restarts={restarts}",
        f"--max-restarts={restarts}",
    ]


def _workers_on(
    pair: tuple[Node, Node], worker: Path, *words: object, restarts: int = 0
) -> list[list[str]]:
    """The worker by torchrun, on each node."""
    return [
        node.command(*_torchrun(rank, pair[0].address, restarts=restarts), worker, *words)
        for rank, node in enumerate(pair)
    ]


@contextmanager
def _started(log: Path, command: Sequence[object]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which does not outlive the block."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)


def _both(folder: Path, commands: Sequence[Sequence[object]]) -> list[tuple[int, str]]:
    """Exit status and output of each command, all running together."""
    logs = [folder / f"node{index}.txt" for index in range(len(commands))]
    with _started(logs[0], commands[0]) as first:
        if len(commands) == 1:
            return [(first.wait(LIMIT_S), logs[0].read_text())]
        with _started(logs[1], commands[1]) as second:
            statuses = [process.wait(LIMIT_S) for process in (first, second)]
    return [(status, log.read_text()) for status, log in zip(statuses, logs, strict=True)]


def _wait_for(log: Path, text: str, count: int) -> None:
    end = time.monotonic() + LIMIT_S
    while log.read_text().count(text) < count:
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.2)


def test_only_the_named_address_listens(
    pair: tuple[Node, Node], worker: Path, tmp_path: Path
) -> None:
    head, other = pair
    with (
        _started(tmp_path / "0", head.command(*_torchrun(0, head.address), worker, "stay")),
        _started(tmp_path / "1", other.command(*_torchrun(1, head.address), worker, "stay")),
    ):
        _wait_for(tmp_path / "0", "of 4: 6", 2)
        for node in pair:
            hosts = {place.rpartition(":")[0] for place in node.listening()}
            assert hosts == {node.address}
        assert f"{head.address}:{PORT}" in head.listening()
        assert _connects(other, head.address)
        assert not _connects(other, head.second_address)


def _connects(node: Node, address: str) -> bool:
    code = f"import socket; socket.create_connection(({address!r}, {PORT}), 3)"
    return subprocess.run(node.command(sys.executable, "-c", code), timeout=60).returncode == 0


def test_a_killed_rank_restarts_both_nodes(
    pair: tuple[Node, Node], worker: Path, tmp_path: Path
) -> None:
    outcomes = _both(tmp_path, _workers_on(pair, worker, "kill", 2, restarts=1))
    for (status, text), ranks in zip(outcomes, ((0, 1), (2, 3)), strict=True):
        assert status == 0, text[-3000:]
        for rank in ranks:
            assert f"rank {rank} of 4: 6, attempt 2" in text


def test_without_restarts_both_nodes_end(
    pair: tuple[Node, Node], worker: Path, tmp_path: Path
) -> None:
    (first, _), (second, words) = _both(tmp_path, _workers_on(pair, worker, "kill", 2))
    assert first != 0
    assert second == 128 + signal.SIGKILL
    assert words.splitlines()[-1].startswith("error: rank 2 (pid ")
    assert "was killed by SIGKILL" in words


def test_a_node_that_fails_ends_the_one_whose_ranks_wait(
    pair: tuple[Node, Node], worker: Path, tmp_path: Path
) -> None:
    (first, words), (second, _) = _both(tmp_path, _workers_on(pair, worker, "fail", 2))
    assert (first, second) == (2, 3)
    assert words.splitlines()[-1] == "error: node 0: node 1 has failed; its messages say why"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("nobody", "connection refused: nothing listens there"),
        ("firewall", "no answer: wrong address, host down, or a firewall"),
        ("cable", "to which no route leads from this host"),
    ],
    ids=["nobody", "firewall", "cable"],
)
def test_a_node_that_cannot_connect(
    pair: tuple[Node, Node], worker: Path, tmp_path: Path, fault: str, reason: str
) -> None:
    head, other = pair
    if fault == "firewall":
        other.swallow(head.address)
    elif fault == "cable":
        other.set_link(up=False)
    began = time.monotonic()
    command = other.command(*_torchrun(1, head.address, limit_s=3), worker, "ask")
    ((status, text),) = _both(tmp_path, [command])
    assert status == 2, text
    last = text.splitlines()[-1]
    assert last.startswith("error: ")
    assert head.address in last
    assert reason in last
    if fault != "cable":
        assert f"{head.address}:{PORT} within 3 s" in last
    assert time.monotonic() - began < 120  # 3 s, and the start of torchrun on a busy host


def _scripts(rank: int, head: Node, folder: Path, nproc: int, options: list[str]) -> list[object]:
    """One node's share, as its user types it, without a disk that the nodes share."""
    return [
        *(sys.executable, "-m", "anybev.engine.job", "--config", CONFIG_FILE, "--nnodes=2"),
        *(f"--nproc={nproc}", f"--node-rank={rank}", f"--master-addr={head.address}"),
        *(f"--port={PORT}", "--join-timeout=120", "--work-dir", folder / f"disk{rank}"),
        *("--max-restarts=1", "--cfg-options", *options),
    ]


@pytest.mark.slow
def test_training_restarts_from_the_disk_of_node_0(
    pair: tuple[Node, Node], synthetic_root: Path, tmp_path: Path
) -> None:
    options = [*tiny_options(synthetic_root), "train_cfg.max_epochs=3", "train_cfg.val_interval=3"]
    options += ["train_dataloader.batch_size=1", "train_dataloader.sampler.batch_size=1"]
    commands = [
        node.command(*_scripts(rank, pair[0], tmp_path, 2, options))
        for rank, node in enumerate(pair)
    ]
    logs = [tmp_path / "0", tmp_path / "1"]
    with _started(logs[0], commands[0]) as first, _started(logs[1], commands[1]) as second:
        end = time.monotonic() + LIMIT_S
        while not (tmp_path / "disk0" / "epoch_1.pth").exists():
            assert time.monotonic() < end, logs[0].read_text()[-3000:]
            time.sleep(0.1)
        os.kill(_workers(pair[1])[0], signal.SIGKILL)
        assert second.wait(LIMIT_S) == 0, logs[1].read_text()[-3000:]
        assert first.wait(LIMIT_S) == 0, logs[0].read_text()[-3000:]
    text = logs[0].read_text()
    assert "resumed" in text
    assert (tmp_path / "disk0" / "epoch_3.pth").exists()
    assert not list((tmp_path / "disk1").glob("*.pth"))


def _workers(node: Node) -> list[int]:
    """Processes of a node that train."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in node.processes()}
    return [
        pid
        for pid, words in commands.items()
        if str(TRAIN).encode() in words and b"anybev.engine.job" not in words
    ]


@pytest.mark.slow
@pytest.mark.parametrize("by_variables", [False, True], ids=["flags", "variables"])
def test_sixteen_processes_on_two_nodes(
    pair: tuple[Node, Node], tmp_path: Path, by_variables: bool
) -> None:
    """The node script with the demo, by its flags or by the variables of a cluster."""
    script = TRAIN.parents[1] / "test" / "nnodes_train_performance_16p_base_fp32.sh"
    commands: list[list[str]] = []
    for rank, node in enumerate(pair):
        place = {"WORLD_SIZE": 2, "NODE_RANK": rank, "MASTER_ADDR": pair[0].address}
        place |= {"MASTER_PORT": PORT, "NUM_GPU_PER_NODE": 8}
        variables = [f"{key}={value}" for key, value in place.items()] if by_variables else []
        flags = ["--nnodes=2", f"--node-rank={rank}", f"--master-addr={pair[0].address}"]
        common = ["--demo", f"--work-dir={tmp_path / f'disk{rank}'}", f"--output-dir={tmp_path}"]
        settings = ["env", f"PYTHON={sys.executable}", *variables, "bash", str(script)]
        commands.append(node.command(*settings, *([] if by_variables else flags), *common))
    began = time.monotonic()
    outcomes = _both(tmp_path, commands)
    for status, text in outcomes:
        assert status == 0, text[-3000:]
    assert "Final Performance images/sec" in outcomes[0][1]
    assert "Final Performance images/sec" not in outcomes[1][1]
    train = json.loads((tmp_path / "disk0" / "metrics.json").read_text())["train"]
    assert train["world_size"] == 16
    print(f"2 x 8: {time.monotonic() - began:.0f} s, {train}, on {socket.gethostname()}")
