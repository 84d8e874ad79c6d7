"""Collective operations, one process a device."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from anybev.device import Backend, Capability
from anybev.engine.check.member import OPERATIONS, TIMEOUT_S
from anybev.engine.check.results import Row, Status, failed, timed

SECTION = "collectives"
#: Starts one process; backend, rank, number of processes and folder follow.
PROGRAM = (sys.executable, "-m", "anybev.engine.check.member")
_CPU_PROCESSES = 2
_START_S = 120


def _processes(backend: Backend) -> int:
    return backend.probe().devices if Capability.INDEXED in backend.capabilities else _CPU_PROCESSES


def _run(backend: Backend, size: int, folder: Path, program: Sequence[str]) -> list[str]:
    """Last words of each process that failed; every process has ended when this returns."""
    logs = [folder / f"rank{rank}.log" for rank in range(size)]
    members: list[subprocess.Popen[bytes]] = []
    try:
        for rank, log in enumerate(logs):
            command = [*program, backend.name, str(rank), str(size), str(folder)]
            with log.open("wb") as stream:
                members.append(subprocess.Popen(command, stdout=stream, stderr=stream))
        deadline = time.monotonic() + _START_S + TIMEOUT_S
        while time.monotonic() < deadline and any(m.poll() is None for m in members):
            if any(m.poll() not in (None, 0) for m in members):
                time.sleep(1)  # the others may want to say something as well
                break
            time.sleep(0.05)
    finally:
        for member in members:
            member.kill()
            member.wait()
    return [
        f"process {rank}: {_last_line(log)}"
        for rank, (member, log) in enumerate(zip(members, logs, strict=True))
        if member.returncode != 0
    ]


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


def collective_rows(backend: Backend, program: Sequence[str] = PROGRAM) -> list[Row]:
    """all_reduce, broadcast and all_gather over every device (two processes on the CPU).

    Args:
        backend: present on this machine.
        program: how one process is started.
    """
    size = _processes(backend)
    place = f"{size} processes, {backend.collective}"
    rows = {name: Row(SECTION, name, place, Status.PASS) for name in OPERATIONS}
    with tempfile.TemporaryDirectory(prefix="anybev-check-") as name, timed() as clock:
        folder = Path(name)
        broken = _run(backend, size, folder, program)
        if broken:
            return [failed(Row(SECTION, "processes", place, Status.PASS), "; ".join(broken))]
        for rank in range(size):
            found = json.loads((folder / f"rank{rank}.json").read_text())
            for operation, wrong in found.items():
                if wrong:
                    rows[operation] = failed(rows[operation], f"process {rank}: {wrong}")
    first, *others = rows.values()
    return [replace(first, seconds=clock.seconds), *others]
