"""A slow network on one host: two network namespaces joined by a cable of limited rate."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_BURST_BYTES = 256 * 1024  # what may pass at once: a few sends, far below a bucket
_QUEUE = "100ms"


@dataclass(frozen=True)
class End:
    """One end of the cable: a namespace, its interface and address."""

    namespace: str
    interface: str
    address: str

    def command(self, *arguments: str) -> list[str]:
        """``arguments`` as a command that runs there."""
        return ["ip", "netns", "exec", self.namespace, *arguments]


def why_not() -> str | None:
    """Why this host can have no such network; None where it can."""
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "needs ip and tc (iproute2)"
    return None if os.geteuid() == 0 else "needs root (CAP_NET_ADMIN)"


@contextmanager
def cable(mbit_per_s: float) -> Iterator[tuple[End, End]]:
    """Two namespaces that reach each other at ``mbit_per_s`` in each direction, and nobody else.

    Raises:
        RuntimeError: this host cannot make them; says why. Nothing is left behind.
    """
    reason = why_not()
    if reason:
        raise RuntimeError(f"scaling: a slow network {reason}, got none here")
    number = os.getpid() % 65536
    ends = tuple(
        End(f"anybev-{number}-{side}", f"av{number}{side}", f"10.213.{number % 256}.{place}")
        for place, side in enumerate("ab", start=1)
    )
    first, second = ends
    try:
        for end in ends:
            _run("ip", "netns", "add", end.namespace)
        _run(
            *("ip", "link", "add", first.interface, "netns", first.namespace, "type", "veth"),
            *("peer", "name", second.interface, "netns", second.namespace),
        )
        for end in ends:
            inside = ("ip", "-n", end.namespace)
            _run(*inside, "addr", "add", f"{end.address}/24", "dev", end.interface)
            _run(*inside, "link", "set", end.interface, "up")
            _run(*inside, "link", "set", "lo", "up")
            limit = f"tbf rate {mbit_per_s}mbit burst {_BURST_BYTES}b latency {_QUEUE}".split()
            _run(*end.command("tc", "qdisc", "add", "dev", end.interface, "root", *limit))
        yield first, second
    finally:
        for end in ends:  # their interfaces go with them
            subprocess.run(["ip", "netns", "del", end.namespace], check=False, capture_output=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"scaling: {' '.join(command)} must work for a slow network, got: {done.stderr.strip()}"
        )
