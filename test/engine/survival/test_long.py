"""Minutes long: fifty kills over one run, and a run whose memory stays flat."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import theilslopes

from anybev.testing.processes import Job
from anybev.testing.tiny_training import arguments, assert_same_training

KILLS = 50
# Five steps each: more than fifty starts of at most about five steps get through.
KILLED_EPOCHS = 60
LONG_EPOCHS = 400
WARM_UP_STEPS = 400
LIMIT_S = 7200
# The log's histories grow by 0.3.
KIB_A_STEP = 2.0


@pytest.mark.slow
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
    began = time.monotonic()
    with Job(arguments(synthetic_root, whole, more=more), whole / "out.txt") as job:
        job.wait_for_step(1, 600)
        start_s = time.monotonic() - began
        assert job.finish(3600) == 0, job.output()[-2000:]
    # Times of this machine: kills fall into set-up, steps and saves on any of them.
    step_s = json.loads((whole / "metrics.json").read_text())["train"]["step_time_s"]
    chance, logs = random.Random(0), []
    resume = arguments(synthetic_root, killed, "--resume", more=more)
    for attempt in range(KILLS):
        logs.append(killed / f"out_{attempt}.txt")
        with Job(resume, logs[-1]) as job:
            if attempt % 5 == 4:
                time.sleep(chance.uniform(0.2, 0.9) * start_s)
            else:
                job.wait_for_step(chance.randint(1, 3), 600)
                time.sleep(chance.uniform(0, 1.5) * step_s)
            job.send(signal.SIGKILL)
            assert job.finish(60) == -signal.SIGKILL, "the run is too short for this machine"
    resumed = [re.search(r"resumed .*, iteration (\d+)", log.read_text()) for log in logs]
    begun = [int(found[1]) for found in resumed if found]
    assert len(begun) >= KILLS * 3 // 4, "kills fell before the run went on"
    assert begun == sorted(begun), "a restart went back"
    assert begun[-1] >= KILLS // 2, "the last start did the work alone"
    with Job(resume, killed / "out.txt") as job:
        assert job.finish(3600) == 0, job.output()[-2000:]
    name = f"iter_{KILLED_EPOCHS * 5}.pth"
    assert_same_training(whole / name, killed / name)
    assert not list(killed.glob(".*.part"))
    assert len(list(killed.glob("*.pth"))) == 3


def _memory_kib(pid: int) -> float | None:
    """Memory of its own; file pages come and go with other work. None once it has ended."""
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return float(found[1]) if found else None


def _growth(samples: list[tuple[int, float]]) -> float:
    """KiB a step: the median of all pairs' slopes, which single samples do not move."""
    steps, memory = zip(*samples, strict=True)
    return float(theilslopes(memory, steps)[0])


def test_growth_is_seen_and_noise_is_not() -> None:
    draw = np.random.default_rng(0)
    flat = [(step, 5e5 + 2e3 * draw.standard_normal()) for step in range(400, 2000, 5)]
    leaking = [(step, memory + 2 * KIB_A_STEP * step) for step, memory in flat]
    assert abs(_growth(flat)) < KIB_A_STEP < _growth(leaking)


@pytest.mark.slow
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
    memory: list[tuple[int, float]] = []
    counts: list[tuple[int, int]] = []
    with Job(arguments(synthetic_root, tmp_path, more=more), tmp_path / "out.txt") as job:
        assert job.process is not None
        end, folder, last = time.monotonic() + LIMIT_S, Path(f"/proc/{job.launcher_pid}"), 0
        while job.process.poll() is None:
            assert time.monotonic() < end, f"no end:\n{job.output()[-2000:]}"
            step = 5 * job.steps()
            if step >= WARM_UP_STEPS and step > last:  # a sample an epoch, on any machine
                kib = _memory_kib(job.launcher_pid)
                try:
                    opened = len(os.listdir(folder / "fd")), len(os.listdir(folder / "task"))
                except (FileNotFoundError, PermissionError, ProcessLookupError):
                    break  # it has just ended
                if kib is None:
                    break
                memory.append((step, kib))
                counts.append(opened)
                last = step
            time.sleep(0.1)
        assert job.finish(60) == 0, job.output()[-2000:]
    assert len(memory) > 100
    growth = _growth(memory)
    assert growth < KIB_A_STEP, f"{growth:.2f} KiB a step over {memory[-1][0]} steps"
    files, threads = np.array(counts).T
    # A checkpoint may be open at the moment of a sample, and its folder.
    assert np.median(files[-10:]) <= np.median(files[:10]) + 1
    assert np.median(threads[-10:]) <= np.median(threads[:10])
