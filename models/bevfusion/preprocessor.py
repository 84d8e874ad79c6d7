"""Raw points of a batch to the voxels the encoder takes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anybev.device.ops.voxelize_hard import voxelize_hard
from anybev.models.common.arguments import call


class VoxelLayer(nn.Module):
    """Group points into voxels and average each voxel's points.

    Args:
        max_num_points: points a voxel keeps, the first ones in input order.
        point_cloud_range: x, y, z minimum, then maximum, metres.
        voxel_size: metres along x, y, z.
        max_voxels: most voxels of a sample, or a pair for training and evaluation.
        voxelize_reduce: only True: a voxel's features are the mean over its points.
    """

    def __init__(
        self,
        max_num_points: int,
        point_cloud_range: Sequence[float],
        voxel_size: Sequence[float],
        max_voxels: int | Sequence[int],
        voxelize_reduce: bool = True,
    ) -> None:
        super().__init__()
        if not voxelize_reduce:
            raise ValueError("voxelize_cfg: voxelize_reduce must be True, got False")
        limits = (max_voxels, max_voxels) if isinstance(max_voxels, int) else tuple(max_voxels)
        if len(limits) != 2:
            raise ValueError(
                f"voxelize_cfg: max_voxels must be one number or two, got {max_voxels!r}"
            )
        self.max_num_points = max_num_points
        self.point_cloud_range = [float(v) for v in point_cloud_range]
        self.voxel_size = [float(v) for v in voxel_size]
        self.max_voxels = limits

    @torch.no_grad()
    def forward(self, points_lidar_m: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Voxelise each sample in float32, autocast or not.

        Args:
            points_lidar_m: B tensors (P_b, F).

        Returns:
            Means (N, F) float32 and coordinates (N, 4) int32 (b, x, y, z), samples in order.
        """
        limit = self.max_voxels[0 if self.training else 1]
        means, cells = [], []
        for index, points in enumerate(points_lidar_m):
            mean, xyz, _ = voxelize_hard(
                points.float(),
                self.voxel_size,
                self.point_cloud_range,
                self.max_num_points,
                limit,
            )
            means.append(mean)
            cells.append(nn.functional.pad(xyz, (1, 0), value=index))
        return torch.cat(means), torch.cat(cells)


class HardSimpleVFE(nn.Module):
    """The voxel features an encoder sees: the first ``num_features`` of each voxel's mean."""

    def __init__(self, num_features: int = 5) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, means: Tensor) -> Tensor:
        """(N, F) to (N, num_features)."""
        if means.shape[1] < self.num_features:
            raise ValueError(
                f"HardSimpleVFE: points must have at least {self.num_features} features, got "
                f"{means.shape[1]}; try another num_features"
            )
        return means[:, : self.num_features]


class Det3DDataPreprocessor(nn.Module):
    """Turns a batch's points into voxels.

    Args:
        voxelize_cfg: arguments of `VoxelLayer`.
        pad_size_divisor: accepted for mmdetection3d's configs; concerns images only.
    """

    def __init__(self, voxelize_cfg: Mapping[str, Any], pad_size_divisor: int = 1) -> None:
        super().__init__()
        self.pad_size_divisor = pad_size_divisor
        self.pts_voxel_layer = call("voxelize_cfg", VoxelLayer, voxelize_cfg)

    def forward(self, points_lidar_m: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See `VoxelLayer.forward`."""
        voxels: tuple[Tensor, Tensor] = self.pts_voxel_layer(points_lidar_m)
        return voxels
