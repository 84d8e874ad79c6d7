"""Tests on the simulated npu, which cannot be undone: they have a pytest process of their own.

ANYBEV_SIMULATE=npu python -m pytest test/npu
"""

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from anybev import envs
from anybev.device.ops import draw_heatmap, points_in_boxes
from anybev.models.bevfusion import frustum

if envs.simulate() != "npu":
    collect_ignore_glob = ["*"]


@pytest.fixture(scope="session")
def short_root(synthetic_root: Path) -> Path:
    """Scenes with ``short.pkl`` beside the list of all frames: six frames to train on."""
    whole = pickle.loads((synthetic_root / "nuscenes_infos_train.pkl").read_bytes())
    short = {**whole, "data_list": whole["data_list"][:6]}
    (synthetic_root / "short.pkl").write_bytes(pickle.dumps(short))
    return synthetic_root


@pytest.fixture
def no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU computes as a device without float64 does."""
    for module in (draw_heatmap, points_in_boxes, frustum):
        monkeypatch.setattr(module, "widest_float", lambda device: torch.float32)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, on the CPU and behind the simulated device."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
