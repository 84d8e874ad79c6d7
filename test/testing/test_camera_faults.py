"""Each fault does what its name says, and nothing else."""

import numpy as np
import pytest

from anybev.datasets.sample import CameraView, Sample
from anybev.testing.camera_faults import KINDS, CameraFault, Kind


@pytest.fixture
def sample() -> Sample:
    rng = np.random.default_rng(0)
    views = []
    for index in range(4):
        lidar2cam = np.eye(4)
        lidar2cam[:3, 3] = rng.normal(size=3)
        picture = rng.integers(1, 256, (6, 8, 3)).astype(np.uint8)
        views.append(CameraView(f"CAM_{index}", picture, np.diag([9.0, 9.0, 1.0, 1.0]), lidar2cam))
    return Sample("token", 0, cameras=views)


def _apply(kind: Kind, sample: Sample) -> tuple[list[np.ndarray], list[np.ndarray], Sample]:
    before = [view.image.copy() for view in sample.cameras]
    places = [view.lidar2cam.copy() for view in sample.cameras]
    return before, places, CameraFault(kind)(sample, np.random.default_rng(0))


def test_rotation_moves_a_point_ahead_sideways_by_its_angle(sample: Sample) -> None:
    _, places, turned = _apply("rotate", sample)
    for place, view in zip(places, turned.cameras, strict=True):
        ahead = np.linalg.inv(place) @ [0.0, 0.0, 10.0, 1.0]
        x, y, z, _ = view.lidar2cam @ ahead
        assert np.degrees(np.arctan2(x, z)) == pytest.approx(2.0)
        assert y == pytest.approx(0.0, abs=1e-12)


def test_swap_gives_each_camera_the_picture_of_the_opposite_one(sample: Sample) -> None:
    before, places, swapped = _apply("swap", sample)
    for index, view in enumerate(swapped.cameras):
        np.testing.assert_array_equal(view.image, before[(index + 2) % 4])
        np.testing.assert_array_equal(view.lidar2cam, places[index])


def test_mirror_and_black_change_pictures_only(sample: Sample) -> None:
    before, places, mirrored = _apply("mirror", sample)
    for index, view in enumerate(mirrored.cameras):
        np.testing.assert_array_equal(view.image, before[index][:, ::-1])
        np.testing.assert_array_equal(view.lidar2cam, places[index])
    _, _, black = _apply("black", sample)
    assert not any(view.image.any() for view in black.cameras)


def test_wrong_use_is_named(sample: Sample) -> None:
    with pytest.raises(ValueError, match=f"kind must be one of {', '.join(KINDS)}, got 'blur'"):
        CameraFault("blur")  # type: ignore[arg-type]
    sample.cameras = []
    with pytest.raises(ValueError, match="sample must have images, got none"):
        CameraFault("swap")(sample, np.random.default_rng(0))
