"""Pictures and calibration of a batch."""

import numpy as np
import pytest

from anybev.datasets.sample import CameraView, Sample, collate


def _view(**changes: np.ndarray) -> CameraView:
    matrices = {
        "cam2img": np.array([[9.0, 0, 4, 0], [0, 9, 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        "lidar2cam": np.array([[0.0, -1, 0, 0.5], [0, 0, -1, 0], [1, 0, 0, 2], [0, 0, 0, 1]]),
    }
    image = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    return CameraView("CAM_FRONT", image, **(matrices | changes))


def test_matrices_and_pictures_are_stacked() -> None:
    cameras = collate(
        [Sample("a", 0, cameras=[_view()] * 3), Sample("b", 1, cameras=[_view()] * 3)]
    )
    cameras = cameras.cameras
    assert cameras.images.shape == (2, 3, 3, 4, 8)
    assert cameras.images[1, 2, :, 3, 7].tolist() == [93, 94, 95]
    assert cameras.cam2lidar.shape == (2, 3, 4, 4)
    view = _view()
    np.testing.assert_allclose(cameras.lidar2img[0, 0], view.cam2img @ view.lidar2cam)
    np.testing.assert_allclose(cameras.cam2lidar[0, 0] @ view.lidar2cam, np.eye(4), atol=1e-6)


@pytest.mark.parametrize("first", ["with", "without"])
def test_a_sample_without_pictures_among_others_is_named(first: str) -> None:
    samples = [Sample("with", 0, cameras=[_view()] * 2), Sample("without", 1)]
    samples.sort(key=lambda s: s.token != first)
    match = r"images of sample without must be 2 of shape \(4, 8, 3\).*, got \[\]; try ImageAug3D"
    with pytest.raises(ValueError, match=match):
        collate(samples)


@pytest.mark.parametrize("name", ["cam2img", "lidar2cam", "img_aug_matrix"])
@pytest.mark.parametrize("kind", ["singular", "not finite"])
def test_a_matrix_that_cannot_be_inverted_is_named(name: str, kind: str) -> None:
    matrix = getattr(_view(), name).copy()
    matrix[1, :3] = 2 * matrix[0, :3] if kind == "singular" else np.nan
    samples = [Sample("good", 0, cameras=[_view()])]
    samples.append(Sample("bad", 1, cameras=[_view(**{name: matrix})]))
    with pytest.raises(ValueError, match=f"{name} of CAM_FRONT in sample bad must be finite and"):
        collate(samples)
