"""Two nodes on one host: network namespaces with addresses of their own, joined by a cable.

Needs Linux, ``ip`` and the right to make namespaces; ``tools/two_namespaces.sh`` does the same for
users.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_FILES = Path("/etc/netns")  # where ip netns looks for a namespace's own /etc/hosts


@dataclass(frozen=True)
class Node:
    """One namespace.

    Attributes:
        namespace: its name, for ``ip netns``.
        interface: name of its end of the cable.
        address: IPv4 address of that end.
        second_address: another address of the same node, on its loopback interface.
    """

    namespace: str
    interface: str
    address: str
    second_address: str

    def command(self, *arguments: object) -> list[str]:
        """``arguments`` as a command that runs on this node."""
        return ["ip", "netns", "exec", self.namespace, *map(str, arguments)]

    def listening(self) -> list[str]:
        """``address:port`` of every TCP socket that listens on this node."""
        listing = _ip(*self.command("ss", "-ltnH"))
        return [line.split()[3] for line in listing.splitlines()]

    def processes(self) -> list[int]:
        """Process ids of all processes of this node."""
        return [int(line) for line in _ip("ip", "netns", "pids", self.namespace).split()]

    def set_link(self, up: bool) -> None:
        """Plug this node's end of the cable in, or pull it."""
        _ip("ip", "-n", self.namespace, "link", "set", self.interface, "up" if up else "down")

    def swallow(self, address: str) -> None:
        """Lose what is sent to ``address`` without a word, as behind a firewall that drops."""
        nobody = "02:00:00:00:00:99"
        known = f"{address} lladdr {nobody} dev {self.interface} nud permanent".split()
        _ip("ip", "-n", self.namespace, "neigh", "replace", *known)


def why_not() -> str | None:
    """Why this host can have no namespaces; None where it can."""
    if shutil.which("ip") is None or shutil.which("ss") is None:
        return "needs ip and ss (iproute2)"
    if os.geteuid() != 0:
        return "needs root (CAP_NET_ADMIN)"
    name = f"anybev-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"ip netns add: {made.stderr.strip()}"
    _ip("ip", "netns", "del", name)
    return None


def _ip(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes that reach each other and nothing else; gone, with all their processes, after.

    Node 0 answers at 10.77.0.1 and, where routed, at 10.77.1.1; node 1 at 10.77.0.2 and 10.77.1.2.
    """
    names = [f"anybev-{os.getpid()}-{rank}" for rank in (0, 1)]
    nodes = tuple(
        Node(name, f"node{rank}", f"10.77.0.{rank + 1}", f"10.77.1.{rank + 1}")
        for rank, name in enumerate(names)
    )
    try:
        for node in nodes:
            _ip("ip", "netns", "add", node.namespace)
            _name_addresses(node, nodes)
        _cable(nodes)
        yield nodes[0], nodes[1]
    finally:
        _remove(nodes)


def _name_addresses(node: Node, nodes: Sequence[Node]) -> None:
    """Names of both nodes, as files that ``ip netns exec`` lays over /etc: no DNS is waited for."""
    folder = _FILES / node.namespace
    folder.mkdir(parents=True)
    lines = [f"{n.address} {n.interface}\n{n.second_address} {n.interface}-b" for n in nodes]
    (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # nobody there: refused at once


def _cable(nodes: Sequence[Node]) -> None:
    first, second = nodes
    ends = f"name {first.interface} netns {first.namespace} type veth peer name".split()
    _ip("ip", "link", "add", *ends, second.interface, "netns", second.namespace)
    for node, other in ((first, second), (second, first)):
        within = ("ip", "-n", node.namespace)
        _ip(*within, "addr", "add", f"{node.address}/24", "dev", node.interface)
        _ip(*within, "addr", "add", f"{node.second_address}/32", "dev", "lo")
        _ip(*within, "link", "set", "lo", "up")
        _ip(*within, "link", "set", node.interface, "up")
        _ip(*within, "route", "add", f"{other.second_address}/32", "via", other.address)


def _remove(nodes: Sequence[Node]) -> None:
    existing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for node in nodes:
        shutil.rmtree(_FILES / node.namespace, ignore_errors=True)
        if node.namespace not in existing:
            continue
        for pid in node.processes():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue  # it ended by itself
        _ip("ip", "netns", "del", node.namespace)
