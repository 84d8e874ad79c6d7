"""What the exchange of gradients costs over gloo, measured in parts and together, and estimated.

    python -m anybev.benchmark.train.scaling measure          # minutes; goes on where it stopped
    python -m anybev.benchmark.train.scaling tables           # what the file says, model beside it
    python -m anybev.benchmark.train.scaling estimate         # 8 .. 1024 accelerators

``measure`` takes the gradients of the full-size model in 2, 4 and 8 processes: their exchange
alone, the computation alone in as many processes, and both together with each choice of bucket
size, compression and overlap; on the loopback interface, and as root over a cable of 1 Gbit/s.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

import anybev
from anybev.benchmark.ops.harness import machine
from anybev.benchmark.train import scaling_network, scaling_tables
from anybev.benchmark.train.scaling_network import End
from anybev.engine.builder import build_detector
from anybev.files import whole_file

CONFIGS = {
    "lidar-cam": "bevfusion_lidar-cam_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
    "lidar": "bevfusion_lidar_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
}
RESULTS = Path("benchmark/results/scaling.jsonl")
_WORKER = "anybev.benchmark.train.scaling_worker"
_MIB = 2**20
_EXCHANGES = (_MIB, 5 * _MIB, 25 * _MIB)
_DEVICE = {"load": "device", "seconds": 0.4}
_HOST = {"load": "host", "products": 600}
_GROUP_LIMIT_S = 600
_PORT = 29511


def _case(cap_mb: float, compression: str = "none", overlap: bool = True) -> dict[str, Any]:
    return {"bucket_cap_mb": cap_mb, "gradient_compression": compression, "overlap": overlap}


USUAL, AFTER, HALF = _case(25), _case(25, overlap=False), _case(25, "bf16")
SWEEP = [_case(cap) for cap in (1, 5, 25, 100)] + [AFTER, _case(5, "bf16"), HALF]


@dataclass(frozen=True)
class Group:
    """One start of torchrun.

    Attributes:
        processes: in all.
        mbit_per_s: of the cable between two nodes with half of the processes each; None: one node,
            loopback.
        device, host: cases of either load.
    """

    processes: int
    mbit_per_s: float | None
    device: Sequence[Mapping[str, Any]]
    host: Sequence[Mapping[str, Any]] = ()

    @property
    def network(self) -> str:
        """Name in rows and tables."""
        return "loopback" if self.mbit_per_s is None else f"{self.mbit_per_s:g} Mbit/s"


GROUPS = (
    Group(2, None, SWEEP, [USUAL, AFTER]),
    Group(4, None, [_case(5), USUAL, AFTER, HALF], [USUAL]),
    Group(8, None, [USUAL, AFTER], [USUAL]),
    Group(2, 1000, [_case(5), USUAL, AFTER, HALF]),
    Group(4, 1000, [USUAL, HALF]),
)


def gradient_numel(model: str) -> list[int]:
    """Values of each gradient of ``lidar-cam`` or ``lidar`` in full size, in the model's order."""
    folder = Path(anybev.__file__).parent / "configs" / "bevfusion"
    detector = build_detector(Config.fromfile(folder / CONFIGS[model]).model)
    return [p.numel() for p in detector.parameters() if p.requires_grad]


def plan(group: Group, numel: Sequence[int], steps: int, seconds: float) -> dict[str, Any]:
    """What the processes of ``group`` measure."""
    whole = 4 * sum(numel)
    loads = [{**_DEVICE, "seconds": seconds, "cases": list(group.device)}]
    if group.host:
        loads.append({**_HOST, "cases": list(group.host)})
    compressed = any(case["gradient_compression"] == "bf16" for case in group.device)
    return {
        "gradient_numel": list(numel),
        "wires": ["fp32", "bf16"] if compressed else ["fp32"],
        "sizes": [size for size in _EXCHANGES if size < whole] + [whole],
        "loads": loads,
        "steps": steps,
    }


def run_group(group: Group, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Start the processes, wait, and read what they measured.

    Raises:
        RuntimeError: a process failed, or the group took longer than its limit; the end of its
            output is in the message. No process stays.
    """
    network: AbstractContextManager[tuple[End, End] | None] = nullcontext()
    if group.mbit_per_s is not None:
        network = scaling_network.cable(group.mbit_per_s)
    with tempfile.TemporaryDirectory() as folder, network as ends:
        work, out = Path(folder, "plan.json"), Path(folder, "rows.json")
        work.write_text(json.dumps(content))
        logs = [Path(folder, f"{node}.log") for node in range(len(ends) if ends else 1)]
        with _started(_commands(group, ends, [str(work), str(out)]), logs) as jobs:
            try:
                codes = [job.wait(timeout=_GROUP_LIMIT_S) for job in jobs]
            except subprocess.TimeoutExpired as error:
                raise RuntimeError(
                    f"scaling: {group.processes} processes must end in {_GROUP_LIMIT_S} s, got no "
                    f"end:\n{_tail(logs)}"
                ) from error
        if any(codes) or not out.is_file():
            raise RuntimeError(f"scaling: torchrun must end with 0, got {codes}:\n{_tail(logs)}")
        rows: list[dict[str, Any]] = json.loads(out.read_text())
    return rows


def _tail(logs: Sequence[Path]) -> str:
    return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs)


def _commands(
    group: Group, ends: tuple[End, End] | None, arguments: Sequence[str]
) -> list[tuple[list[str], dict[str, str]]]:
    """Torchrun's command and environment on each node."""
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    worker = ["-m", _WORKER, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    if ends is None:
        flags = ["--standalone", "--nproc-per-node", str(group.processes)]
        return [([*torchrun, *flags, *worker], environment | {"GLOO_SOCKET_IFNAME": "lo"})]
    common = ["--nnodes", "2", "--nproc-per-node", str(group.processes // 2)]
    common += ["--master-addr", ends[0].address, "--master-port", str(_PORT)]
    return [
        (
            end.command(*torchrun, *common, "--node-rank", str(rank), *worker),
            environment | {"GLOO_SOCKET_IFNAME": end.interface},
        )
        for rank, end in enumerate(ends)
    ]


@contextmanager
def _started(
    commands: Sequence[tuple[list[str], dict[str, str]]], logs: Sequence[Path]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Jobs in process groups of their own, which end with the block, whatever happens in it."""
    jobs: list[subprocess.Popen[bytes]] = []
    try:
        for (command, environment), log in zip(commands, logs, strict=True):
            with log.open("wb") as stream:
                jobs.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        yield jobs
    finally:
        for job in jobs:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGTERM)  # torchrun hands it on to its processes
                try:
                    job.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    os.killpg(job.pid, signal.SIGKILL)
                    job.wait()


def measure(
    out: Path, model: str, *, steps: int, seconds: float, groups: Sequence[Group] = GROUPS
) -> None:
    """Append the rows of every group that ``out`` does not have yet."""
    known = read_rows(out) if out.is_file() else []
    done = {(row["network"], row["processes"], row["model"]) for row in known}
    numel = gradient_numel(model)
    facts = machine()
    out.parent.mkdir(parents=True, exist_ok=True)
    for group in groups:
        name = f"{group.processes} processes, {group.network}"
        reason = scaling_network.why_not() if group.mbit_per_s else None
        if (group.network, group.processes, model) in done or reason:
            print(f"{name}: {f'left out: {reason}' if reason else 'already there'}", flush=True)
            continue
        print(f"{name}: measuring", flush=True)
        rows = run_group(group, plan(group, numel, steps, seconds))
        about = {"network": group.network, "processes": group.processes, "model": model}
        about |= {"gradient_mb": 4 * sum(numel) / 1e6, "cores": os.cpu_count()}
        with out.open("a") as file:  # all rows of a group at once: half a group is measured again
            file.write("".join(json.dumps(about | row | facts) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a results file.

    Raises:
        FileNotFoundError: there is none; says how to make it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"scaling: {path} must exist, got none; try `measure`")
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def put_into(page: Path, action: str, text: str) -> None:
    """Replace what stands between ``<!-- <action> -->`` and ``<!-- end of <action> -->``.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- {action} -->", f"<!-- end of {action} -->"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"scaling: {page} must have the marks {begin} and {end}, got none")
    with whole_file(page) as stream:
        stream.write(f"{before}{begin}\n{text}\n{end}{after}".encode())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command-line flags."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    flags.add_argument("action", choices=("measure", "tables", "estimate"))
    flags.add_argument("--file", type=Path, default=RESULTS, help="JSON lines")
    flags.add_argument("--model", choices=tuple(CONFIGS), default="lidar-cam")
    flags.add_argument("--steps", type=int, default=3, help="measured steps a case")
    flags.add_argument("--seconds", type=float, default=0.4, help="a step of the load `device`")
    flags.add_argument("--into", type=Path, help="put the tables into this page, not on stdout")
    return flags.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, or print tables in markdown."""
    args = parse(argv)
    if args.action == "measure":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its processes end too
        measure(args.file, args.model, steps=args.steps, seconds=args.seconds)
        return
    numel = gradient_numel(args.model)
    if args.action == "tables":
        text = scaling_tables.measured(read_rows(args.file), numel)
    else:
        text = scaling_tables.estimated(numel)
    if args.into is None:
        print(text)
    else:
        put_into(args.into, args.action, text)


if __name__ == "__main__":
    main()
