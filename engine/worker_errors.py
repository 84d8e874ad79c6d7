"""Says which worker of a data loader died, and over which samples."""

import itertools
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from anybev.envs import MachineError

#: How long a batch is waited for, unless the loader's ``timeout`` says otherwise.
BATCH_TIMEOUT_S = 600
# What torch's handler of SIGCHLD raises, wherever the training stands at that moment.
_KILLED = re.compile(r"DataLoader worker \(pid\(?s?\)? ?(\d+)\) (.*?)\.? *$", re.M)
_TIMED_OUT = "DataLoader timed out"
_CAUGHT = re.compile(r"Caught (\w+) in DataLoader worker process (\d+)\.")


def batches(loader: DataLoader) -> Iterator[Any]:
    """The batches of a loader; the error of a worker names the worker and its samples.

    Raises:
        MachineError: a worker was killed, or does not answer within the loader's ``timeout``.
        Exception: what a worker raised, of its own type and text.
    """
    indices = _indices(loader)
    iterator = iter(loader)
    workers = list(getattr(iterator, "_workers", ()))
    for number in itertools.count():
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            size = loader.batch_size or 1
            died = _first_dead(workers)
            if died is not None:
                number += (died - number) % len(workers)  # the batch that it was to fetch next
            samples = indices[number * size : (number + 1) * size]
            named = f"sample(s) {', '.join(map(str, samples))}" if samples else "unknown samples"
            if died is not None:
                raise MachineError(_obituary(workers, died, named)) from error
            if str(error).startswith(_TIMED_OUT):
                raise MachineError(_silence(workers, number, loader.timeout, named)) from error
            raised = _as_raised(error, named)
            if raised is None:
                raise
            raise raised from error
        yield batch


@contextmanager
def name_dead_workers() -> Iterator[None]:
    """Around an epoch: a worker that dies while its batch is not waited for is named too.

    Raises:
        MachineError: a worker was killed.
    """
    try:
        yield
    except MachineError:
        raise
    except RuntimeError as error:
        killed = _KILLED.search(str(error))
        if killed is None:
            raise
        raise MachineError(
            f"data loader: a worker (pid {killed[1]}) must live as long as training does, got "
            f"{killed[2]!r}; try fewer workers or a smaller batch where memory ran out"
        ) from error


def _indices(loader: DataLoader) -> list[int]:
    """What is left of the sampler's epoch, where the sampler tells it."""
    sampler: Any = loader.sampler
    if not hasattr(sampler, "indices"):
        return []
    return [int(index) for index in sampler.indices(sampler.epoch)[sampler.done :]]


def _first_dead(workers: list[Any]) -> int | None:
    for number, worker in enumerate(workers):
        if worker.exitcode not in (None, 0):
            return number
    return None


def _obituary(workers: list[Any], number: int, named: str) -> str:
    status = workers[number].exitcode
    how = f"exit status {status}"
    if status < 0:
        how = signal.Signals(-status).name
        if status == -signal.SIGKILL:
            how += " (the kernel sends it when memory runs out)"
    return (
        f"data loader: worker {number} of {len(workers)} (pid {workers[number].pid}) must live as "
        f"long as training does, got {how} while it was to load {named}; try fewer workers or a "
        "smaller batch where memory ran out"
    )


def _silence(workers: list[Any], number: int, timeout_s: float, named: str) -> str:
    place = number % len(workers)  # batches go round
    return (
        f"data loader: worker {place} of {len(workers)} (pid {workers[place].pid}) must give a "
        f"batch within {timeout_s:g} s, got nothing while it was to load {named}; try the disk it "
        "reads from, or a longer timeout of the data loader"
    )


def _as_raised(error: Exception, named: str) -> Exception | None:
    """A worker's error with its own text first; torch puts a traceback there."""
    text = str(error).strip("'\"")
    caught = _CAUGHT.match(text)
    if caught is None:
        return None
    own = re.split(rf"\n(?:\w+\.)*{caught[1]}: ", text)[-1].strip() if "\n" in text else text
    where = f"(data loader: worker {caught[2]}, a batch of {named})"
    try:
        return type(error)(f"{own} {where}")
    except TypeError:
        return None  # its constructor wants more: torch's text stays
