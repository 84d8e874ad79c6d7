"""mmcv's tests of points against boxes ask CUDA for its current device, whatever the tensors."""

from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace

import torch
from torch import Tensor

from anybev.patches.ext.boxes_3d import points_in_boxes_all_forward, points_in_boxes_part_forward
from anybev.patches.host._overlay import Facade, with_globals

Test = Callable[[Tensor, Tensor], Tensor]

_EXT = SimpleNamespace(
    points_in_boxes_all_forward=points_in_boxes_all_forward,
    points_in_boxes_part_forward=points_in_boxes_part_forward,
)


def replace(original: Test) -> Test:
    """``points_in_boxes_part`` and ``points_in_boxes_all`` on any device.

    Where the points are on CUDA the original runs. Elsewhere its own checks and buffers are kept,
    no current device is asked for or set, and AnyBEV's operator does the test: a compiled mmcv has
    none for the CPU.
    """

    @wraps(original)
    def test(points: Tensor, boxes: Tensor) -> Tensor:
        if points.device.type == "cuda":
            return original(points, boxes)
        current = SimpleNamespace(current_device=points.get_device)
        elsewhere = with_globals(original, torch=Facade(torch, cuda=current), ext_module=_EXT)
        found: Tensor = elsewhere(points, boxes)
        return found

    return test
