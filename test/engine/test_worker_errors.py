"""What is said when a worker of a data loader dies or raises."""

import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from anybev.datasets.sampling import EpochSampler
from anybev.engine.stopping import ShieldedWorker
from anybev.engine.worker_errors import batches, name_dead_workers
from anybev.envs import MachineError


class Numbers(Dataset):
    """0 .. 7, where one number makes its worker do something else."""

    def __init__(self, odd: int = -1, act=None) -> None:
        self.odd, self.act = odd, act

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key) -> torch.Tensor:
        index = key.index if hasattr(key, "index") else key
        if index == self.odd:
            self.act()
        return torch.tensor(index)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(3)


def refuse() -> None:
    raise ValueError("point file 7.bin must hold rows of 5 numbers, got 3")


def look_up() -> None:
    raise KeyError("token")


def be_told_to_stop() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(os.getpid(), number)
    time.sleep(0.2)


def sleep() -> None:
    time.sleep(120)


def loader(odd: int, act, workers: int = 2, timeout_s: float = 0) -> DataLoader:
    data = Numbers(odd, act)
    sampler = EpochSampler(8, shuffle=False)
    return DataLoader(
        data,
        2,
        sampler=sampler,
        num_workers=workers,
        timeout=timeout_s,
        worker_init_fn=ShieldedWorker(None),
        multiprocessing_context="fork" if workers else None,
    )


def test_a_worker_that_hangs_is_named_in_time() -> None:
    began, seen = time.monotonic(), []
    message = (
        r"data loader: worker 1 of 2 \(pid \d+\) must give a batch within 10 s, got "
        r"nothing while it was to load sample\(s\) 6, 7; try"
    )
    with pytest.raises(MachineError, match=message):
        seen.extend(batches(loader(6, sleep, timeout_s=10)))
    assert [batch.tolist() for batch in seen] == [[0, 1], [2, 3], [4, 5]]
    assert time.monotonic() - began < 100


@pytest.mark.parametrize(
    ("act", "how"),
    [(kill_itself, r"SIGKILL \(the kernel sends it when memory runs out\)"), (leave, "status 3")],
)
def test_a_dead_worker_is_named_with_its_samples(act, how) -> None:
    with pytest.raises(
        MachineError,
        match=rf"worker 1 of 2 \(pid \d+\) must live .* got .*{how} while it was to load "
        r"sample\(s\) [267], [37]",
    ):
        list(batches(loader(3, act)))


@pytest.mark.parametrize(
    ("act", "kind", "said"),
    [
        (refuse, ValueError, "^point file 7.bin must hold rows of 5 numbers, got 3 "),
        (look_up, KeyError, "token"),
    ],
)
def test_a_workers_error_is_said_first_and_named_with_its_batch(act, kind, said) -> None:
    got = []
    with pytest.raises(kind, match=said) as error:
        got.extend(batch.tolist() for batch in batches(loader(5, act)))
    assert "worker 0, a batch of sample(s) 4, 5" in str(error.value)
    assert got == [[0, 1], [2, 3]]


def test_without_workers_errors_stay_as_they_are() -> None:
    with pytest.raises(ValueError, match=r"got 3$"):
        list(batches(loader(5, refuse, workers=0)))


def test_signals_to_the_whole_job_leave_workers_running() -> None:
    # The worker signals itself: what is not its parent's is not obeyed.
    assert [b.tolist() for b in batches(loader(3, be_told_to_stop))] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
    ]


def test_a_worker_that_dies_between_two_batches_is_named() -> None:
    text = "DataLoader worker (pid 8874) is killed by signal: Killed. "
    message = r"a worker \(pid 8874\) must live as long as training does, got 'is killed by"
    with pytest.raises(MachineError, match=message), name_dead_workers():
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="another"), name_dead_workers():
        raise RuntimeError("another error")
