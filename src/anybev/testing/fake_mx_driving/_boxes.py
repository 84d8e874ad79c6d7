"""Boxes and targets: polygon clipping, point tests and Gaussians, box by box in Python floats."""

import math

import torch
from torch import Tensor

Point = tuple[float, float]


def _corners(x: float, y: float, dx: float, dy: float, yaw: float) -> list[Point]:
    cos, sin = math.cos(yaw), math.sin(yaw)
    local = [(-dx / 2, -dy / 2), (dx / 2, -dy / 2), (dx / 2, dy / 2), (-dx / 2, dy / 2)]
    return [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in local]


def _area(polygon: list[Point]) -> float:
    turned = [*polygon[1:], *polygon[:1]]
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(polygon, turned, strict=True)) / 2


def _clipped(polygon: list[Point], start: Point, end: Point) -> list[Point]:
    """Part of the polygon on the left of an edge (Sutherland and Hodgman)."""

    def side(p: Point) -> float:
        return (end[0] - start[0]) * (p[1] - start[1]) - (end[1] - start[1]) * (p[0] - start[0])

    kept: list[Point] = []
    for here, there in zip(polygon, [*polygon[1:], *polygon[:1]], strict=True):
        a, b = side(here), side(there)
        if a >= 0:
            kept.append(here)
        if (a > 0 > b) or (a < 0 < b):
            t = a / (a - b)
            kept.append((here[0] + t * (there[0] - here[0]), here[1] + t * (there[1] - here[1])))
    return kept


def _overlap(a: list[float], b: list[float]) -> float:
    if min(a[2], a[3], b[2], b[3]) <= 0:
        return 0.0
    x, y, dx, dy, yaw = a
    # Near the origin, for the product of large coordinates loses what is asked for.
    shared = _corners(0.0, 0.0, dx, dy, yaw)
    frame = _corners(b[0] - x, b[1] - y, b[2], b[3], b[4])
    for start, end in zip(frame, [*frame[1:], *frame[:1]], strict=True):
        shared = _clipped(shared, start, end)
    return max(_area(shared), 0.0) if shared else 0.0


def npu_box_iou_rotated(boxes_a: Tensor, boxes_b: Tensor, mode: int, aligned: bool) -> Tensor:
    """Overlap over the union (mode 0) or over the first box (mode 1)."""
    first, second = boxes_a.double().tolist(), boxes_b.double().tolist()
    out = torch.zeros(len(first), len(second))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            shared = _overlap(a, b)
            whole = a[2] * a[3] + (b[2] * b[3] - shared if mode == 0 else 0.0)
            out[i, j] = shared / whole if whole > 0 else 0.0
    return out.diagonal() if aligned else out


def nms3d(boxes: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Kept boxes of sorted ones, padded, and their number; both int16."""
    flat = boxes[:, [0, 1, 3, 4, 6]].double().tolist()
    kept: list[int] = []
    for i, box in enumerate(flat):
        ious = (
            _overlap(flat[k], box)
            / max(flat[k][2] * flat[k][3] + box[2] * box[3] - _overlap(flat[k], box), 1e-8)
            for k in kept
        )
        if all(iou <= threshold for iou in ious):
            kept.append(i)
    out = torch.zeros(len(flat), dtype=torch.int16)
    out[: len(kept)] = torch.tensor(kept, dtype=torch.int16)
    return out, torch.tensor([len(kept)], dtype=torch.int16)


def npu_points_in_box_all(boxes: Tensor, points: Tensor) -> Tensor:
    """1 where a point is strictly inside along x and y, and at or between bottom and top."""
    batch = []
    for sample_boxes, sample_points in zip(boxes, points, strict=True):
        cx, cy, bottom, dx, dy, dz, yaw = sample_boxes.unbind(1)
        x, y, z = (column[:, None] for column in sample_points.unbind(1))
        cos, sin = torch.cos(-yaw), torch.sin(-yaw)
        along = (x - cx) * cos - (y - cy) * sin
        across = (x - cx) * sin + (y - cy) * cos
        inside = (along.abs() < dx / 2) & (across.abs() < dy / 2)
        batch.append(inside & ((z - (bottom + dz / 2)).abs() <= dz / 2))
    return torch.stack(batch).int()


def _radius(length: float, width: float, overlap: float, least: int) -> int:
    total, area = length + width, length * width
    terms = (
        (1.0, 1.0, (1 - overlap) / (1 + overlap)),
        (2.0, 4.0, 1 - overlap),
        (-2 * overlap, 4 * overlap, overlap - 1),
    )
    roots = []
    for scale, a, c in terms:
        b = scale * total
        roots.append((b + math.sqrt(b * b - 4 * a * c * area)) / 2)
    return max(int(min(roots)), least)


def npu_gaussian(
    boxes: Tensor,
    factor: int,
    overlap: float,
    min_radius: int,
    size_x: float,
    size_y: float,
    low_x: float,
    low_y: float,
    cells_x: int,
    cells_y: int,
    norm_bbox: bool,
    with_velocity: bool,
    flip_angle: bool,
    max_objects: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Centres (G, 2), radii, mask, linear places and target columns, which are left zero here."""
    count = min(len(boxes), max_objects)
    centre = torch.zeros(count, 2, dtype=torch.int32)
    radius = torch.zeros(count, dtype=torch.int32)
    mask = torch.zeros(max_objects, dtype=torch.uint8)
    place = torch.zeros(max_objects, dtype=torch.int64)
    steps = torch.tensor([size_x, size_y])
    cells = (boxes[:, :2] - torch.tensor([low_x, low_y])) / steps / factor
    sizes = boxes[:, 3:5] / steps / factor
    for i in range(count):
        (x, y), (dx, dy) = cells[i].trunc().tolist(), sizes[i].tolist()
        centre[i] = torch.tensor([int(x), int(y)])
        if dx > 0 and dy > 0 and 0 <= x < cells_x and 0 <= y < cells_y:
            mask[i], place[i] = 1, int(y) * cells_x + int(x)
            radius[i] = _radius(dx, dy, overlap, min_radius)
    return centre, radius, mask, place, torch.zeros(max_objects, boxes.shape[1] + 1)


def npu_draw_gaussian_to_heatmap(
    mask: Tensor,
    classes: Tensor,
    centre: Tensor,
    radius: Tensor,
    cells_x: int,
    cells_y: int,
    num_classes: int,
) -> Tensor:
    """(classes, cells_y, cells_x): classes count from 1, centres are (2, G)."""
    out = torch.zeros(num_classes, cells_y, cells_x)
    for i in range(centre.shape[1]):
        plane = int(classes[i]) - 1
        if not mask[i] or not 0 <= plane < num_classes:
            continue
        (x, y), r = centre[:, i].tolist(), int(radius[i])
        sigma = (2 * r + 1) / 6
        for row in range(max(y - r, 0), min(y + r + 1, cells_y)):
            for column in range(max(x - r, 0), min(x + r + 1, cells_x)):
                squared = (row - y) ** 2 + (column - x) ** 2
                value = math.exp(-squared / (2 * sigma * sigma))
                out[plane, row, column] = max(float(out[plane, row, column]), value)
    return out
