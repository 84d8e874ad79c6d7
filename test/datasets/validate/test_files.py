"""Each defect of a file is found, by the check that is for it."""

import io

import numpy as np
import pytest
from PIL import Image

from anybev.datasets.validate.findings import BY_KEY
from anybev.datasets.validate.run import validate


def _jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


def _size(data) -> tuple[int, int]:
    with Image.open(data.file("samples/CAM_BACK")) as picture:
        return picture.size


def test_missing_files_are_found(data) -> None:
    data.file("samples/LIDAR_TOP").unlink()
    data.file("sweeps/LIDAR_TOP").unlink()
    data.file("samples/CAM_BACK").unlink()
    expected = {"files.points": 1, "files.sweeps": 1, "files.images": 1}
    assert data.findings(depth="fast") == expected
    assert data.findings() == expected


@pytest.mark.parametrize("content", [b"", b"123", bytes(4 * 8)])
def test_point_files_of_a_wrong_size_are_found(data, content: bytes) -> None:
    data.replace("samples/LIDAR_TOP", content)
    data.replace("sweeps/LIDAR_TOP", content)
    assert data.findings(depth="fast") == {"files.points": 1, "files.sweeps": 1}


def test_points_that_are_not_finite_are_found(data) -> None:
    points = np.fromfile(data.file("samples/LIDAR_TOP"), np.float32)
    points[7] = np.nan
    data.replace("samples/LIDAR_TOP", points.tobytes())
    assert data.findings() == {"points.values": 1}
    assert data.findings(depth="fast") == {}


def test_sweeps_are_read_by_full_only(data) -> None:
    points = np.fromfile(data.file("sweeps/LIDAR_TOP"), np.float32)
    points[7] = 1e9
    data.replace("sweeps/LIDAR_TOP", points.tobytes())
    assert data.findings() == {}
    assert data.findings(depth="full")["points.values"] >= 1


def test_a_nearly_empty_sweep_is_found(data) -> None:
    points = np.fromfile(data.file("samples/LIDAR_TOP"), np.float32).reshape(-1, 5)
    data.replace("samples/LIDAR_TOP", points[:5].tobytes())
    assert data.findings()["points.values"] == 1


@pytest.mark.parametrize("cut", [True, False])
def test_pictures_that_cannot_be_read_are_found(data, cut: bool) -> None:
    content = _jpeg(*_size(data))[:-20_000] if cut else b"no picture"
    data.replace("samples/CAM_BACK", content)
    assert data.findings() == {"images.readable": 1}
    assert data.findings(depth="full") == {"images.readable": 1}
    assert data.findings(depth="fast") == {}


def test_damage_inside_a_picture_is_found_by_full(data) -> None:
    stream = io.BytesIO()
    Image.effect_noise(_size(data), 50).save(stream, "PNG")
    content = bytearray(stream.getvalue())
    content[len(content) // 2] ^= 255
    data.replace("samples/CAM_BACK", bytes(content))
    assert data.findings() == {}
    assert data.findings(depth="full") == {"images.readable": 1}


@pytest.mark.parametrize("depth", ["default", "full"])
def test_pictures_that_training_refuses_are_found(data, depth: str) -> None:
    stream = io.BytesIO()
    Image.new("I;16", _size(data)).save(stream, "PNG")
    data.replace("samples/CAM_BACK", stream.getvalue())
    stream = io.BytesIO()
    Image.new("RGB", _size(data)).save(stream, "BMP")
    data.replace("samples/CAM_BACK", stream.getvalue(), index=2)
    assert data.findings(depth=depth) == {"images.readable": 2}


def test_cameras_may_name_their_pictures_alike(data) -> None:
    def rename(infos) -> None:
        for number, frame in enumerate(infos["data_list"]):
            for camera in frame["images"].values():
                camera["img_path"] = f"{number}.jpg"

    data.without_tables().edit_infos(rename)
    for folder in data.root.glob("samples/CAM_*"):
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"{number}.jpg")
    assert data.findings(depth="fast") == {}
    data.file("samples/CAM_BACK").unlink()
    assert data.findings(depth="fast") == {"files.images": 1}


def test_an_empty_picture_is_found(data) -> None:
    data.replace("samples/CAM_BACK", b"")
    assert data.findings() == {"files.images": 1}


def test_pictures_that_are_to_be_turned_are_found(data) -> None:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", _size(data)).save(stream, "JPEG", exif=exif)
    data.replace("samples/CAM_BACK", stream.getvalue())
    assert data.findings() == {"images.orientation": 1}
    assert BY_KEY["images.orientation"].severity == "warning"
    assert data.findings(depth="fast") == {}


def test_pictures_of_another_size_than_the_tables_are_found(data) -> None:
    data.replace("samples/CAM_BACK", _jpeg(160, 90))
    expected = {"images.size": 1, "calibration.center": 1, "calibration.projection": 1}
    assert data.findings() == expected


def test_pictures_of_another_size_than_the_others_are_found(data) -> None:
    width, height = _size(data)
    data.without_tables().replace("samples/CAM_BACK", _jpeg(width - 10, height))
    assert data.findings() == {"images.size": 1}


def test_without_pictures_is_fine(data) -> None:
    for path in data.root.glob("samples/CAM_*/*.jpg"):
        path.unlink()
    report = validate(data.root, workers=2)
    assert not report.count("error") + report.count("warning")
    assert any("no picture" in note for note in report.notes)


def test_files_beside_an_info_file(data) -> None:
    data.without_tables()
    for path in [*data.root.glob("s*/*/*")]:
        path.rename(data.root / path.name)
    assert data.findings(ann_files=["nuscenes_infos_train.pkl"]) == {}


def test_threads_do_not_change_the_report(data) -> None:
    data.replace("samples/CAM_BACK", b"no picture")
    data.file("samples/LIDAR_TOP").unlink()
    one, four = (validate(data.root, workers=n).to_dict() for n in (1, 4))
    assert one | {"seconds": 0} == four | {"seconds": 0}


def test_the_real_frame_is_sound(test_data) -> None:
    folder = test_data / "data" / "nuscenes_frame"
    infos = next(folder.glob("*.pkl")).name
    report = validate(folder, ann_files=[infos], depth="full")
    assert [row for row in report.rows if row.found] == []
    assert len(report.rows) >= 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "v1.0-mini"}, "must be the folder of the tables"),
        ({"ann_files": ["x.pkl"]}, "x.pkl must be an info file"),
    ],
)
def test_what_was_asked_for_must_be_there(data, options, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        validate(data.root, **options)


def test_nothing_to_check_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold tables \(v1.0-trainval"):
        validate(tmp_path)
    with pytest.raises(FileNotFoundError, match="must be the folder of a data set"):
        validate(tmp_path / "none")


def test_wrong_arguments_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="depth must be fast, default or full, got 'deep'"):
        validate(tmp_path, depth="deep")
    with pytest.raises(ValueError, match="workers must be 1 or more, got 0"):
        validate(tmp_path, workers=0)
