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
    """Turns a batch's points into voxels and its pictures into normalised ones.

    Args:
        voxelize_cfg: arguments of `VoxelLayer`; None for a model without lidar.
        mean, std: of each channel of the pictures, grey levels; None leaves 0..255.
        bgr_to_rgb, rgb_to_bgr: reverse the channels before normalising; pictures come as RGB.
        pad_size_divisor: accepted for mmdetection3d's configs: pictures must have the size that
            the view transform is told.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        voxelize_cfg: Mapping[str, Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        pad_size_divisor: int = 1,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError("data_preprocessor: mean and std must be given together, got one")
        if bgr_to_rgb and rgb_to_bgr:
            raise ValueError("data_preprocessor: bgr_to_rgb and rgb_to_bgr must not both be True")
        mean, std = list(mean or [0.0]), list(std or [1.0])
        if len(mean) != len(std) or len(mean) not in (1, 3) or not all(v > 0 for v in std):
            raise ValueError(
                "data_preprocessor: mean and std must be 1 or 3 numbers, std > 0, got "
                f"{mean} and {std}"
            )
        self.pad_size_divisor = pad_size_divisor
        self.reverse = bgr_to_rgb or rgb_to_bgr
        for name, values in (("mean", mean), ("std", std)):
            column = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)
        layer = voxelize_cfg and call("voxelize_cfg", VoxelLayer, voxelize_cfg)
        self.pts_voxel_layer = layer or None

    def voxelize(self, points_lidar_m: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See `VoxelLayer.forward`.

        Raises:
            RuntimeError: there is no ``voxelize_cfg``.
        """
        if self.pts_voxel_layer is None:
            raise RuntimeError("data_preprocessor: voxelize_cfg must be given, got none")
        voxels: tuple[Tensor, Tensor] = self.pts_voxel_layer(points_lidar_m)
        return voxels

    def normalize(self, images: Tensor) -> Tensor:
        """Pictures (..., 3, H, W) uint8 to float32, on their device, autocast or not."""
        if self.reverse:
            images = images.flip(-3)
        return (images.float() - self.mean) / self.std

    def forward(self, points_lidar_m: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See `voxelize`."""
        return self.voxelize(points_lidar_m)
