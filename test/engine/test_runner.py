import errno
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.runner import Runner as MMEngineRunner

from anybev import envs
from anybev.engine import launched
from anybev.engine.runner import Runner, seeded
from anybev.engine.seeding import rng_state, set_rng_state
from anybev.engine.worker_errors import BATCH_TIMEOUT_S


def test_seed_reaches_the_innermost_data_set_unless_it_names_one() -> None:
    assert seeded({"type": "D"}, 3) == {"type": "D", "seed": 3}
    assert seeded({"type": "D", "seed": 7}, 3)["seed"] == 7
    assert seeded({"type": "C", "dataset": {"type": "D"}}, 3)["dataset"]["seed"] == 3


def test_a_resume_says_which_learning_rates_hold() -> None:
    said: list[str] = []
    logger = SimpleNamespace(
        info=lambda text, *given: said.append(text % given),
        warning=lambda text, *given: said.append(text % given),
    )
    groups = [{"lr": 0.002}, {"lr": 0.001}, {"lr": 0.002}]
    wrapper = SimpleNamespace(optimizer=SimpleNamespace(param_groups=groups))
    runner = SimpleNamespace(logger=logger, optim_wrapper=wrapper, _lr_ratio=0.25)
    Runner._tell_rates(runner, 0.25)
    Runner._tell_rates(runner, None)
    assert said == ["learning rate: 0.001, 0.002, of the checkpoint"] * 2
    Runner._tell_rates(runner, 1.0)
    assert said[-1].startswith("the checkpoint's learning rates are the config's x 1 and stay so")
    assert "x 0.25: --auto-scale-lr" in said[-1]
    assert runner._lr_ratio == 1.0  # what the next checkpoint tells


def test_a_loader_with_workers_waits_for_a_batch_only_so_long() -> None:
    def timeout_s(**options: object) -> float:
        given = {"batch_size": 1, "dataset": [0, 1], "sampler": {"type": "DefaultSampler"}}
        return Runner.build_dataloader(given | options).timeout

    assert timeout_s(num_workers=1) == BATCH_TIMEOUT_S
    assert timeout_s(num_workers=1, timeout=5) == 5
    assert timeout_s(num_workers=0) == 0


@pytest.mark.parametrize("act", ["train", "test"])
def test_failures_have_a_name_in_training_and_evaluation(
    act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    @contextmanager
    def lost_ranks(timeout_s: float) -> Iterator[None]:
        given.append(timeout_s)
        yield

    def fill_the_disk(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "log.txt")

    monkeypatch.setattr(launched, "name_lost_ranks", lost_ranks)
    monkeypatch.setattr(MMEngineRunner, act, fill_the_disk)
    runner = object.__new__(Runner)
    runner.cfg, runner._work_dir = {"env_cfg": {"dist_cfg": {"timeout": 7}}}, str(tmp_path)
    with pytest.raises(envs.MachineError, match=r"must have space .* 'No space left on device'"):
        getattr(runner, act)()
    assert given == [7]


def test_random_state_survives_a_round_trip_through_a_file(tmp_path: Path) -> None:
    state = rng_state()
    torch.save(state, tmp_path / "state.pth")
    draws = [(float(torch.rand(())), float(np.random.rand()), random.random()) for _ in range(2)]
    set_rng_state(torch.load(tmp_path / "state.pth", weights_only=True))
    again = [(float(torch.rand(())), float(np.random.rand()), random.random()) for _ in range(2)]
    assert draws == again


def test_the_devices_generator_is_left_alone_on_another_backend() -> None:
    state = rng_state() | {"backend": "cuda", "device": torch.zeros(16, dtype=torch.uint8)}
    first = float(torch.rand(()))
    set_rng_state(state)
    assert float(torch.rand(())) == first
