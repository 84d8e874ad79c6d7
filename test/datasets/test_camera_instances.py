"""Objects in each camera's picture, with the devkit's boxes and shapely's polygons as the judge."""

from pathlib import Path

import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import view_points
from pyquaternion import Quaternion
from shapely.geometry import MultiPoint, box
from shapely.geometry.polygon import Polygon

from anybev.datasets.infos import CATEGORIES, load_infos
from anybev.datasets.nuscenes_camera_instances import ATTRIBUTES, clipped_extents


def _extent(corners_px: np.ndarray, size: tuple[int, int]) -> list[float]:
    """By shapely; NaN where the picture holds no area of the hull."""
    hull = MultiPoint(corners_px).convex_hull if len(corners_px) else Polygon()
    seen = hull.intersection(box(0, 0, *size))
    found = isinstance(seen, Polygon) and not seen.is_empty
    return list(seen.bounds) if found else [np.nan] * 4


def test_extents_are_those_of_the_clipped_hull() -> None:
    draw = np.random.default_rng(0)
    centres = draw.uniform(-150, 350, (400, 1, 2))
    corners = centres + draw.uniform(-1, 1, (400, 8, 2)) * draw.uniform(1, 300, (400, 1, 1))
    seen = draw.uniform(size=(400, 8)) < 0.8
    found = clipped_extents(corners, seen, (200, 100))
    expected = [_extent(c[s], (200, 100)) for c, s in zip(corners, seen, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert 50 < np.isnan(found[:, 0]).sum() < 350
    # A box around the whole picture, one beside it, and one of which two corners are in front.
    whole = np.array([[-50, -50], [250, -50], [250, 150], [-50, 150]] * 2, float)
    shown = np.array([[1] * 8, [1] * 8, [1, 1, 0, 0, 0, 0, 0, 0]], bool)
    found = clipped_extents(np.stack([whole, whole + np.array([500, 0]), whole]), shown, (200, 100))
    np.testing.assert_array_equal(found, [[0, 0, 200, 100], [np.nan] * 4, [np.nan] * 4])


def _seen_by_the_devkit(devkit: NuScenes, token: str) -> list[tuple[Box, list[float]]]:
    """Boxes of the ten classes in the camera's frame and what the picture holds of them."""
    record = devkit.get("sample_data", token)
    found = []
    sample = devkit.get("sample", record["sample_token"])
    calibration = devkit.get("calibrated_sensor", record["calibrated_sensor_token"])
    cam2img = np.array(calibration["camera_intrinsic"])
    pose = devkit.get("ego_pose", record["ego_pose_token"])
    for annotation in sample["anns"]:
        one = devkit.get_box(annotation)
        for frame in (pose, calibration):
            one.translate(-np.array(frame["translation"]))
            one.rotate(Quaternion(frame["rotation"]).inverse)
        corners = one.corners()
        corners = corners[:, corners[2] > 0]
        pixels = view_points(corners, cam2img, normalize=True)[:2].T
        extent = _extent(pixels, (record["width"], record["height"]))
        if category_to_detection_name(one.name) and one.center[2] > 0 and extent[0] == extent[0]:
            found.append((one, extent))
    return found


@pytest.fixture(scope="module")
def devkit(synthetic_root: Path) -> NuScenes:
    return NuScenes("v1.0-trainval", str(synthetic_root), verbose=False)


def test_instances_agree_with_the_devkit(synthetic_root: Path, devkit: NuScenes) -> None:
    counted = 0
    for frame in load_infos(synthetic_root / "nuscenes_infos_train.pkl")["data_list"][::9]:
        sample = devkit.get("sample", frame["token"])
        assert frame["cam_instances"].keys() == frame["images"].keys()
        for camera, instances in frame["cam_instances"].items():
            expected = _seen_by_the_devkit(devkit, sample["data"][camera])
            assert len(instances) == len(expected)
            counted += len(instances)
            intrinsic = np.array(frame["images"][camera]["cam2img"])
            for instance, (one, extent) in zip(instances, expected, strict=True):
                np.testing.assert_allclose(instance["bbox"], extent, atol=1e-6)
                width, length, height = one.wlh
                yaw_rad = -one.orientation.yaw_pitch_roll[0]
                row = [*one.center, length, height, width, yaw_rad]
                np.testing.assert_allclose(instance["bbox_3d"], row, atol=1e-8)
                pixel = intrinsic @ one.center
                np.testing.assert_allclose(instance["center_2d"], pixel[:2] / pixel[2], atol=1e-6)
                assert instance["depth"] == pytest.approx(one.center[2])
                label = CATEGORIES.index(category_to_detection_name(one.name))
                assert instance["bbox_label"] == instance["bbox_label_3d"] == label
                tokens = devkit.get("sample_annotation", one.token)["attribute_tokens"]
                name = devkit.get("attribute", tokens[0])["name"] if tokens else "None"
                assert ATTRIBUTES[instance["attr_label"]] == name
    assert counted > 100
