"""Real jobs of several processes: started, watched, killed, and never left behind."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType

import torch

import anybev

TOOLS = Path(anybev.__file__).resolve().parents[2] / "tools"
#: In the environment of every process of a job, whoever starts it: how they are found again.
MARK = "JOB_MARK"
_POLL_S = 0.05
_KILL_S = 30  # a process that waits for a disk dies late
_STEP = re.compile(r"Epoch\(train\)\s+\[\d+\]\[\s*\d+/\d+\]")


def _environment(pid: int) -> dict[str, str]:
    """What a process was started with; empty once it is gone."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    if state == "Z":
        return {}
    pairs = (entry.partition("=") for entry in raw.decode(errors="replace").split("\0"))
    return {key: value for key, _, value in pairs}


def marked(mark: str) -> dict[int, dict[str, str]]:
    """Living processes whose environment carries a mark: pid to environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            environment = _environment(int(entry.name))
            if environment.get(MARK) == mark:
                found[int(entry.name)] = environment
    return found


class Job:
    """A training as a user starts it, in the background; a context that leaves no process.

    Args:
        arguments: of ``tools/train.py``.
        log: file for what the job prints.
        ranks: number of processes under torchrun; 0 starts the tool by itself.
        torchrun: further flags of torchrun.
        env: further environment.
        tool: script to run instead of ``tools/train.py``.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        log: Path,
        *,
        ranks: int = 0,
        torchrun: Sequence[object] = (),
        env: Mapping[str, str] | None = None,
        tool: Path | None = None,
    ) -> None:
        self.log, self.mark, self.rank_count = log, uuid.uuid4().hex, ranks
        command: list[object] = [sys.executable]
        if ranks:
            command += ["-m", "torch.distributed.run", "--nproc-per-node", ranks]
            command += torchrun or ["--standalone"]
        command += [tool or TOOLS / "train.py", *arguments]
        if ranks:
            command += ["--launcher", "pytorch"]
        self.command = [str(part) for part in command]
        self.env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | dict(env or {})
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Job":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                self.command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.env | {MARK: self.mark},
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end = time.monotonic() + _KILL_S
        while alive := self.alive():  # again: one may have been starting another
            assert time.monotonic() < end, f"not killed: {alive}"
            for pid in alive:
                _send(pid, signal.SIGKILL)
            time.sleep(_POLL_S)
        if self.process is not None:
            self.process.wait(_KILL_S)

    @property
    def launcher_pid(self) -> int:
        """Of what was started: torchrun, or the training itself."""
        assert self.process is not None, "the job is started by its context"
        return self.process.pid

    def output(self) -> str:
        """What the job has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def alive(self) -> list[int]:
        """Every process of the job that lives."""
        return sorted(marked(self.mark))

    def rank_pid(self, rank: int) -> int:
        """The process of a rank; workers of its data loader are its children."""
        found = {pid for pid, env in marked(self.mark).items() if env.get("RANK") == str(rank)} - {
            self.launcher_pid
        }
        (pid,) = [pid for pid in found if _parent(pid) not in found]
        return pid

    def workers(self, rank: int) -> list[int]:
        """Workers of a rank's data loader."""
        owner = self.rank_pid(rank) if self.rank_count else self.launcher_pid
        return [pid for pid in self.alive() if _parent(pid) == owner]

    def steps(self) -> int:
        """How many steps of training the output tells of."""
        return len(_STEP.findall(self.output()))

    def wait_until(self, reached: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition.

        Raises:
            AssertionError: the job ended before, or the time is over.
        """
        assert self.process is not None, "the job is started by its context"
        end = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None, f"ended before:\n{self.output()[-3000:]}"
            assert time.monotonic() < end, f"not within {seconds} s:\n{self.output()[-3000:]}"
            time.sleep(_POLL_S)

    def wait_for_step(self, step: int, seconds: float = 180) -> None:
        """Wait until ``step`` steps are done."""
        self.wait_until(lambda: self.steps() >= step, seconds)

    def send(self, number: signal.Signals, pid: int | None = None) -> None:
        """A signal to one process, the launcher unless named."""
        _send(self.launcher_pid if pid is None else pid, number)

    def finish(self, seconds: float = 180) -> int:
        """Wait for the end, and that nothing is left of it.

        Returns:
            The exit status; negative for a signal.

        Raises:
            AssertionError: it does not end in time, or a process of it outlives it.
        """
        assert self.process is not None, "the job is started by its context"
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after {seconds} s:\n{self.output()[-3000:]}") from None
        end = time.monotonic() + 15  # a data loader's workers look for their parent every 5 s
        while self.alive():
            assert time.monotonic() < end, f"orphans: {self.alive()}\n{self.output()[-3000:]}"
            time.sleep(_POLL_S)
        return status


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return 0


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended, which is what was wanted of it


def run_tool(
    tool: str, *arguments: object, check: bool = True, seconds: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a script of ``tools/`` to its end, as a user does.

    Raises:
        AssertionError: it failed, unless ``check`` is false.
        subprocess.TimeoutExpired: it did not end in time.
    """
    result = subprocess.run(
        [sys.executable, str(TOOLS / tool), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        timeout=seconds,
    )
    if check and result.returncode:
        raise AssertionError(result.stdout[-2000:] + result.stderr[-4000:])
    return result


def load_tool(name: str) -> ModuleType:
    """A script of ``tools/`` as a module of its own, to call its functions."""
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), TOOLS / name)
    assert spec is not None, name
    assert spec.loader is not None, name
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exit_status_of(act: Callable[[], object], seconds: float = 120) -> int:
    """Run ``act`` in a forked process and wait for its end.

    Returns:
        0; 1 when it raised; negative when a signal killed it.

    Raises:
        AssertionError: it does not end in time; it is killed.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            torch.set_num_threads(1)  # a forked OpenMP pool has no threads
            act()
            status = 0
        except BaseException:  # nothing of the parent may run on in the child
            traceback.print_exc()
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"no end after {seconds} s")
        time.sleep(_POLL_S / 10)
