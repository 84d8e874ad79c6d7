"""mmdet's focal loss away from CUDA refuses the label -1, which its CUDA operator takes."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anybev.patches.host._overlay import Facade, with_globals


def _one_hot(target: Tensor, num_classes: int) -> Tensor:
    """``one_hot`` with every label outside of the classes in the last column, the background's."""
    known = (target >= 0) & (target < num_classes)
    return F.one_hot(torch.where(known, target, num_classes - 1), num_classes=num_classes)


def replace(original: Callable[..., Any]) -> Callable[..., Any]:
    """``FocalLoss.forward``: labels that are no class are background on every device.

    mmdet's CUDA operator compares the label with each class; its path for other devices makes the
    label one-hot, which raises for -1. ImVoxelNet's head marks background by -1.
    """
    return with_globals(original, F=Facade(F, one_hot=_one_hot))
