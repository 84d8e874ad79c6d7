"""A few rooms in the layouts of ScanNet and SUN RGB-D, with mmdetection3d's v2 info files."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Of mmdetection3d's ScanNet: label of the detector, id in the semantic masks, size in metres.
_SCANNET = ((1, 4, (1.9, 1.8, 1.2)), (2, 5, (0.6, 0.6, 0.7)), (4, 7, (0.98, 1.07, 0.63)))
# Of its SUN RGB-D: label, size.
_SUNRGBD = ((0, (2.1, 1.6, 0.9)), (3, (0.59, 0.55, 0.83)), (1, (0.79, 1.28, 0.72)))
_FLOOR_ID = 2
_POINTS_ON_OBJECT = 800


def write_scannet(root: Path, rooms: int = 2, seed: int = 5) -> Path:
    """Write rooms with a bed, a chair and a table, their masks and the info files of both splits.

    Args:
        root: folder to write to.
        rooms: how many.
        seed: of where things are.

    Returns:
        ``root``.
    """
    draw = np.random.default_rng(seed)
    for name in ("points", "instance_mask", "semantic_mask"):
        (root / name).mkdir(parents=True, exist_ok=True)
    infos = []
    for index in range(rooms):
        file = f"scene{index:04d}_00.bin"
        boxes = _place(draw, [size for *_, size in _SCANNET], turned=False)
        points, owner = _room(draw, boxes)
        ids = np.array([_FLOOR_ID, *(nyu for _, nyu, _ in _SCANNET)])
        points.tofile(root / "points" / file)
        owner.tofile(root / "instance_mask" / file)
        ids[owner].astype(np.int64).tofile(root / "semantic_mask" / file)
        infos.append(
            {
                "lidar_points": {"num_pts_feats": 6, "lidar_path": file},
                "pts_semantic_mask_path": file,
                "pts_instance_mask_path": file,
                "axis_align_matrix": np.eye(4).tolist(),
                "instances": [
                    {"bbox_3d": box[:6].tolist(), "bbox_label_3d": label}
                    for box, (label, *_) in zip(boxes, _SCANNET, strict=True)
                ],
            }
        )
    _write_infos(root, "scannet", infos)
    return root


def write_sunrgbd(root: Path, rooms: int = 2, seed: int = 6) -> Path:
    """Write rooms with a bed, a chair and a table that are turned, and the info files.

    Args:
        root: folder to write to.
        rooms: how many.
        seed: of where things are.

    Returns:
        ``root``.
    """
    draw = np.random.default_rng(seed)
    pictures = root / "sunrgbd_trainval" / "image"
    for folder in (root / "points", pictures):
        folder.mkdir(parents=True, exist_ok=True)
    infos = []
    for index in range(rooms):
        boxes = _place(draw, [size for _, size in _SUNRGBD], turned=True)
        points, _ = _room(draw, boxes)
        points.tofile(root / "points" / f"{index:06d}.bin")
        Image.new("RGB", (146, 106), (90, 120, 150)).save(pictures / f"{index:06d}.jpg")
        camera = {
            "img_path": f"{index:06d}.jpg",
            "height": 106,
            "width": 146,
            "depth2img": [[104.0, 73.0, 0.0], [0.0, 53.0, -104.0], [0.0, 1.0, 0.0]],
        }
        infos.append(
            {
                "lidar_points": {"num_pts_feats": 6, "lidar_path": f"{index:06d}.bin"},
                "images": {"CAM0": camera},
                "instances": [
                    {
                        "bbox_3d": box.tolist(),
                        "bbox_label_3d": label,
                        "bbox": [10.0, 10.0, 60.0, 60.0],
                        "bbox_label": label,
                    }
                    for box, (label, _) in zip(boxes, _SUNRGBD, strict=True)
                ],
            }
        )
    _write_infos(root, "sunrgbd", infos)
    return root


def _write_infos(root: Path, dataset: str, infos: list[dict[str, Any]]) -> None:
    content = {"metainfo": {"dataset": dataset, "info_version": "1.1"}, "data_list": infos}
    for split in ("train", "val"):
        (root / f"{dataset}_infos_{split}.pkl").write_bytes(pickle.dumps(content))


def _place(
    draw: np.random.Generator, sizes: Sequence[tuple[float, float, float]], *, turned: bool
) -> np.ndarray:
    """(N, 7) centre, size and yaw of things on the floor, well apart."""
    boxes = []
    for number, size_m in enumerate(sizes):
        size = np.array(size_m) * draw.uniform(0.95, 1.05, 3)
        x, y = (-2.2, 0.0, 2.2)[number], draw.uniform(2.0, 3.5)
        boxes.append([x, y, size[2] / 2, *size, draw.uniform(-0.4, 0.4) if turned else 0.0])
    return np.array(boxes)


def _room(draw: np.random.Generator, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 6) with colours, float32, and which thing each is on, int64; 0 is the floor."""
    floor = np.c_[draw.uniform((-4, 0), (4, 6), (2400, 2)), draw.normal(0, 0.01, 2400)]
    parts, owner = [floor], [np.zeros(len(floor), np.int64)]
    for number, box in enumerate(boxes, 1):
        local = draw.uniform(-0.49, 0.49, (_POINTS_ON_OBJECT, 3))
        axis = draw.integers(0, 3, len(local))
        local[np.arange(len(local)), axis] = draw.choice([-0.49, 0.49], len(local))
        local *= box[3:6]
        c, s = np.cos(box[6]), np.sin(box[6])
        turned = local[:, :2] @ np.array([[c, s], [-s, c]])
        parts.append(np.c_[turned, local[:, 2]] + box[:3])
        owner.append(np.full(len(local), number))
    places = np.concatenate(parts)
    colours = draw.uniform(0, 255, places.shape)
    return np.concatenate([places, colours], 1).astype(np.float32), np.concatenate(owner)
