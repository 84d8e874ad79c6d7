"""One node's share of a job in the foreground: checks, torchrun, results, exit status."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from anybev.device import current_backend
from anybev.engine import config as configs
from anybev.engine import newest
from anybev.engine.job import demo, preflight
from anybev.engine.job.case_log import read_case
from anybev.engine.job.command import Command, build, trains_in
from anybev.engine.job.options import JobOptions
from anybev.engine.stopping import end_with_parent
from anybev.reporting.status import append_status, read_status

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LAST_WORDS = re.compile(r"error: (?:rank (\d+) \(pid (\d+).*|.*)")


def run(options: JobOptions) -> int:
    """Check, start and wait for one node's share.

    Args:
        options: of the job.

    Returns:
        The training's exit status; 2 when it could not start.

    Raises:
        ValueError, FileNotFoundError: the config is wrong, or the results are.
        MachineError: the backend that was asked for is not there.
    """
    start = time.monotonic()
    backend = current_backend()
    if options.demo:
        root = options.data_root or demo.ROOT
        if not options.dry_run:
            demo.write_data(root)
        options = replace(options, config=demo.CONFIG, data_root=root)
    config = configs.load(options.config)
    nothing = options.resume == "auto" and not _can_resume(options.work_dir)
    if nothing and options.nnodes == 1:  # a training that resumes does not read load_from
        note = f"nothing to resume in {options.work_dir}: the training starts anew"
        options = replace(options, resume=None, notes=(*options.notes, note))
    found = preflight.check(options, config, backend)
    if nothing and options.nnodes > 1 and options.node_rank == 0:  # the others cannot know
        problem = (
            f"--resume must find a checkpoint in {options.work_dir}, got none; start without it"
        )
        found = replace(found, problems=(*found.problems, problem))
    options = found.options
    for note in (*options.notes, *found.notes):
        _say(f"note: {note}")
    command = build(options, config, backend)
    if options.dry_run:
        for problem in found.problems:
            _say(f"note: would not start: {problem}")
        print(command, flush=True)
        return 0
    if found.problems:
        _say(f"error: the job cannot start; {len(found.problems)} thing(s) to put right:")
        for problem in found.problems:
            _say(f"  - {problem}")
        return 2
    _say(f"training in {trains_in(options, backend)}; work directory {options.work_dir}")
    return _train(options, command, start)


def _can_resume(work_dir: Path | None) -> bool:
    return work_dir is None or bool(newest.candidates(work_dir))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _train(options: JobOptions, command: Command, start: float) -> int:
    began = time.time()
    metrics = (options.work_dir or Path()) / "metrics.json"
    before = _identity(metrics)
    with ExitStack() as stack:
        outputs: list[IO[bytes]] = [sys.stdout.buffer]
        if options.log_file:
            options.log_file.parent.mkdir(parents=True, exist_ok=True)
            mode = "ab" if options.resume else "wb"
            outputs.append(stack.enter_context(options.log_file.open(mode)))
        status, tail = _foreground(command, outputs)
        leads = options.node_rank == 0
        if status != 0:
            if leads and options.work_dir:
                _report_failure(options, status, tail, began)
            return status
        if leads and options.case and options.work_dir:
            if _identity(metrics) == before:
                raise FileNotFoundError(
                    f"case: {metrics} must be written by the training, got none newer than its "
                    "start"
                )
            case = read_case(options, options.work_dir, time.monotonic() - start)
            case.write()
            _copy("".join(f"{line}\n" for line in case.final).encode(), outputs)
            _say(f"results in {case.file}")
    return 0


def _identity(path: Path) -> tuple[int, int] | None:
    if not path.exists():
        return None
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


@contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand signals on, each once: torchrun stands in a group of its own, so Ctrl-C misses it."""

    def forward(number: int, _: Any) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _foreground(command: Command, outputs: list[IO[bytes]]) -> tuple[int, str]:
    """Run to the end; exit status as a shell counts it, and the last part of the output."""
    process = subprocess.Popen(
        command.words,
        env=command.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    tail = b""
    with process, _forwarding(process):
        stream: Any = process.stdout
        while chunk := stream.read1():
            _copy(chunk, outputs)
            tail = (tail + chunk)[-4096:]
    status = process.returncode
    return (status if status >= 0 else 128 - status), tail.decode(errors="replace")


def _copy(chunk: bytes, outputs: list[IO[bytes]]) -> None:
    for output in outputs:
        output.write(chunk)
        output.flush()


def _report_failure(options: JobOptions, status: int, tail: str, began: float) -> None:
    """Add the end of a job that could not do so itself, such as one whose rank was killed."""
    path = Path(str(options.work_dir)) / "status.json"
    if path.is_file() and path.stat().st_mtime >= began:
        events, _ = read_status(path)
        if events and events[-1]["status"] == "FAILURE":
            return
    words = [match for match in map(_LAST_WORDS.search, tail.splitlines()) if match]
    last = words[-1] if words else None
    append_status(
        path,
        status="FAILURE",
        kind="launch",
        message=last.group(0) if last else f"the job ended with status {status}",
        rank=int(last.group(1) or 0) if last else 0,
        pid=int(last.group(2)) if last and last.group(2) else None,
        world_size=options.world_size,
    )
