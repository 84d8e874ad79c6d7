"""Minutes long: fifty kills over one run, and a run whose memory stays flat."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from anybev.testing.processes import Job
from anybev.testing.tiny_training import arguments, assert_same_training

pytestmark = pytest.mark.slow
KILLS = 50
# Steps of the killed run, five an epoch: more than fifty restarts get through.
KILLED_EPOCHS = 30
LONG_EPOCHS = 400
WARM_UP_STEPS = 400
# Half a percent of what the tensors of one step take; the log's histories grow by 0.3.
KIB_A_STEP = 8.0


def test_fifty_random_kills_end_in_the_weights_of_an_unbroken_run(
    synthetic_root: Path, tmp_path: Path
) -> None:
    more = {
        "train_cfg__max_epochs": str(KILLED_EPOCHS),
        "train_cfg__val_begin": "999",
        "param_scheduler__0__total_steps": str(KILLED_EPOCHS),
        "default_hooks__checkpoint__interval": "1",
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with Job(arguments(synthetic_root, whole, more=more), whole / "out.txt") as job:
        assert job.finish(1800) == 0, job.output()[-2000:]
    chance = random.Random(0)
    resume = arguments(synthetic_root, killed, "--resume", more=more)
    for attempt in range(KILLS):
        with Job(resume, killed / f"out_{attempt}.txt") as job:
            # One in five in the set-up, the others in steps and saves.
            begun = 0 if chance.random() < 0.2 else 1
            job.wait_until(lambda job=job, n=begun: job.steps() >= n, 300)
            time.sleep(chance.uniform(0, 0.6 if begun else 3))
            job.send(signal.SIGKILL)
            assert job.finish(60) == -signal.SIGKILL, "the run is too short for this machine"
    with Job(resume, killed / "out.txt") as job:
        assert job.finish(1800) == 0, job.output()[-2000:]
    name = f"iter_{KILLED_EPOCHS * 5}.pth"
    assert_same_training(whole / name, killed / name)
    assert not list(killed.glob(".*.part"))
    assert len(list(killed.glob("*.pth"))) == 3


def test_memory_files_and_threads_stay_flat_over_two_thousand_steps(
    synthetic_root: Path, tmp_path: Path
) -> None:
    more = {
        "train_cfg__max_epochs": str(LONG_EPOCHS),
        "train_cfg__val_begin": "999",
        "param_scheduler__0__total_steps": str(LONG_EPOCHS),
        "default_hooks__checkpoint__interval": "200",
        "default_hooks__logger__interval": "50",  # then one line an epoch of five steps
    }
    samples: list[tuple[int, float, int, int]] = []
    with Job(arguments(synthetic_root, tmp_path, more=more), tmp_path / "out.txt") as job:
        assert job.process is not None
        while job.process.poll() is None:
            step, state = 5 * job.steps(), Path(f"/proc/{job.launcher_pid}")
            try:
                kib = (
                    int((state / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1024
                )
                counts = len(os.listdir(state / "fd")), len(os.listdir(state / "task"))
            except (FileNotFoundError, ProcessLookupError, IndexError):
                break  # it has just ended
            if step >= WARM_UP_STEPS:
                samples.append((step, kib, *counts))
            time.sleep(2)
        assert job.finish(60) == 0, job.output()[-2000:]
    assert len(samples) > 20
    steps, memory, files, threads = np.array(samples).T
    slope, _ = np.polyfit(steps, memory, 1)
    assert slope < KIB_A_STEP, f"{slope:.2f} KiB a step over {steps[-1]:.0f} steps"
    # A checkpoint may be open at the moment of a sample, and its folder.
    assert np.median(files[-10:]) <= np.median(files[:10]) + 1
    assert np.median(threads[-10:]) <= np.median(threads[:10])
