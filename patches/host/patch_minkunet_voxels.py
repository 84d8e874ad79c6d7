"""MinkUNet's voxelization makes its indices on CUDA, by way of numpy."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Method = Callable[..., dict[str, Tensor]]


def first_of_each(coords: Tensor) -> tuple[Tensor, Tensor]:
    """Unique rows of (N, 3) voxel coordinates.

    Returns:
        The first row that has each coordinate, in the order of upstream's key (the last column
        runs quickest), and for each row the number of its coordinate; int64.
    """
    coords = coords.long() - coords.amin(0).long()
    extent = coords.amax(0) + 1
    key = (coords[:, 0] * extent[1] + coords[:, 1]) * extent[2] + coords[:, 2]
    unique, inverse = torch.unique(key, return_inverse=True)
    rows = torch.arange(len(key), device=key.device)
    first = torch.full_like(unique, len(key)).scatter_reduce_(0, inverse, rows, "amin")
    return first, inverse


def replace(original: Method) -> Method:
    """``Det3DDataPreprocessor.voxelize`` for ``voxel_type="minkunet"`` on the points' device.

    Upstream takes the coordinates to numpy and the indices back with ``.cuda()``. Here they never
    leave the device. Same voxels, same order, same draws of numpy's generator where voxels are
    dropped. Other voxel types are upstream's.
    """

    @wraps(original)
    def voxelize(self: Any, points: list[Tensor], data_samples: list[Any]) -> dict[str, Tensor]:
        if self.voxel_type != "minkunet":
            return original(self, points, data_samples)
        voxels, coors = [], []
        for i, (cloud, data_sample) in enumerate(zip(points, data_samples, strict=False)):
            cells = torch.round(cloud[:, :3] / cloud.new_tensor(self.voxel_layer.voxel_size)).int()
            cells -= cells.amin(0)
            kept, point2voxel = first_of_each(cells)
            if self.training and self.max_voxels is not None and len(kept) > self.max_voxels:
                drawn = np.random.choice(  # noqa: NPY002 - upstream's generator
                    len(kept), self.max_voxels, replace=False
                )
                kept = kept[torch.from_numpy(drawn).to(kept.device)]
            if hasattr(data_sample.gt_pts_seg, "pts_semantic_mask"):
                mask = data_sample.gt_pts_seg.pts_semantic_mask
                data_sample.gt_pts_seg.voxel_semantic_mask = mask[kept]
            sites = F.pad(cells[kept], (1, 0) if self.batch_first else (0, 1), value=i)
            data_sample.batch_idx = sites[:, 0 if self.batch_first else -1]
            data_sample.point2voxel_map = point2voxel
            voxels.append(cloud[kept])
            coors.append(sites)
        return {"voxels": torch.cat(voxels), "coors": torch.cat(coors)}

    return voxelize
