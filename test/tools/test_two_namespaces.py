"""``tools/two_namespaces.sh``: two nodes on one host, for users to try."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anybev.testing.namespaces import why_not
from anybev.testing.processes import TOOLS, Job

SCRIPT = TOOLS / "two_namespaces.sh"
LAUNCHER = TOOLS.parent / "test" / "nnodes_train_performance_16p_base_fp32.sh"
NAMES = ("anybev-node0", "anybev-node1")
LISTEN = """
import socket, time
with socket.create_server(("10.77.0.1", 29500)):
    print("up", flush=True)
    time.sleep(60)
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 29500), 5)"


def call(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def existing() -> set[str]:
    listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in listing.stdout.splitlines()} & set(NAMES)


@pytest.fixture
def nodes() -> Iterator[None]:
    reason = why_not()
    if reason or existing():
        pytest.skip(f"no network namespaces: {reason or 'those of the script are in use'}")
    try:
        made = call("up")
        assert (made.returncode, made.stderr) == (0, "")
        assert made.stdout == "node0 is 10.77.0.1, node1 is 10.77.0.2\n"
        yield
    finally:
        call("down")
    assert existing() == set()


def test_the_nodes_reach_each_other_alone_and_go_with_their_processes(nodes: None) -> None:
    command = [str(SCRIPT), "exec", "0", sys.executable, "-c", LISTEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as listener:
        try:
            assert listener.stdout
            assert listener.stdout.readline() == b"up\n"
            for place, reached in (("10.77.0.1", True), ("node0", True), ("10.78.0.1", False)):
                found = call("exec", 1, sys.executable, "-c", CONNECT, place)
                assert (found.returncode == 0) is reached, (place, found.stderr)
            assert call("down").returncode == 0
            assert listener.wait(10) == -signal.SIGKILL
        finally:
            listener.kill()
    assert existing() == set()
    assert [name for name in NAMES if Path("/etc/netns", name).exists()] == []
    assert call("down").stdout == "".join(f"{name}: there was none\n" for name in NAMES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("exec", "2", "true"), "error: exec must be followed by 0 or 1 and a command"),
        (("exec", "0"), "error: exec must be followed by 0 or 1 and a command"),
        ((), "tools/two_namespaces.sh exec 0|1 COMMAND"),
    ],
)
def test_wrong_words_end_in_status_2(words: tuple[str, ...], message: str) -> None:
    found = call(*words)
    assert found.returncode == 2
    assert message in found.stderr


@pytest.mark.slow
def test_the_nodes_train_together_as_the_document_says(nodes: None, tmp_path: Path) -> None:
    """docs/cluster_namespaces.md, with two processes a node."""
    disks = [tmp_path / f"disk{rank}" for rank in (0, 1)]
    jobs = []
    for rank, disk in enumerate(disks):
        flags = ["--demo", "--nproc=2", f"--node-rank={rank}", "--master-addr=10.77.0.1"]
        flags += [f"--work-dir={disk}", f"--output-dir={tmp_path}"]
        job = Job([], tmp_path / f"node{rank}.txt", env={"PYTHON": sys.executable})
        job.command = [str(SCRIPT), "exec", str(rank), "bash", str(LAUNCHER), *flags]
        jobs.append(job)
    with jobs[0] as first, jobs[1] as second:
        for job in (second, first):
            assert job.finish(1200) == 0, job.output()[-3000:]
    train = json.loads((disks[0] / "metrics.json").read_text())["train"]
    assert train["world_size"] == 4
    assert "Final Performance images/sec" in jobs[0].output()
    assert "Final Performance images/sec" not in jobs[1].output()
