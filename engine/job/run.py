"""One node's share of a job in the foreground: checks, torchrun, results, exit status."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from mmengine.config import Config

from anybev.device import current_backend
from anybev.engine import config as configs
from anybev.engine import newest
from anybev.engine.job import demo, preflight
from anybev.engine.job.case_log import read_case
from anybev.engine.job.command import Command, build, trains_in
from anybev.engine.job.options import JobOptions
from anybev.engine.stopping import end_with_parent
from anybev.reporting.status import STATUS_FILE, append_status, read_status

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LAST_WORDS = re.compile(r"error: (?:rank (\d+) \(pid (\d+).*|.*)")
_KILLED = " was killed by SIG"


class _Outputs:
    """Where the output goes. One that takes no more is left out: the job goes on without it.

    Args:
        streams: with a file descriptor each.
    """

    def __init__(self, streams: Sequence[IO[bytes]]) -> None:
        self._streams = list(streams)
        self._lost: list[str] = []

    def write(self, chunk: bytes) -> None:
        """Copy to every output that still takes it."""
        for stream in list(self._streams):
            try:
                stream.write(chunk)
                stream.flush()
            except OSError as error:
                self._streams.remove(stream)
                self._lost.append(f"{stream.name} took no more of the output: {error}")
                _take_everything(stream)

    def tell(self) -> None:
        """Say which outputs were left out."""
        for text in self._lost:
            _say(f"note: {text}")


def _take_everything(stream: IO[Any]) -> None:
    """Lead a stream to nowhere: what it still holds would fail again when it is closed."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


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
    if options.work_dir is None:
        options = replace(options, work_dir=_default_work_dir(options, config))
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


def _default_work_dir(options: JobOptions, config: Config) -> Path:
    """Where the training goes that is told no folder."""
    given = dict(option.split("=", 1) for option in options.cfg_options)
    chosen = given.get("work_dir") or config.get("work_dir")
    return Path(chosen or Path("work_dirs") / options.config.stem)


def _can_resume(work_dir: Path | None) -> bool:
    return work_dir is None or bool(newest.candidates(work_dir))


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # the terminal is gone, the job goes on
        _take_everything(sys.stderr)


def _train(options: JobOptions, command: Command, start: float) -> int:
    metrics = (options.work_dir or Path()) / "metrics.json"
    before = _identity(metrics)
    with ExitStack() as stack:
        streams: list[IO[bytes]] = [sys.stdout.buffer]
        if options.log_file:
            options.log_file.parent.mkdir(parents=True, exist_ok=True)
            mode = "ab" if options.resume else "wb"
            streams.append(stack.enter_context(options.log_file.open(mode)))
        outputs = _Outputs(streams)
        stack.callback(outputs.tell)
        leads = options.node_rank == 0
        if leads and options.work_dir:
            _report_start(options)
        status, tail = _foreground(command, outputs)
        if status != 0:
            if leads and options.work_dir:
                _report_failure(options, status, tail)
            return status
        if leads and options.case and options.work_dir:
            if _identity(metrics) == before:
                raise FileNotFoundError(
                    f"case: {metrics} must be written by the training, got none newer than its "
                    "start"
                )
            case = read_case(options, options.work_dir, time.monotonic() - start)
            case.write()
            outputs.write("".join(f"{line}\n" for line in case.final).encode())
            _say(f"results in {case.file}")
    return 0


def _identity(path: Path) -> tuple[int, int] | None:
    if not path.exists():
        return None
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


@contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand signals on, each once: torchrun stands in a group of its own, so Ctrl-C misses it.

    One that this process was told to ignore (nohup) stays so.
    """

    def forward(number: int, _: Any) -> None:
        process.send_signal(number)

    heeded = [n for n in _FORWARDED if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _foreground(command: Command, outputs: _Outputs) -> tuple[int, str]:
    """Run to the end; exit status as a shell counts it, and the last part of the output."""
    process = subprocess.Popen(
        command.words,
        env=command.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=partial(end_with_parent, os.getpid()),
    )
    tail = b""
    with process, _forwarding(process):
        stream: Any = process.stdout
        while chunk := stream.read1():
            outputs.write(chunk)
            tail = (tail + chunk)[-4096:]
    status = process.returncode
    return (status if status >= 0 else 128 - status), tail.decode(errors="replace")


def _report_start(options: JobOptions) -> None:
    """Tell that a launcher begins: what follows in the file is its job's."""
    append_status(
        Path(str(options.work_dir)) / STATUS_FILE,
        status="STARTED",
        kind="launch",
        message=f"launching {options.config.name}",
        kpi={"max_restarts": options.max_restarts},
        world_size=options.world_size,
    )


def _report_failure(options: JobOptions, status: int, tail: str) -> None:
    """Add the end of a job that could not do so itself, such as one whose rank was killed.

    The ranks that are left may have told of theirs before; only the launcher knows the signal.
    """
    words = [match for match in map(_LAST_WORDS.search, tail.splitlines()) if match]
    last = words[-1] if words else None
    path = Path(str(options.work_dir)) / STATUS_FILE
    events, _ = read_status(path)
    told = bool(events) and events[-1]["status"] == "FAILURE"
    if told and not (last and _KILLED in last.group(0)):
        return
    append_status(
        path,
        status="FAILURE",
        kind="launch",
        message=last.group(0) if last else f"the job ended with status {status}",
        rank=int(last.group(1) or 0) if last else 0,
        pid=int(last.group(2)) if last and last.group(2) else None,
        world_size=options.world_size,
    )
