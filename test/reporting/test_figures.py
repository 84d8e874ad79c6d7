"""Figures of a frame: what is drawn, where, and in which order."""

import io

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from PIL import Image

from anybev.reporting.figures import (
    bev_figure,
    camera_figure,
    class_colour,
    ordered_cameras,
    png,
    safe_text,
)
from anybev.reporting.scene import Scene, SceneCamera


def lines_of(axes) -> list[np.ndarray]:
    return [
        np.array(path.vertices)
        for drawn in axes.collections
        if isinstance(drawn, LineCollection)
        for path in drawn.get_paths()
    ]


def test_from_above_forward_is_up_and_weak_predictions_are_left_out(scene: Scene) -> None:
    figure = bev_figure(scene)
    (axes,) = figure.axes
    centres = [outline.mean(0) for outline in lines_of(axes)]
    assert any(np.allclose(c[:2], (0, 12), atol=1.0) for c in centres)
    assert not any(np.allclose(c[:2], (5, 9), atol=0.5) for c in centres)
    assert axes.get_ylim() == (-54, 54)
    texts = [text.get_text() for text in axes.texts]
    assert "0.90" in texts
    assert "0.10" not in texts
    lower = bev_figure(scene, score_threshold=0.05, range_m=20)
    assert "0.10" in [text.get_text() for text in lower.axes[0].texts]


def test_the_stroke_of_a_prediction_points_along_its_heading(scene: Scene) -> None:
    strokes = [line for line in lines_of(bev_figure(scene).axes[0]) if len(line) == 2]
    (stroke,) = strokes
    assert stroke[1][1] - stroke[0][1] == pytest.approx(2.25, abs=0.01)  # half of 4.5 m, forward


def test_in_the_camera_boxes_lie_where_projection_puts_them(scene: Scene) -> None:
    (axes,) = camera_figure(scene).axes
    lines = np.concatenate(lines_of(axes))
    # A car 12 m ahead: in the middle, 1.9 m wide, so 1.9 * 100 / 9.75 px at its near end.
    assert abs(lines[:, 0].mean() - 80) < 6
    assert np.ptp(lines[:, 0]) < 30
    assert axes.get_xlim() == (0, 160)
    assert axes.get_ylim() == (90, 0)


def test_cameras_in_the_rigs_order_then_the_others() -> None:
    def camera(channel: str) -> SceneCamera:
        return SceneCamera(channel, np.zeros((9, 16, 3), np.uint8), np.eye(4))

    cameras = [camera(c) for c in ("CAM_X", "CAM_BACK", "CAM_FRONT", "CAM_FRONT_LEFT")]
    order = [c.channel for c in ordered_cameras(cameras)]
    assert order == ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_BACK", "CAM_X"]
    chosen = ordered_cameras(cameras, ["CAM_X", "CAM_FRONT"])
    assert [c.channel for c in chosen] == ["CAM_X", "CAM_FRONT"]
    with pytest.raises(ValueError, match=r"channels must be among CAM_X, .*got CAM_Z"):
        ordered_cameras(cameras, ["CAM_Z"])


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_any_number_of_cameras(scene: Scene, count: int) -> None:
    camera = scene.cameras[0]
    many = [SceneCamera(f"CAM_{i}", camera.image, camera.lidar2img) for i in range(count)]
    shown = Scene(scene.token, scene.points_lidar_m, scene.classes, many)
    figure = camera_figure(shown, panel_width_px=160)
    assert len(figure.axes) == count
    width, height = Image.open(io.BytesIO(png(figure))).size
    assert abs(width - (min(count, 3) * 166 + 6)) <= 1
    assert abs(height - -(-count // 3) * 116) <= 1


def test_an_empty_frame_is_drawn(scene: Scene) -> None:
    empty = Scene("t", np.zeros((0, 5), np.float32), ("car",), scene.cameras)
    assert png(bev_figure(empty)).startswith(b"\x89PNG")
    assert png(camera_figure(empty)).startswith(b"\x89PNG")


def test_names_from_files_cannot_break_a_figure(scene: Scene) -> None:
    names = ("_$\\frac{$<b>", "行人\x00\n$")
    hostile = Scene(
        scene.token,
        scene.points_lidar_m,
        names,
        [SceneCamera("$_{", scene.cameras[0].image, scene.cameras[0].lidar2img)],
        scene.predicted_boxes_lidar,
        scene.predicted_scores,
        scene.predicted_labels,
    )
    figure = bev_figure(hostile, score_threshold=0)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == [safe_text(names[0]), "行人\ufffd\ufffd$", "ground truth"]
    assert png(figure).startswith(b"\x89PNG")
    assert png(camera_figure(hostile)).startswith(b"\x89PNG")


def test_the_same_frame_gives_the_same_bytes(scene: Scene) -> None:
    assert png(bev_figure(scene)) == png(bev_figure(scene))


def test_colours_repeat_after_ten() -> None:
    assert len({class_colour(label) for label in range(10)}) == 10
    assert class_colour(13) == class_colour(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold must be in 0..1, got 1.5"),
        ({"range_m": 0.0}, "range_m must be more than 0, got 0.0"),
    ],
)
def test_options_out_of_range(scene: Scene, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bev_figure(scene, **options)


def test_no_camera_is_an_error(scene: Scene) -> None:
    bare = Scene("frame9", scene.points_lidar_m, scene.classes)
    with pytest.raises(ValueError, match="cameras of frame9 must be one or more, got none"):
        camera_figure(bare)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points_lidar_m": np.zeros((3, 2))}, r"points_lidar_m must be \(P, 3 or more\)"),
        ({"predicted_boxes_lidar": np.zeros((2, 5))}, "predicted_boxes_lidar must be finite and"),
        ({"true_boxes_lidar": np.full((1, 9), np.nan)}, "true_boxes_lidar must be finite and"),
        ({"predicted_labels": np.array([0, 2])}, r"predicted_labels must be in 0..1, got 0..2"),
        ({"predicted_labels": np.array([0])}, r"predicted_labels must be \(2,\)"),
        ({"predicted_labels": np.array([-1, 0])}, r"predicted_labels must be in 0..1, got -1..0"),
        ({"predicted_scores": np.zeros(3)}, r"predicted_scores must be \(2,\)"),
    ],
)
def test_a_scene_checks_what_it_holds(scene: Scene, changes, message: str) -> None:
    content = {name: getattr(scene, name) for name in Scene.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        Scene(**(content | changes))


@pytest.mark.parametrize(
    ("image", "matrix", "error", "message"),
    [
        (np.zeros((4, 4, 3)), np.eye(4), TypeError, "image of CAM must be uint8, got float64"),
        (np.zeros((4, 4), np.uint8), np.eye(4), ValueError, r"must be \(H, W, 3\), got \(4, 4\)"),
        (
            np.zeros((4, 4, 3), np.uint8),
            np.eye(3),
            ValueError,
            r"lidar2img of CAM must be a finite \(4, 4\) matrix, got shape \(3, 3\)",
        ),
    ],
)
def test_a_camera_checks_what_it_holds(image, matrix, error, message: str) -> None:
    with pytest.raises(error, match=message):
        SceneCamera("CAM", image, matrix)
