"""Boxes to lines of a picture, cut where the camera cannot see."""

from __future__ import annotations

import numpy as np

from anybev.datasets import boxes as geometry

#: Corners (see ``datasets.boxes.corners``) that each of the 12 edges joins.
EDGES = np.array(
    [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)]
)
#: The diagonals of the face that looks along the heading.
FRONT = np.array([(0, 7), (3, 4)])
NEAR_M = 0.1


def clip_lines(
    starts: np.ndarray, ends: np.ndarray, planes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut lines to where ``planes @ point >= 0``, for every plane.

    Args:
        starts: (E, K) homogeneous points.
        ends: (E, K).
        planes: (P, K).

    Returns:
        Starts and ends of what is left of each line, and (E,) whether anything is.
    """
    at_start, at_end = starts @ planes.T, ends @ planes.T
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = at_start / (at_start - at_end)
    first = np.where(at_start < 0, np.where(at_end < 0, np.inf, crossing), 0.0).max(1, initial=0.0)
    last = np.where(at_end < 0, np.where(at_start < 0, -np.inf, crossing), 1.0).min(1, initial=1.0)
    seen = first < last
    first, last = np.where(seen, first, 0.0)[:, None], np.where(seen, last, 0.0)[:, None]
    along = ends - starts
    return starts + first * along, starts + last * along, seen


def project_lines(
    boxes_lidar: np.ndarray,
    pairs: np.ndarray,
    lidar2img: np.ndarray,
    image_size: tuple[int, int],
    near_m: float = NEAR_M,
) -> tuple[np.ndarray, np.ndarray]:
    """Lines between corners of boxes, in pixels, as far as they are inside the picture.

    A line that passes behind the camera is cut at ``near_m`` before the division by depth, so a
    box that stands beside the camera keeps its shape.

    Args:
        boxes_lidar: (N, >=7), z at the bottom.
        pairs: (E, 2) corners that a line joins, ``EDGES`` or ``FRONT``.
        lidar2img: (4, 4).
        image_size: height and width in pixels.
        near_m: least depth.

    Returns:
        (S, 2, 2) float64 lines as (u, v) of both ends, and (S,) the box of each.
    """
    corners = geometry.corners(np.asarray(boxes_lidar, np.float64))
    matrix = np.asarray(lidar2img, np.float64)
    # (u * depth, v * depth, depth, 1): in these terms every border of the picture is a plane.
    seen_from = corners @ matrix[:3, :3].T + matrix[:3, 3]
    points = np.concatenate([seen_from, np.ones((*seen_from.shape[:2], 1))], -1)
    height, width = image_size
    planes = np.array(
        [[0, 0, 1, -near_m], [1, 0, 0, 0], [-1, 0, width, 0], [0, 1, 0, 0], [0, -1, height, 0]],
        np.float64,
    )
    starts, ends = points[:, pairs[:, 0]], points[:, pairs[:, 1]]
    owner = np.repeat(np.arange(len(corners)), len(pairs))
    start, end, seen = clip_lines(starts.reshape(-1, 4), ends.reshape(-1, 4), planes)
    start, end = start[seen], end[seen]
    lines = np.stack([start[:, :2] / start[:, 2:3], end[:, :2] / end[:, 2:3]], 1)
    return lines, owner[seen]
