"""Pictures on disk: their tables, what leaving them out changes, the devkit's view of them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from nuscenes import NuScenes
from nuscenes.nuscenes import NuScenesExplorer
from PIL import Image

from anybev.cli import main
from anybev.datasets.synthetic import nuscenes as writer
from anybev.datasets.synthetic import rig
from anybev.datasets.synthetic.camera import Photographer, save_jpeg
from anybev.datasets.synthetic.layout import build_world
from anybev.datasets.synthetic.nuscenes import MARKER, write_nuscenes
from anybev.datasets.synthetic.world import World, key_frame_times

SCALE = 0.2


class QuickScanner:
    """A lidar without returns, so that a scene is written in a second."""

    def __init__(self, world: World) -> None:
        self.count = len(world.objects)

    def sweep(self, t_s: float, rng: np.random.Generator, *, occlusion: bool) -> SimpleNamespace:
        none = np.zeros(self.count, np.int64)
        return SimpleNamespace(
            points_lidar_m=np.ones((4, 5), np.float32),
            points_on=lambda count: none,
            cast=SimpleNamespace(seen=none, alone=none),
        )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "Scanner", QuickScanner)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> NuScenes:
    out = tmp_path_factory.mktemp("pictures")
    write_nuscenes(out, scenes=1, val_scenes=0, seed=5, camera_scale=SCALE, workers=1)
    return NuScenes("v1.0-trainval", str(out), verbose=False)


def test_tables_describe_the_pictures(data: NuScenes) -> None:
    for record in data.sample_data:
        if record["channel"] == "LIDAR_TOP":
            continue
        assert (record["width"], record["height"]) == (320, 180)
        with Image.open(Path(data.dataroot) / record["filename"]) as image:
            assert image.size == (320, 180)
            assert image.format == "JPEG"
    for camera in rig.CAMERAS:
        record = data.get("sample_data", data.sample[0]["data"][camera.channel])
        held = data.get("calibrated_sensor", record["calibrated_sensor_token"])
        expected = rig.camera_intrinsic(camera) * [[SCALE], [SCALE], [1]]
        np.testing.assert_allclose(held["camera_intrinsic"], expected)


def test_pictures_are_taken_when_the_tables_say(data: NuScenes, tmp_path: Path) -> None:
    photographer = Photographer(build_world(5, 1), SCALE)
    for index, camera in enumerate(rig.CAMERAS):
        for k in (0, 11):
            record = data.get("sample_data", data.sample[k]["data"][camera.channel])
            assert record["timestamp"] == data.sample[k]["timestamp"] - round(1e6 * camera.lead_s)
            t = float(key_frame_times()[k] - camera.lead_s)
            picture = photographer.shoot(camera, t, (5, 1, index, k))
            save_jpeg(picture.image_rgb, tmp_path / "again.jpg")
            held = Path(data.dataroot) / record["filename"]
            assert held.read_bytes() == (tmp_path / "again.jpg").read_bytes()


def test_the_devkit_projects_points_onto_what_they_hit(data: NuScenes) -> None:
    world = build_world(5, 1)
    photographer = Photographer(world, SCALE)
    explorer = NuScenesExplorer(data)
    sample = data.sample[6]
    for camera in rig.CAMERAS:
        points, depth, image = explorer.map_pointcloud_to_image(
            sample["data"]["LIDAR_TOP"], sample["data"][camera.channel]
        )
        with image:
            assert image.size == (320, 180)
        t = float(key_frame_times()[6] - camera.lead_s)
        seen = photographer.shoot(camera, t).depth_m
        pixels = np.floor(points[:2]).astype(int)
        error = np.abs(seen[pixels[1], pixels[0]] / depth - 1)
        assert len(error) > 500
        # Waves of the ground, edges, and what moves in 43 ms make the rest.
        assert np.median(error) < 0.01
        assert (error < 0.05).mean() > 0.85


@pytest.mark.usefixtures("quick")
def test_pictures_can_be_left_out(tmp_path: Path) -> None:
    arguments = {"scenes": 1, "val_scenes": 0, "seed": 5, "workers": 1, "camera_scale": SCALE}
    write_nuscenes(tmp_path, **arguments, cameras=False)
    assert not list(tmp_path.rglob("*.jpg"))
    marker = json.loads((tmp_path / MARKER).read_text())
    assert (marker["cameras"], marker["camera_scale"]) == (False, SCALE)
    table = tmp_path / "v1.0-trainval" / "sample_data.json"
    rows = table.read_text()
    written = table.stat().st_mtime_ns
    write_nuscenes(tmp_path, **arguments, cameras=False)
    assert table.stat().st_mtime_ns == written
    with pytest.raises(RuntimeError, match=r"out must hold no other data set"):
        write_nuscenes(tmp_path, **arguments)
    write_nuscenes(tmp_path, **arguments, overwrite=True)
    assert table.read_text() == rows
    assert len(list(tmp_path.rglob("*.jpg"))) == 120


@pytest.mark.usefixtures("quick")
def test_another_size_is_another_data_set(tmp_path: Path) -> None:
    arguments = {"scenes": 1, "val_scenes": 0, "seed": 5, "workers": 1}
    write_nuscenes(tmp_path, **arguments, camera_scale=0.1)
    with pytest.raises(RuntimeError, match=r"'camera_scale': 0.1"):
        write_nuscenes(tmp_path, **arguments, camera_scale=0.2)


@pytest.mark.usefixtures("quick")
def test_a_scene_cut_off_between_pictures_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments = {"scenes": 1, "val_scenes": 0, "seed": 5, "workers": 1, "camera_scale": 0.05}
    write_nuscenes(whole, **arguments)
    shoot, taken = Photographer.shoot, []

    def fail_late(self: Photographer, *args: object) -> object:
        taken.append(args)
        if len(taken) == 50:
            raise KeyboardInterrupt
        return shoot(self, *args)

    monkeypatch.setattr(Photographer, "shoot", fail_late)
    with pytest.raises(KeyboardInterrupt):
        write_nuscenes(cut, **arguments)
    assert not (cut / "v1.0-trainval").exists()
    write_nuscenes(cut, **arguments)
    pictures = {p.relative_to(whole) for p in whole.rglob("*.jpg")}
    assert pictures == {p.relative_to(cut) for p in cut.rglob("*.jpg")}
    assert all((whole / p).read_bytes() == (cut / p).read_bytes() for p in pictures)


@pytest.mark.usefixtures("quick")
def test_the_command_takes_the_size(tmp_path: Path) -> None:
    options = ["--scenes", "1", "--val-scenes", "0", "--workers", "1", "--camera-scale", "0.05"]
    command = ["synth", "nuscenes", "--out", str(tmp_path), *options]
    result = CliRunner().invoke(main, [*command, "--no-cameras"])
    assert result.exit_code == 0, result.output
    marker = json.loads((tmp_path / MARKER).read_text())
    assert (marker["cameras"], marker["camera_scale"]) == (False, 0.05)
    assert CliRunner().invoke(main, [*command, "--camera-scale", "0.01"]).exit_code == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"camera_scale": "1"}, TypeError, "camera_scale must be a number, got '1'"),
        ({"camera_scale": True}, TypeError, "camera_scale must be a number, got True"),
        ({"camera_scale": 0.0}, ValueError, "camera_scale must be from 0.05 to 2.0, got 0.0"),
        ({"camera_scale": float("nan")}, ValueError, "must be from 0.05 to 2.0, got nan"),
        ({"cameras": 1}, TypeError, "cameras must be a bool, got 1"),
    ],
)
def test_bad_arguments(
    tmp_path: Path, change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_nuscenes(tmp_path / "out", scenes=1, val_scenes=0, seed=0, **change)
    assert not (tmp_path / "out").exists()


def test_jpeg_keeps_the_picture(tmp_path: Path) -> None:
    image = Photographer(build_world(5, 4), 0.2).shoot(rig.CAMERAS[0], 0.0).image_rgb
    save_jpeg(image, tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as stored:
        assert np.abs(np.asarray(stored).astype(int) - image).mean() < 4
