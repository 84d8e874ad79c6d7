"""A few frames in KITTI's layout, with mmdetection3d's v2 info files and object database."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = ("Pedestrian", "Cyclist", "Car", "Van", "Truck", "Person_sitting", "Tram", "Misc")
_SIZES_M = {"Pedestrian": (0.8, 0.6, 1.75), "Cyclist": (1.76, 0.6, 1.73), "Car": (3.9, 1.6, 1.56)}
_WIDTH, _HEIGHT = 312, 94
_SCALE = _WIDTH / 1248  # of KITTI's pictures
_CAM2IMG = np.array(
    [
        [720.0 * _SCALE, 0, 610.0 * _SCALE, 0],
        [0, 720.0 * _SCALE, 175.0 * _SCALE, 0],
        [0, 0, 1.0, 0],
        [0, 0, 0, 1.0],
    ]
)
# x ahead, y left, z up to x right, y down, z ahead.
_LIDAR2CAM = np.array([[0, -1.0, 0, 0], [0, 0, -1.0, -0.08], [1.0, 0, 0, -0.27], [0, 0, 0, 1.0]])
_LIDAR_HEIGHT_M = 1.73


def write_kitti(root: Path, frames: int = 4, seed: int = 3) -> Path:
    """Write frames, the info files of both splits and the object database.

    Each frame has two cars, a pedestrian and a cyclist on a flat road, points on their faces and
    on the ground; both splits list all frames.

    Args:
        root: folder to write to.
        frames: how many.
        seed: of where things are.

    Returns:
        ``root``.
    """
    draw = np.random.default_rng(seed)
    for name in ("velodyne", "velodyne_reduced", "image_2", "calib", "label_2"):
        (root / "training" / name).mkdir(parents=True, exist_ok=True)
    (root / "kitti_gt_database").mkdir(exist_ok=True)
    infos = []
    database: dict[str, list[dict[str, Any]]] = {name: [] for name in _SIZES_M}
    for index in range(frames):
        names, boxes = _objects(draw)
        faces = [_on_faces(box, draw) for box in boxes]
        points = np.concatenate([_ground(draw), *faces]).astype(np.float32)
        for folder in ("velodyne", "velodyne_reduced"):
            points.tofile(root / "training" / folder / f"{index:06d}.bin")
        _write_picture(root / "training" / "image_2" / f"{index:06d}.png", draw)
        _write_calibration(root / "training" / "calib" / f"{index:06d}.txt")
        infos.append(_info(index, names, boxes, faces))
        _write_labels(root / "training" / "label_2" / f"{index:06d}.txt", infos[-1])
        for number, (name, box, found) in enumerate(zip(names, boxes, faces, strict=True)):
            file = f"kitti_gt_database/{index}_{name}_{number}.bin"
            found = found.copy()
            found[:, :3] -= box[:3]
            found.astype(np.float32).tofile(root / file)
            entry = {
                "name": name,
                "path": file,
                "image_idx": index,
                "gt_idx": number,
                "box3d_lidar": box.astype(np.float32),
                "num_points_in_gt": len(found),
                "difficulty": 0,
                "group_id": sum(map(len, database.values())),
                "score": 0.0,
            }
            database[name].append(entry)
    metainfo = {
        "categories": {name: label for label, name in enumerate(CATEGORIES)} | {"DontCare": -1},
        "dataset": "kitti",
        "info_version": "1.1",
    }
    for split in ("train", "val"):
        content = {"metainfo": metainfo, "data_list": infos}
        (root / f"kitti_infos_{split}.pkl").write_bytes(pickle.dumps(content))
    (root / "kitti_dbinfos_train.pkl").write_bytes(pickle.dumps(database))
    return root


def _objects(draw: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Names, and boxes (x, y, z of the bottom's centre, length, width, height, yaw) in metres."""
    names = ["Car", "Car", "Pedestrian", "Cyclist"]
    boxes = []
    for name, side_m in zip(names, (-4.0, 4.0, -8.0, 8.0), strict=True):
        size = np.array(_SIZES_M[name]) * draw.uniform(0.95, 1.05, 3)
        ahead_m = draw.uniform(8, 26)
        boxes.append([ahead_m, side_m, -_LIDAR_HEIGHT_M, *size, draw.uniform(-0.3, 0.3)])
    return names, np.array(boxes)


def _on_faces(box: np.ndarray, draw: np.random.Generator, number: int = 160) -> np.ndarray:
    """(number, 4) points just inside the four sides of a box, with an intensity."""
    local = draw.uniform(-0.48, 0.48, (number, 3))
    local[np.arange(number), draw.integers(0, 2, number)] = draw.choice([-0.47, 0.47], number)
    local[:, 2] += 0.5
    local *= box[3:6]
    c, s = np.cos(box[6]), np.sin(box[6])
    turned = local[:, :2] @ np.array([[c, s], [-s, c]])
    intensity = draw.uniform(0, 1, (number, 1))
    return np.concatenate([np.c_[turned, local[:, 2]] + box[:3], intensity], 1)


def _ground(draw: np.random.Generator, number: int = 3000) -> np.ndarray:
    low, high = (2, -20, -_LIDAR_HEIGHT_M - 0.02, 0), (45, 20, -_LIDAR_HEIGHT_M + 0.02, 0.4)
    return draw.uniform(low, high, (number, 4))


def _write_picture(path: Path, draw: np.random.Generator) -> None:
    pixels = draw.integers(0, 255, (_HEIGHT // 4, _WIDTH // 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((_WIDTH, _HEIGHT)).save(path)


def _write_calibration(path: Path) -> None:
    projection = " ".join(f"{v:.12e}" for v in _CAM2IMG[:3].ravel())
    rows = [f"P{i}: {projection}" for i in range(4)]
    rows.append("R0_rect: " + " ".join(f"{v:.12e}" for v in np.eye(3).ravel()))
    for name, matrix in (("Tr_velo_to_cam", _LIDAR2CAM), ("Tr_imu_to_velo", np.eye(4))):
        rows.append(f"{name}: " + " ".join(f"{v:.12e}" for v in matrix[:3].ravel()))
    path.write_text("\n".join(rows) + "\n")


def _write_labels(path: Path, info: dict[str, Any]) -> None:
    rows = []
    for one in info["instances"]:
        x, y, z, length, height, width, yaw_rad = one["bbox_3d"]
        numbers = [one["alpha"], *one["bbox"], height, width, length, x, y, z, yaw_rad]
        shown = " ".join(f"{v:.2f}" for v in numbers)
        rows.append(f"{CATEGORIES[one['bbox_label']]} 0.00 0 {shown}")
    path.write_text("\n".join(rows) + "\n")


def _info(
    index: int, names: list[str], boxes: np.ndarray, faces: list[np.ndarray]
) -> dict[str, Any]:
    instances = []
    lidar2img = _CAM2IMG @ _LIDAR2CAM
    for number, (name, box, points) in enumerate(zip(names, boxes, faces, strict=True)):
        bottom = (_LIDAR2CAM @ np.append(box[:3], 1.0))[:3]
        yaw_rad = float(-box[6] - np.pi / 2)
        rays = np.c_[points[:, :3], np.ones(len(points))] @ lidar2img.T
        pixels = np.clip(rays[:, :2] / rays[:, 2:3], 0, [_WIDTH - 1, _HEIGHT - 1])
        centre = bottom - [0, box[5] / 2, 0]
        centre_px = _CAM2IMG[:3, :3] @ centre
        label = CATEGORIES.index(name)
        instances.append(
            {
                "bbox": [*pixels.min(0).tolist(), *pixels.max(0).tolist()],
                "bbox_label": label,
                "bbox_3d": [*bottom.tolist(), box[3], box[5], box[4], yaw_rad],
                "bbox_label_3d": label,
                "depth": float(centre[2]),
                "center_2d": (centre_px[:2] / centre_px[2]).tolist(),
                "num_lidar_pts": len(points),
                "difficulty": 0,
                "truncated": 0.0,
                "occluded": 0,
                "alpha": float(yaw_rad - np.arctan2(bottom[0], bottom[2])),
                "score": 0.0,
                "index": number,
                "group_id": number,
            }
        )
    camera = {"cam2img": _CAM2IMG.tolist(), "lidar2img": lidar2img.tolist()}
    picture = {
        "img_path": f"{index:06d}.png",
        "height": _HEIGHT,
        "width": _WIDTH,
        "lidar2cam": _LIDAR2CAM.tolist(),
    }
    return {
        "sample_idx": index,
        "images": {
            "CAM0": camera,
            "CAM1": camera,
            "CAM2": camera | picture,
            "CAM3": camera,
            "R0_rect": np.eye(4).tolist(),
        },
        "lidar_points": {
            "num_pts_feats": 4,
            "lidar_path": f"{index:06d}.bin",
            "Tr_velo_to_cam": _LIDAR2CAM.tolist(),
            "Tr_imu_to_velo": np.eye(4).tolist(),
        },
        "instances": instances,
        "cam_instances": {"CAM2": instances},
    }
