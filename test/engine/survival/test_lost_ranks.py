"""A rank that is killed is named by every other one, and by itself alone."""

import re
import time
from pathlib import Path

import pytest

from anybev.engine import lost_ranks
from anybev.engine.lost_ranks import name_lost_ranks
from anybev.envs import MachineError
from anybev.testing.processes import Job

RANKS = 4
WORKER = """
import os, signal, sys
import torch, torch.distributed as dist
from anybev.engine.lost_ranks import LostRankError, name_lost_ranks

signal.signal(signal.SIGTERM, lambda *_: None)  # as in training, where a step is finished first
dist.init_process_group("gloo")
rank = dist.get_rank()
sums = torch.ones(100_000)  # more than a message: neighbours in a ring wait for one another
try:
    with name_lost_ranks() as hosts:
        for step in range(100_000):
            dist.all_reduce(sums)
            dist.all_reduce(torch.tensor(0), group=hosts)
            if step == 5 and rank == 3:
                os.kill(os.getpid(), signal.SIGKILL)
except LostRankError as error:
    print(f"SAID {error}", flush=True)
    sys.exit(2)
"""


def test_every_survivor_names_the_killed_rank_and_no_other(tmp_path: Path) -> None:
    tool = tmp_path / "worker.py"
    tool.write_text(WORKER)
    with Job([], tmp_path / "out.txt", ranks=RANKS, tool=tool) as job:
        # torchrun stops waiting for survivors after 30 s: they must have spoken by then.
        job.wait_until(lambda: "SIGTERM" in job.output(), 120)
        began = time.monotonic()
        assert job.finish(60) != 0
        assert time.monotonic() - began < 30
        said = re.findall(r"SAID rank (\d): .*: (rank[^;]*);", job.output())
    expected = [(str(rank), "rank 3 did not answer within 8 s") for rank in range(RANKS - 1)]
    assert sorted(said) == expected, job.output()[-3000:]


def test_an_error_of_the_machine_is_no_lost_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_ranks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(lost_ranks.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(lost_ranks.dist, "new_group", lambda **_: None)
    with (
        pytest.raises(MachineError, match=r"^save: /nccl/epoch_1\.pth must find") as raised,
        name_lost_ranks(),
    ):
        raise MachineError("save: /nccl/epoch_1.pth must find 1 MiB of space")
    assert raised.type is MachineError
