"""CenterPoint's targets are made object by object, some twenty waits for the device each."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from anybev.patches.host._heatmap import draw_gaussians
from anybev.patches.host.patch_gaussian_radius import radius_of

Targets = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]
Method = Callable[..., Targets]

_BOX = 9  # x, y, z, dx, dy, dz, yaw, vx, vy


class _Grid:
    """Cells of the head's map, and where a box lies on it, in upstream's order of rounding."""

    def __init__(self, config: Any) -> None:
        self.stride = config["out_size_factor"]
        self.origin = torch.tensor(config["point_cloud_range"])
        self.voxel = torch.tensor(config["voxel_size"])
        self.width, self.height = (int(n) // self.stride for n in config["grid_size"][:2])

    def cells(self, metres: Tensor, axis: int) -> Tensor:
        # By a number that lies on the host, as upstream: CUDA then multiplies by its reciprocal.
        cells: Tensor = metres / self.voxel[axis] / self.stride
        return cells

    def place(self, boxes: Tensor) -> Tensor:
        """Centres in cells, (N, 2)."""
        return torch.stack([self.cells(boxes[:, i] - self.origin[i], i) for i in (0, 1)], dim=1)


def _by_task(head: Any, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each task: rows of its boxes, sorted by class and then as given, and their class."""
    per_task, flag = [], 0
    for names in head.class_names:
        classes = torch.arange(len(names), device=labels.device)
        hit = (labels[None] == (classes + flag)[:, None]).nonzero()
        per_task.append((hit[:, 1], hit[:, 0]))
        flag += len(names)
    return per_task


def _encoded(head: Any, boxes: Tensor, centre: Tensor, cell: Tensor) -> Tensor:
    """Regression targets (N, 10) of boxes that are on the map."""
    size = boxes[:, 3:6].log() if head.norm_bbox else boxes[:, 3:6]
    yaw = boxes[:, 6:7]
    parts = (centre - cell, boxes[:, 2:3], size, torch.sin(yaw), torch.cos(yaw), boxes[:, 7:9])
    return torch.cat(parts, dim=1)


def replace(original: Method) -> Method:
    """``CenterHead.get_targets_single`` for all objects of a task at once.

    Same heatmaps, indices and masks, bit for bit; sines, cosines and logarithms of the regression
    targets to the last bit of float32. Boxes of other than nine numbers go to upstream's code.
    """

    @wraps(original)
    def get_targets_single(self: Any, gt_instances_3d: Any) -> Targets:
        labels, given = gt_instances_3d.labels_3d, gt_instances_3d.bboxes_3d
        boxes = torch.cat((given.gravity_center, given.tensor[:, 3:]), dim=1).to(labels.device)
        if boxes.shape[1] != _BOX:
            return original(self, gt_instances_3d)
        slots = self.train_cfg["max_objs"] * self.train_cfg["dense_reg"]
        grid = _Grid(self.train_cfg)
        heatmaps, targets, indices, masks = [], [], [], []
        for names, (rows, classes) in zip(self.class_names, _by_task(self, labels), strict=True):
            heatmap = boxes.new_zeros((len(names), grid.height, grid.width))
            target = boxes.new_zeros((slots, 10), dtype=torch.float32)
            index = labels.new_zeros(slots, dtype=torch.int64)
            mask = boxes.new_zeros(slots, dtype=torch.uint8)
            task, classes = boxes[rows[:slots]], classes[:slots]
            length, width = grid.cells(task[:, 3], 0), grid.cells(task[:, 4], 1)
            centre = grid.place(task)
            cell = centre.to(torch.int32)
            on_map = (cell >= 0).all(1) & (cell[:, 0] < grid.width) & (cell[:, 1] < grid.height)
            slot = ((width > 0) & (length > 0) & on_map).nonzero()[:, 0]
            if len(slot):
                radius = radius_of(width, length, self.train_cfg["gaussian_overlap"])[slot]
                radius = radius.long().clamp(min=self.train_cfg["min_radius"])
                x, y = cell[slot].long().unbind(1)
                draw_gaussians(heatmap, classes[slot], x, y, radius)
                index[slot] = y * grid.width + x
                mask[slot] = 1
                target[slot] = _encoded(self, task[slot], centre[slot], cell[slot])
            heatmaps.append(heatmap)
            targets.append(target)
            indices.append(index)
            masks.append(mask)
        return heatmaps, targets, indices, masks

    return get_targets_single
