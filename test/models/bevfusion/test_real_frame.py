"""The real nuScenes frame through BEVFusion (minutes on two cores)."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import anybev
from anybev.datasets.nuscenes import NuScenesDataset
from anybev.datasets.sample import Batch, collate
from anybev.datasets.transforms.filters import (
    ObjectNameFilter,
    ObjectRangeFilter,
    PointsRangeFilter,
)
from anybev.datasets.transforms.loading import (
    LoadAnnotations3D,
    LoadPointsFromFile,
    LoadPointsFromMultiSweeps,
)
from anybev.engine.builder import build_detector

pytestmark = pytest.mark.slow
CONFIGS = Path(anybev.__file__).parent / "configs"
FULL_SIZE = "bevfusion/bevfusion_lidar_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py"


@pytest.fixture(scope="module")
def frame(test_data: Path) -> Batch:
    root = test_data / "data" / "nuscenes_frame"
    (info,) = root.glob("*.pkl")
    config = Config.fromfile(CONFIGS / FULL_SIZE)
    region = config.detection_range
    pipeline = [
        LoadPointsFromFile(load_dim=5, use_dim=5),
        LoadPointsFromMultiSweeps(9, pad_empty_sweeps=True, remove_close=True),
        LoadAnnotations3D(),
        PointsRangeFilter(region),
        ObjectRangeFilter(region),
        ObjectNameFilter(config.class_names),
    ]
    prefix = {"pts": "", "sweeps": ""}
    dataset = NuScenesDataset(info, root, config.class_names, pipeline, data_prefix=prefix)
    return collate([dataset[0]])


def test_full_size_model_runs_forward_loss_and_backward(frame: Batch) -> None:
    torch.manual_seed(0)
    detector = build_detector(Config.fromfile(CONFIGS / FULL_SIZE).model)
    losses = detector.loss(frame)
    total = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
    total.backward()
    assert total.isfinite()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    found = detector.eval().predict(frame)[0]
    assert len(found.boxes_lidar) == 200
    assert found.boxes_lidar.isfinite().all()
