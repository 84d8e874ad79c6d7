"""The real nuScenes frame through BEVFusion at full size (minutes on two cores)."""

from pathlib import Path

import pytest
import torch

from anybev.benchmark.train.real_frame import load_config, load_frame
from anybev.engine.builder import build_detector

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("model", ["lidar_only", "lidar_cam"])
def test_full_size_model_runs_forward_loss_and_backward(model: str, test_data: Path) -> None:
    torch.manual_seed(0)
    config = load_config(model)
    frame = load_frame(test_data / "data" / "nuscenes_frame", config)
    detector = build_detector(config.model)
    losses = detector.loss(frame)
    total = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
    total.backward()
    assert total.isfinite()
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
    with torch.no_grad():
        found = detector.eval().predict(frame)[0]
    assert len(found.boxes_lidar) == 200
    assert found.boxes_lidar.isfinite().all()
