"""Lines of boxes in a picture, against points sampled along every edge."""

import numpy as np
import pytest

from anybev.datasets import boxes as geometry
from anybev.datasets.infos import CATEGORIES, load_infos, parse_frames
from anybev.datasets.points import read_points
from anybev.reporting.projection import EDGES, FRONT, NEAR_M, project_lines

SIZE = (90, 160)
LIDAR2IMG = np.array(
    [[100.0, 80, 0, 0], [0, 45, -100, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
)  # looks along +y


def sampled(box: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Pixels of an edge that are in front and inside, found point by point."""
    corner = geometry.corners(box[None].astype(np.float64))[0]
    kept = []
    for step in np.linspace(0, 1, 4001):
        u, v, depth, _ = LIDAR2IMG @ [*(corner[pair[0]] * (1 - step) + corner[pair[1]] * step), 1]
        if depth >= NEAR_M and 0 <= u / depth <= SIZE[1] and 0 <= v / depth <= SIZE[0]:
            kept.append((u / depth, v / depth))
    return np.array(kept).reshape(-1, 2)


@pytest.mark.parametrize(
    "box",
    [
        [0, 12, -1, 4.5, 1.9, 1.6, 1.2],
        [2, 1, -1, 4, 2, 1.5, 0.4],  # partly behind the camera
        [-2.5, 0.5, -1, 8, 2, 2.5, 1.5],
        [0, 0.2, -1.5, 30, 30, 3, 0.3],  # the camera is inside
        [9, 10, -1, 4, 2, 1.5, 0.0],  # at the border
    ],
)
def test_lines_are_the_visible_part_of_every_edge(box: list[float]) -> None:
    row = np.array(box)
    for pair in [*EDGES, *FRONT]:
        lines, owner = project_lines(row[None], pair[None], LIDAR2IMG, SIZE)
        wanted = sampled(row, pair)
        assert len(lines) == len(owner) == min(len(wanted), 1)
        if len(wanted):
            # Near the camera one step of the samples is several pixels.
            room = 1e-6 + np.abs(np.diff(wanted, axis=0)).max(0, initial=0) * 1.5
            assert (np.abs(lines[0][0] - wanted[0]) <= room).all()
            assert (np.abs(lines[0][1] - wanted[-1]) <= room).all()


def test_a_box_behind_or_beside_the_camera_has_no_line() -> None:
    boxes = np.array([[0, -9, -1, 4, 2, 1.5, 0], [40, 9, -1, 4, 2, 1.5, 0]])
    lines, owner = project_lines(boxes, EDGES, LIDAR2IMG, SIZE)
    assert lines.shape == (0, 2, 2)
    assert owner.shape == (0,)
    assert project_lines(boxes[:0], EDGES, LIDAR2IMG, SIZE)[0].shape == (0, 2, 2)


def test_each_line_knows_its_box_and_the_front_looks_along_the_heading() -> None:
    boxes = np.array([[0, -9, -1, 4, 2, 1.5, 0.0], [0, 12, -1, 4, 2, 1.5, 0.0]])
    lines, owner = project_lines(boxes, EDGES, LIDAR2IMG, SIZE)
    assert len(lines) == 12
    assert set(owner) == {1}
    front, _ = project_lines(boxes, FRONT, LIDAR2IMG, SIZE)
    # Heading +x is to the right in the picture, and the middle of the front is 2 m right of it.
    assert front[..., 0].mean() > lines[..., 0].mean() + 10


def test_boxes_of_the_real_frame_enclose_their_points_in_every_camera(test_data) -> None:
    root = test_data / "data" / "nuscenes_frame"
    infos = load_infos(next(root.glob("*.pkl")))
    frame = parse_frames(
        infos, CATEGORIES, source=root, pts_prefix=str(root), sweeps_prefix="", keep="lidar"
    )[0]
    points = read_points(root / frame.lidar_path).points[:, :3].astype(np.float64)
    seen = 0
    for camera in infos["data_list"][0]["images"].values():
        cam2img = np.eye(4)
        cam2img[:3, :3] = camera["cam2img"]
        lidar2img = cam2img @ camera["lidar2cam"]
        for box in frame.boxes_lidar:
            lines, _ = project_lines(box[None], EDGES, lidar2img, (900, 1600))
            offset = (points - geometry.gravity_centres(box[None])[0]) @ geometry.rotation_about_z(
                float(box[6])
            )
            own = points[(np.abs(offset) < box[3:6] / 2).all(1)]
            pixels = own @ lidar2img[:3, :3].T + lidar2img[:3, 3]
            pixels = pixels[pixels[:, 2] > 0.5]
            pixels = pixels[:, :2] / pixels[:, 2:]
            pixels = pixels[((pixels > 0) & (pixels < (1600, 900))).all(1)]
            if len(lines) and len(pixels):
                low, high = lines.min((0, 1)) - 1, lines.max((0, 1)) + 1
                assert ((pixels >= low) & (pixels <= high)).all()
                seen += len(pixels)
    assert seen > 1000
