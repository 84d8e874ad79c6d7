"""Frames to draw."""

from pathlib import Path

import numpy as np
import pytest

from anybev.reporting.scene import Scene, SceneCamera
from anybev.testing.run_folder import write_data, write_run

CLASSES = ("car", "pedestrian")


def forward_camera(channel: str = "CAM_FRONT", size: tuple[int, int] = (90, 160)) -> SceneCamera:
    """Looks along +y of the lidar frame: x to the right, z up."""
    height, width = size
    lidar2cam = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], np.float64)
    cam2img = np.array(
        [[100, 0, width / 2, 0], [0, 100, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64
    )
    image = np.full((height, width, 3), 90, np.uint8)
    return SceneCamera(channel, image, cam2img @ lidar2cam)


def make_scene(**changes: object) -> Scene:
    """Two predictions (a car ahead, a pedestrian of low score), one car as ground truth."""
    boxes = np.array(
        [[0, 12, -1, 4.5, 1.9, 1.6, 1.57, 0, 0], [5, 9, -1, 0.7, 0.7, 1.7, 0, 0, 0]], np.float32
    )
    content = {
        "token": "frame0",
        "points_lidar_m": np.random.default_rng(0).normal(0, 15, (500, 5)).astype(np.float32),
        "classes": CLASSES,
        "cameras": [forward_camera()],
        "predicted_boxes_lidar": boxes,
        "predicted_scores": np.array([0.9, 0.1], np.float32),
        "predicted_labels": np.array([0, 1]),
        "true_boxes_lidar": boxes[:1] + np.float32(0.2),
        "true_labels": np.array([0]),
    }
    return Scene(**(content | changes))


@pytest.fixture
def scene() -> Scene:
    return make_scene()


@pytest.fixture(scope="session")
def ann_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames with two cameras."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def run_folder(tmp_path: Path, ann_file: Path) -> Path:
    return write_run(tmp_path / "run", ann_file)
