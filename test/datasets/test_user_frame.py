"""Pictures of users are found and checked; frames and boxes change their axes rightly."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anybev.datasets.user_calibration import AXES, Calibration, UserCamera
from anybev.datasets.user_frame import (
    boxes_to_user,
    find_images,
    image_notes,
    load_points,
    read_image,
    seen_points,
    to_frame,
)

K = np.array([[100.0, 0, 60, 0], [0, 100.0, 40, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def _calibration(*names: str, **image: str) -> Calibration:
    cameras = [UserCamera(name, K, np.eye(4), image.get(name, "")) for name in names]
    return Calibration("calib.json", tuple(cameras))


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("files", "image", "expected"),
    [
        (["a.png", "b.jpg", "a.txt"], {}, ["a.png", "b.jpg"]),
        (["n015__a__17.jpg", "n015__b__18.jpg"], {}, ["n015__a__17.jpg", "n015__b__18.jpg"]),
        (["a/1.png", "b/x.png"], {}, ["a/1.png", "b/x.png"]),
        (["a/1.png", "a/sweep.png", "b/1.png"], {}, ["a/sweep.png", "b/1.png"]),
        (["left.png", "b.jpg"], {"a": "left.png"}, ["left.png", "b.jpg"]),
        (["x/left.png", "y/left.png", "b.jpg"], {"a": "y/left.png"}, ["y/left.png", "b.jpg"]),
        (["x/left.png", "b.jpg"], {"a": "../../left.png"}, ["x/left.png", "b.jpg"]),
        (["x/y/z/left.png", "b.jpg"], {"a": "./x/y/z/left.png"}, ["x/y/z/left.png", "b.jpg"]),
    ],
)
def test_pictures_are_found(tmp_path, files, image, expected) -> None:
    found = find_images(_calibration("a", "b", **image), _touch(tmp_path, *files), "sweep")
    assert [str(path.relative_to(tmp_path)) for path in found.values()] == expected


def test_a_name_inside_another_is_not_confused(tmp_path) -> None:
    folder = _touch(tmp_path, "n__CAM_BACK__1.jpg", "n__CAM_BACK_LEFT__1.jpg")
    found = find_images(_calibration("CAM_BACK", "CAM_BACK_LEFT"), folder, "")
    assert [path.name for path in found.values()] == [
        "n__CAM_BACK__1.jpg",
        "n__CAM_BACK_LEFT__1.jpg",
    ]


def test_missing_and_doubtful_pictures_are_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="got none of a, c; a picture is found by"):
        find_images(_calibration("a", "b", "c"), _touch(tmp_path, "b.png"), "")
    with pytest.raises(ValueError, match=r"must hold one picture of b, got b\.jpg, b\.png"):
        find_images(_calibration("b"), _touch(tmp_path, "b.jpg"), "")
    with pytest.raises(NotADirectoryError, match="must be a folder"):
        find_images(_calibration("b"), tmp_path / "b.png", "")


def test_a_picture_outside_the_folder_is_not_taken(tmp_path) -> None:
    folder = _touch(tmp_path / "in", "b.png")
    _touch(tmp_path, "a.png")
    for image in ("../a.png", "x/../../a.png", str(tmp_path / "a.png")):
        with pytest.raises(FileNotFoundError, match="got none of a;"):
            find_images(_calibration("a", "b", a=image), folder, "")


def test_pictures_are_turned_as_the_pipeline_turns_them(tmp_path) -> None:
    (camera,) = _calibration("a").cameras
    path, exif = tmp_path / "a.png", Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (80, 120)).save(path, exif=exif)
    turned = read_image(path, camera, upright=True)
    assert turned.shape == (80, 120, 3)
    assert image_notes(path, camera, turned, upright=True) == []
    recorded = read_image(path, camera)
    assert recorded.shape == (120, 80, 3)
    (note,) = image_notes(path, camera, recorded, upright=False)
    assert note.startswith("a.png is to be turned, says its EXIF; the config takes it as recorded")


def test_grey_and_transparent_pictures_become_rgb(tmp_path) -> None:
    (camera,) = _calibration("a").cameras
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (120, 80)).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png", camera).shape == (80, 120, 3)
    Image.new("1", (10_000, 8_500)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="must hold at most 60000000 pixels"):
        read_image(tmp_path / "a.png", camera)


def test_pictures_that_the_pipeline_refuses_are_refused(tmp_path) -> None:
    (camera,) = _calibration("a").cameras
    Image.new("I;16", (120, 80)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"images: .*a\.png must have 8 bits a channel"):
        read_image(tmp_path / "a.png", camera)
    Image.new("RGB", (120, 80)).save(tmp_path / "a.bmp")
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="got none of a"):
        find_images(_calibration("a"), tmp_path, "")


def test_boxes_go_back_to_the_users_frame() -> None:
    """Against corners that are moved one by one."""
    from anybev.datasets.boxes import corners

    rng = np.random.default_rng(0)
    boxes = rng.uniform(-20, 20, (10, 9))
    boxes[:, 3:6] = rng.uniform(1, 5, (10, 3))
    lidar2model = AXES["flu"].copy()
    lidar2model[:3, 3] = [0.5, -1.0, 1.8]
    back = np.linalg.inv(lidar2model)
    moved = boxes_to_user(boxes, lidar2model)
    expected = corners(boxes) @ back[:3, :3].T + back[:3, 3]
    np.testing.assert_allclose(corners(moved), expected, atol=1e-9)
    np.testing.assert_allclose(
        np.hypot(moved[:, 7], moved[:, 8]), np.hypot(boxes[:, 7], boxes[:, 8])
    )
    np.testing.assert_array_equal(boxes_to_user(boxes[:0], lidar2model), boxes[:0])


def test_projection_is_the_same_in_both_frames() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform(-20, 20, (500, 3))
    lidar2cam = np.array([[0, -1.0, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    camera = UserCamera("a", K, lidar2cam)
    calibration = Calibration("c", (camera,), AXES["flu"], "flu")
    frame = to_frame(None, calibration, {"a": Path("a.png")})
    turned = points @ AXES["flu"][:3, :3].T
    inside = seen_points(points, K @ lidar2cam, 120, 80)
    assert inside == seen_points(turned, K @ frame.cameras[0].lidar2cam, 120, 80)
    # Counted one by one.
    count = 0
    for x, y, z in points:
        depth, u, v = x, 60 - 100 * y / x, 40 - 100 * z / x
        count += depth > 0.1 and 0 <= u < 120 and 0 <= v < 80
    assert inside == count
    assert count > 0


def test_the_real_sweep_reads_as_its_file(test_data) -> None:
    path = next((test_data / "data" / "nuscenes_frame").glob("*.bin"))
    points = load_points(path)
    rows = np.fromfile(path, np.float32).reshape(-1, 5)
    np.testing.assert_array_equal(points.points_m[:, :4], rows[:, :4])
    assert not points.points_m[:, 4].any()
    assert points.notes == []
    with pytest.raises(ValueError, match="try another --load-dim"):
        load_points(path, load_dim=4)


def test_real_kitti_sweeps_are_told_from_nuscenes(test_data) -> None:
    for path in (test_data / "data" / "kitti_mini" / "training" / "velodyne").glob("*.bin"):
        points = load_points(path)
        assert points.points_m.shape == (path.stat().st_size // 16, 5)
        assert 1 < points.points_m[:, 3].max() <= 255
        assert len(points.notes) == 1


def test_points_without_intensity_get_none(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.ones((5, 3)))
    points = load_points(tmp_path / "a.npy")
    assert not points.points_m[:, 3:].any()
    assert "no intensity" in points.notes[0]
