import random
from pathlib import Path

import numpy as np
import torch

from anybev.engine.runner import seeded
from anybev.engine.seeding import rng_state, set_rng_state


def test_seed_reaches_the_innermost_data_set_unless_it_names_one() -> None:
    assert seeded({"type": "D"}, 3) == {"type": "D", "seed": 3}
    assert seeded({"type": "D", "seed": 7}, 3)["seed"] == 7
    assert seeded({"type": "C", "dataset": {"type": "D"}}, 3)["dataset"]["seed"] == 3


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
