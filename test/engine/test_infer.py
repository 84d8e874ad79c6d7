"""``anybev infer`` on a user's own frame: what goes in, what comes out, what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from anybev.cli import main
from anybev.datasets.sample import collate
from anybev.datasets.user_calibration import Calibration
from anybev.engine import checkpoint
from anybev.engine import config as configs
from anybev.engine.builder import build_detector
from anybev.engine.infer import _options, _truth, infer
from anybev.engine.infer_frame import Request, read_frame
from anybev.engine.registry import DATASETS
from anybev.testing.tiny_config import (
    CAMERA_CONFIG_FILE,
    CONFIG_FILE,
    tiny_camera_options,
    tiny_options,
)
from anybev.testing.tolerances import tolerances

BOXES, FLOAT = tolerances(torch.float32, "boxes"), tolerances(torch.float32)
OPTIONS = {
    CONFIG_FILE: (*tiny_options(Path("none")),),
    CAMERA_CONFIG_FILE: (*tiny_camera_options(Path("none")),),
}
AGED = ("x", "y", "z", "intensity", "age")
FORWARD = [[1.0, 0, 0, 0], [0, 0, -1.0, -0.3], [0, 1.0, 0, -0.7], [0, 0, 0, 1.0]]
BACKWARD = [[-1.0, 0, 0, 0], [0, 0, -1.0, -0.3], [0, -1.0, 0, -0.7], [0, 0, 0, 1.0]]
K = [[150.0, 0, 160.0], [0, 150.0, 90.0], [0, 0, 1.0]]
CALIBRATION = {
    "cameras": {
        "front": {"cam2img": K, "lidar2cam": FORWARD, "width": 320, "height": 180},
        "back": {"cam2img": K, "lidar2cam": BACKWARD},
    }
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """Small models with random weights, by their config."""
    folder = tmp_path_factory.mktemp("models")
    files = {}
    for config, options in OPTIONS.items():
        torch.manual_seed(0)
        files[config] = folder / f"{config.stem}.pth"
        checkpoint.save(
            files[config], build_detector(configs.load(config, _options(options)).model)
        )
    return files


def _request(folder: Path, config: Path, model: Path) -> Request:
    """A frame with two cameras."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-40, -40, -3, 0], [40, 40, 2, 255], (4000, 4)).astype(np.float32)
    np.save(folder / "sweep.npy", points)
    (folder / "images").mkdir()
    for name in CALIBRATION["cameras"]:
        pixels = rng.integers(0, 255, (180, 320, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    (folder / "calib.json").write_text(json.dumps(CALIBRATION))
    return Request(
        config,
        model,
        calib=folder / "calib.json",
        points=folder / "sweep.npy",
        images=folder / "images",
        out=folder / "out",
        score_thr=0.0,
        device="cpu",
        options=OPTIONS[config],
        pictures=False,
    )


@pytest.fixture
def lidar(tmp_path: Path, models: dict[Path, Path]) -> Request:
    return _request(tmp_path, CONFIG_FILE, models[CONFIG_FILE])


@pytest.fixture
def cameras(tmp_path: Path, models: dict[Path, Path]) -> Request:
    return _request(tmp_path, CAMERA_CONFIG_FILE, models[CAMERA_CONFIG_FILE])


def _boxes(record: dict[str, Any]) -> np.ndarray:
    return np.array(
        [
            [*b["center_m"], *b["size_m"], b["yaw_rad"], *b["velocity_mps"], b["score"]]
            for b in record["boxes"]
        ]
    )


def test_lidar_and_two_cameras(cameras: Request) -> None:
    result = infer(replace(cameras, pictures=True))
    assert [path.name for path in result.files] == ["detections.json", "bev.png", "cameras.png"]
    record = json.loads((cameras.out / "detections.json").read_text())
    assert record["format"] == "anybev-detections"
    assert set(record["images"]) == {"front", "back"}
    assert {box["class"] for box in record["boxes"]} <= set(record["classes"])
    scores = [box["score"] for box in record["boxes"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) > 0
    with Image.open(cameras.out / "cameras.png") as picture:
        assert picture.size[0] > 1000
    assert result.table.splitlines()[0].startswith("class")


def test_pictures_matter_to_a_camera_model(cameras: Request) -> None:
    first = _boxes(infer(cameras).record)
    Image.new("RGB", (320, 180)).save(cameras.images / "front.png")
    assert not np.array_equal(first, _boxes(infer(cameras).record))


def test_a_lidar_model_draws_on_pictures_and_says_so(lidar: Request) -> None:
    with_pictures = infer(replace(lidar, pictures=True))
    assert any("pictures are only drawn on" in note for note in with_pictures.notes)
    without = infer(replace(lidar, images=None, calib=None, pictures=True))
    assert [path.name for path in without.files] == ["detections.json", "bev.png"]
    np.testing.assert_array_equal(_boxes(without.record), _boxes(with_pictures.record))


def test_the_score_threshold(lidar: Request) -> None:
    boxes = infer(lidar).record["boxes"]
    # Between two scores: the file holds rounded ones.
    best = next(i for i in range(5, 40) if boxes[i - 1]["score"] - boxes[i]["score"] > 1e-4)
    middle = (boxes[best - 1]["score"] + boxes[best]["score"]) / 2
    assert infer(replace(lidar, score_thr=middle)).record["boxes"] == boxes[:best]
    assert infer(replace(lidar, score_thr=1.0)).table.startswith("no box")


def test_other_axes_turn_the_boxes_and_nothing_else(cameras: Request) -> None:
    """The same world in a frame with x forward, y left gives the same boxes, turned."""
    expected = infer(cameras).record["boxes"]
    points = np.load(cameras.points)
    np.save(cameras.points, np.concatenate([points[:, 1:2], -points[:, :1], points[:, 2:]], 1))
    turn = np.array([[0, -1.0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    turned = json.loads(json.dumps(CALIBRATION))
    for camera in turned["cameras"].values():
        camera["lidar2cam"] = (camera["lidar2cam"] @ turn).tolist()
    for extra in ({"axes": "flu"}, {"lidar2model": turn.tolist()}):
        cameras.calib.write_text(json.dumps(turned | extra))
        found = infer(cameras).record["boxes"]
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            x, y, z = theirs["center_m"]
            np.testing.assert_allclose(ours["center_m"], [y, -x, z], **BOXES)
            assert ours["size_m"] == theirs["size_m"]
            difference = ours["yaw_rad"] - (theirs["yaw_rad"] - np.pi / 2)
            assert abs((difference + np.pi) % (2 * np.pi) - np.pi) < FLOAT["atol"]
            vx, vy = theirs["velocity_mps"]
            np.testing.assert_allclose(ours["velocity_mps"], [vy, -vx], **FLOAT)


def test_ages_in_the_file_take_the_place_of_sweeps(lidar: Request) -> None:
    points = np.load(lidar.points)
    age = np.linspace(0, 0.5, len(points), dtype=np.float32)[:, None]
    np.save(lidar.points, np.concatenate([points, age], 1))
    ring = infer(replace(lidar, dims=("x", "y", "z", "intensity", "ring")))
    aged = infer(replace(lidar, dims=AGED))
    assert not np.array_equal(_boxes(ring.record), _boxes(aged.record))


@pytest.mark.parametrize("number", [0, 4])
def test_a_frame_of_a_data_set_gives_the_boxes_of_evaluation(
    cameras: Request, synthetic_root: Path, number: int
) -> None:
    # Both must draw the same sweeps.
    drawn = "test_dataloader.dataset.pipeline.2.sweep_choice=random"
    options = (*tiny_camera_options(synthetic_root), drawn)
    config = configs.load(cameras.config, _options(options))
    configs.registries()
    dataset = DATASETS.build(config.test_dataloader.dataset)
    frame = dataset.frames[number]
    assert bool(frame.sweeps) == bool(number)  # the first frame of a scene has none
    model = build_detector(config.model)
    checkpoint.load_into(model, cameras.checkpoint)
    with torch.inference_mode():
        expected = model.eval().predict(collate([dataset[number]]))[0]
    request = replace(
        cameras,
        points=Path(frame.lidar_path),
        images=synthetic_root / "samples",
        calib=dataset.ann_file,
        options=options,
    )
    result = infer(replace(request, sweeps=synthetic_root / "sweeps/LIDAR_TOP" if number else None))
    scores = np.sort(expected.scores.numpy())[::-1]
    found = [b["score"] for b in result.record["boxes"]]
    np.testing.assert_allclose(found, scores, **FLOAT)
    if number:
        alone = infer(request)
        assert any("earlier sweeps that were not read" in note for note in alone.notes)
        assert not np.array_equal(_boxes(alone.record), _boxes(result.record))
        with pytest.raises(
            FileNotFoundError, match=r"must hold the 10 sweeps that .* lists, got no"
        ):
            infer(replace(request, sweeps=synthetic_root / "maps"))
        with pytest.raises(ValueError, match="--sweeps must be left out when the points have ages"):
            infer(replace(request, sweeps=synthetic_root, dims=AGED))


def test_odd_annotations_are_left_out() -> None:
    whole = {"bbox_3d": [1, 2, 3, 4, 2, 2, 0.5], "bbox_label_3d": 7}
    odd = [
        5,
        {},
        whole | {"bbox_3d": None},
        whole | {"bbox_3d": "1234567"},
        whole | {"bbox_3d": [[1], [2, 3]]},
        whole | {"bbox_3d": [1, 2, 3, 4, 2, 2, float("nan")]},
        whole | {"bbox_3d_isvalid": False},
    ]
    calibration = Calibration(
        "infos",
        (),
        instances=(*odd, whole, whole | {"bbox_label_3d": [7]}),
        categories={"car": 7, "tram": [1]},
    )
    boxes, labels = _truth(calibration, ["truck", "car"])
    np.testing.assert_allclose(boxes, [[1, 2, 2, 4, 2, 2, 0.5, 0, 0]] * 2)
    assert labels.tolist() == [1, -1]


def _damaged(**content: Any) -> Callable[[Request], Request]:
    def change(request: Request) -> Request:
        for name, value in content.items():
            path = {"points": request.points, "calib": request.calib}.get(name)
            path = path or request.images / name.replace("_", ".")
            path.unlink()
            if value is not None:
                path.write_bytes(value)
        return request

    return change


def _points(change: Callable[[np.ndarray], None]) -> Callable[[Request], Request]:
    def apply(request: Request) -> Request:
        points = np.load(request.points)
        change(points)
        np.save(request.points, points)
        return request

    return apply


def _camera(**values: Any) -> Callable[[Request], Request]:
    def apply(request: Request) -> Request:
        content = json.loads(request.calib.read_text())
        content["cameras"]["front"].update(values)
        request.calib.write_text(json.dumps(content))
        return request

    return apply


def _asked(**values: Any) -> Callable[[Request], Request]:
    return lambda request: replace(request, **values)


def _set(row: int, column: int, value: float) -> Callable[[np.ndarray], None]:
    return lambda points: points.__setitem__((row, column), value)


ZERO = np.zeros((4, 4)).tolist()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damaged(front_png=None), "must hold a picture of every camera of .* got none of front"),
        (_damaged(front_png=b"no picture"), r"front.png must be a JPEG or PNG picture"),
        (_camera(width=640, height=360), "must be 640 x 360 as the calibration of front says"),
        (_camera(lidar2cam=ZERO), r"lidar2cam of front must be a rotation .*singular"),
        (_camera(cam2img=ZERO), "cam2img of front must have positive focal lengths"),
        (_damaged(calib=b"{"), "must be JSON"),
        (_damaged(points=b""), "must hold at least one point, got an empty file"),
        (_points(_set(5, 2, np.nan)), "got NaN or infinity in 1 of 4000 points; try --drop-nan"),
        (_points(_set(5, 2, 1e6)), "must lie within 10000 m of the lidar"),
        (_points(_set(5, 3, 4000.0)), r"intensity must be in 0\.\.255"),
        (_asked(dims=("x", "y", "z")), "dims must name the 4 columns"),
        (_asked(dims=("x", "y", "z", "age")), r"age must be in 0\.\.60 s"),
        (_asked(images=None), "--images must be given: .* got no picture of front, back"),
        (_asked(calib=None), "--calib must be given: .* uses cameras"),
        (_asked(points=None), "--points must be given: .* uses lidar"),
        (_asked(sweeps=Path("x")), "--sweeps must come with --points and an info file"),
        (_asked(score_thr=1.5), r"--score-thr must be in 0\.\.1, got 1\.5"),
        (_asked(device="cuda"), "device cuda must work here"),
        (_asked(options=("x",)), "--cfg-options must be KEY=VALUE, got 'x'"),
        (_asked(images=Path("nowhere")), "nowhere must be a folder"),
        (_asked(config=CONFIG_FILE, options=()), "checkpoint"),
        (_camera(lidar2cam=[*FORWARD[:2], [0, 1.0, 0, -900.0], FORWARD[3]]), None),
    ],
)
def test_what_is_wrong_is_named(cameras: Request, damage, message: str | None) -> None:
    request = damage(cameras)
    if request.device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has the device")
    if message is None:
        assert any("no point projects into front" in note for note in infer(request).notes)
        return
    with pytest.raises((ValueError, OSError, RuntimeError), match=message):
        infer(request)
    assert not (request.out / "detections.json").exists()


def test_a_principal_point_outside_the_picture_is_a_note(cameras: Request) -> None:
    """A picture may have been cropped."""
    result = infer(_camera(cam2img=[[150, 0, 900], *K[1:]])(cameras))
    assert any(
        "principal point of front, (900, 90), lies outside its picture of 320 x 180" in note
        for note in result.notes
    )


def test_pictures_are_turned_where_the_config_turns_them(cameras: Request) -> None:
    path, exif = cameras.images / "front.png", Image.Exif()
    with Image.open(path) as picture:
        expected = np.asarray(picture)
    exif[0x112] = 3
    Image.fromarray(expected[::-1, ::-1].copy()).save(path, exif=exif)
    step = {"type": "BEVLoadMultiViewImageFromFiles"}
    frame, notes = read_frame(cameras, [step | {"color_type": "color"}])
    np.testing.assert_array_equal(frame.pictures["front"], expected)
    assert not any("EXIF" in note for note in notes)
    frame, notes = read_frame(cameras, [step])
    np.testing.assert_array_equal(frame.pictures["front"], expected[::-1, ::-1])
    assert any("front.png is to be turned, says its EXIF" in note for note in notes)


def test_points_that_show_in_no_picture_are_refused(cameras: Request) -> None:
    away = [[1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, 1.0, 0, -900.0], [0, 0, 0, 1.0]]
    content = json.loads(cameras.calib.read_text())
    for camera in content["cameras"].values():
        camera["lidar2cam"] = away
    cameras.calib.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"points must project into a picture .* try the other axes"
    ):
        infer(cameras)


def test_nan_points_may_be_dropped(lidar: Request) -> None:
    points = np.load(lidar.points)
    points[:7] = np.nan
    np.save(lidar.points, points)
    result = infer(replace(lidar, drop_nan=True))
    assert "left out 7 of 4000 points that are not finite" in result.notes
    points[:] = np.nan
    np.save(lidar.points, points)
    with pytest.raises(ValueError, match="must hold finite points, got none of 4000"):
        infer(replace(lidar, drop_nan=True))


def test_intensities_of_0_to_1_are_scaled(lidar: Request) -> None:
    expected = infer(lidar).record
    points = np.load(lidar.points)
    points[:, 3] /= 255
    np.save(lidar.points, points)
    result = infer(lidar)
    assert any("multiplied by 255" in note for note in result.notes)
    np.testing.assert_allclose(_boxes(result.record), _boxes(expected), **BOXES)


def test_mixed_precision_on_the_cpu(lidar: Request) -> None:
    assert infer(replace(lidar, amp=True)).record["amp"] is True


def test_the_command(lidar: Request) -> None:
    arguments = ["infer", str(lidar.config), str(lidar.checkpoint), "--points", str(lidar.points)]
    options = [part for option in lidar.options for part in ("--cfg-options", option)]
    given = ["--out", str(lidar.out), "--score-thr", "0.0", "--device", "cpu"]
    result = CliRunner().invoke(main, [*arguments, *given, "--no-pictures", *options])
    assert result.exit_code == 0, result.output
    assert "boxes of score 0 and more" in result.output
    wrong = CliRunner().invoke(main, [*arguments, *given, *options, "--calib", "none.json"])
    assert wrong.exit_code == 1
    assert "Error: calib: none.json must be an existing file" in wrong.output


def test_the_command_prints_a_calibration_to_start_from() -> None:
    result = CliRunner().invoke(main, ["infer", "--calib-example"])
    assert result.exit_code == 0
    assert "lidar2cam" in result.output
    assert "Error" not in result.output
