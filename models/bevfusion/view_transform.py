"""Camera features to a bird's-eye-view map: lift to depth bins, splat into cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anybev.datasets.sample import CameraBatch
from anybev.device.ops.bev_pool import bev_pool
from anybev.device.ops.lift_splat import lift_splat
from anybev.device.ops.rasterize_depth import rasterize_depth
from anybev.models.bevfusion.frustum import camera_rays, frustum_points

Bound = Sequence[float]


# Weight below which a cell's mean fades: next to nothing was seen there.
_LIGHT = 0.05


class LSSTransform(nn.Module):
    """Depth from the picture alone (Lift, Splat, Shoot).

    Runs in float32, autocast or not: depths of tens of metres fall into cells of decimetres.

    Source: Philion and Fidler, ECCV 2020; names and frozen parameters (``dx``, ``bx``, ``nx``,
    ``frustum``) as in mmdetection3d's BEVFusion project.

    Args:
        in_channels: of the image features.
        out_channels: of the map.
        image_size: height and width of the pictures, pixels.
        feature_size: height and width of the feature maps.
        xbound, ybound, zbound: low, high, cell along each axis, metres, lidar frame.
        dbound: nearest depth, farthest depth (left out), step, metres.
        downsample: 2 halves the map with three convolutions, 1 leaves it.
        exact_geometry: place every point of the frustum as upstream does, rounding alike, and pool
            the lifted volume (gigabytes at full size) instead of fusing both.
        average: divide what falls into a cell by the depth weights that came with it. False, as
            published, keeps the sum, which falls with the square of the distance.
    """

    bx: nn.Parameter
    dx: nn.Parameter
    nx: nn.Parameter
    frustum: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: Sequence[int],
        feature_size: Sequence[int],
        xbound: Bound,
        ybound: Bound,
        zbound: Bound,
        dbound: Bound,
        downsample: int = 1,
        exact_geometry: bool = False,
        average: bool = False,
    ) -> None:
        super().__init__()
        if downsample not in (1, 2):
            raise ValueError(f"view_transform: downsample must be 1 or 2, got {downsample}")
        bounds = {"xbound": xbound, "ybound": ybound, "zbound": zbound, "dbound": dbound}
        for name, bound in bounds.items():
            if len(bound) != 3 or not (bound[0] < bound[1] and bound[2] > 0):
                raise ValueError(
                    f"view_transform: {name} must be low < high and a cell > 0, got {list(bound)}"
                )
        cells = [_whole_cells(name, bounds[name]) for name in ("xbound", "ybound", "zbound")]
        self.in_channels, self.out_channels = in_channels, out_channels
        self.image_size = tuple(int(n) for n in image_size)
        self.feature_size = tuple(int(n) for n in feature_size)
        self.exact_geometry, self.average = exact_geometry, average
        axes = (xbound, ybound, zbound)
        self._freeze("dx", torch.tensor([float(axis[2]) for axis in axes]))
        self._freeze("bx", torch.tensor([axis[0] + axis[2] / 2.0 for axis in axes]))
        self._freeze("nx", torch.tensor(cells))
        self._freeze("frustum", _frustum(self.image_size, self.feature_size, dbound))
        self.depths = self.frustum.shape[0]
        self._read_grid()
        self.register_load_state_dict_post_hook(_read_loaded_grid)  # type: ignore[no-untyped-call]
        self.depthnet = self._make_depthnet()
        self.downsample = _make_downsample(out_channels) if downsample > 1 else nn.Identity()

    def forward(
        self,
        features: Tensor,
        points_lidar_m: Sequence[Tensor],
        cameras: CameraBatch,
        lidar_aug_matrix: Tensor,
    ) -> Tensor:
        """Features of each camera to one map.

        Args:
            features: (B, N, C_in, h, w).
            points_lidar_m: B clouds (P_b, >=3) float32, augmented; for the depth image, where one
                is used.
            cameras: calibration of the N cameras.
            lidar_aug_matrix: (B, 4, 4) float32.

        Returns:
            (B, C_out * cells along z, X, Y) float32, halved along X and Y by ``downsample=2``.

        Raises:
            ValueError: the feature maps are not of ``feature_size``.
        """
        if tuple(features.shape[-2:]) != self.feature_size:
            raise ValueError(
                f"view_transform: features must be {self.feature_size}, got "
                f"{tuple(features.shape[-2:])}; try another feature_size"
            )
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            logits = self.lift(features, points_lidar_m, cameras, lidar_aug_matrix)
            if self.average:
                pooled = self._splat_mean(logits, cameras, lidar_aug_matrix)
            else:
                pooled = self.splat(logits, cameras, lidar_aug_matrix)
            bev: Tensor = self.downsample(pooled)
        return bev

    def lift(
        self,
        features: Tensor,
        points_lidar_m: Sequence[Tensor],
        cameras: CameraBatch,
        lidar_aug_matrix: Tensor,
    ) -> Tensor:
        """(B, N, D + C_out, h, w): logits of the depth bins, then the context of each pixel."""
        logits: Tensor = self.depthnet(features.flatten(0, 1))
        return _by_camera(logits, features)

    def splat(self, logits: Tensor, cameras: CameraBatch, lidar_aug_matrix: Tensor) -> Tensor:
        """(B, C_out * Z, X, Y): the context of each point, weighted, summed over each cell."""
        if self.exact_geometry:
            return self._splat_exactly(logits, cameras, lidar_aug_matrix)
        rays = camera_rays(self.frustum[0, ..., :2], cameras, lidar_aug_matrix)
        depths = self.frustum[:, 0, 0, 2].contiguous()
        pooled: Tensor = lift_splat(
            logits, rays.rays_m, rays.origins_m, depths, self.lower_m, self.cell_m, self.grid
        )
        return pooled

    def _splat_mean(self, logits: Tensor, cameras: CameraBatch, lidar_aug_matrix: Tensor) -> Tensor:
        """As `splat`, over the weight of each cell, which one more channel of ones counts."""
        counted = nn.functional.pad(logits, (0, 0, 0, 0, 0, 1), value=1.0)
        pooled = self.splat(counted, cameras, lidar_aug_matrix)
        by_height = pooled.unflatten(1, (self.grid[2], self.out_channels + 1))
        mean = by_height[:, :, :-1] / (by_height[:, :, -1:] + _LIGHT)
        flat: Tensor = mean.flatten(1, 2)
        return flat

    def frustum_points_lidar_m(self, cameras: CameraBatch, lidar_aug_matrix: Tensor) -> Tensor:
        """(B, N, D, h, w, 3) float32: where `splat` sees each point of the frustum."""
        if self.exact_geometry:
            return frustum_points(self.frustum, cameras, lidar_aug_matrix)
        rays = camera_rays(self.frustum[0, ..., :2], cameras, lidar_aug_matrix)
        depth = self.frustum[..., 2:]
        return depth * rays.rays_m[:, :, None] + rays.origins_m[:, :, None, None, None]

    def cells(self, points_lidar_m: Tensor) -> tuple[Tensor, Tensor]:
        """Map cell of each point (..., 3) int64, and whether it is on the map (...) bool.

        Truncates toward zero: up to one cell outside the low borders still counts as cell 0.
        """
        scaled = (points_lidar_m - (self.bx - self.dx / 2.0)) / self.dx
        cells = scaled.long()
        return cells, ((cells >= 0) & (cells < self.nx)).all(-1)

    def _splat_exactly(
        self, logits: Tensor, cameras: CameraBatch, lidar_aug_matrix: Tensor
    ) -> Tensor:
        weights = logits[:, :, : self.depths].softmax(2)
        context = logits[:, :, self.depths :]
        volume = weights.unsqueeze(-1) * context.movedim(2, -1).unsqueeze(2)
        cells, kept = self.cells(self.frustum_points_lidar_m(cameras, lidar_aug_matrix))
        sample = torch.arange(len(logits), device=logits.device).view(-1, 1, 1, 1, 1)
        coords = torch.cat([sample.expand(kept.shape)[..., None], cells], -1)[kept]
        pooled: Tensor = bev_pool(volume[kept], coords.int(), len(logits), self.grid)
        return pooled

    def _make_depthnet(self) -> nn.Module:
        return nn.Conv2d(self.in_channels, self.depths + self.out_channels, 1)

    def _freeze(self, name: str, value: Tensor) -> None:
        self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    def _read_grid(self) -> None:
        """Keep the grid on the host, so that no forward pass waits for the device to tell it."""
        self.lower_m = (self.bx - self.dx / 2.0).tolist()
        self.cell_m = self.dx.tolist()
        self.grid = self.nx.tolist()


class DepthLSSTransform(LSSTransform):
    """Depth from the picture and from the lidar points drawn into it.

    Source: Liu et al., BEVFusion, ICRA 2023. Arguments as `LSSTransform`, and:

    Args:
        lidar_depth_gain: adds this times log(1 + points) to the logit of a depth bin for the points
            drawn at that depth in a pixel's patch. 0, as published, leaves it to ``dtransform`` to
            learn what a depth in metres means, which takes more steps than a short training has.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: Sequence[int],
        feature_size: Sequence[int],
        xbound: Bound,
        ybound: Bound,
        zbound: Bound,
        dbound: Bound,
        downsample: int = 1,
        exact_geometry: bool = False,
        average: bool = False,
        lidar_depth_gain: float = 0.0,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            image_size,
            feature_size,
            xbound,
            ybound,
            zbound,
            dbound,
            downsample,
            exact_geometry,
            average,
        )
        eighth = [-(-int(size) // 8) for size in image_size]
        if list(self.feature_size) != eighth:
            raise ValueError(
                f"view_transform: feature_size must be an eighth of image_size, {eighth}, got "
                f"{list(feature_size)}"
            )
        if lidar_depth_gain < 0:
            raise ValueError(
                f"view_transform: lidar_depth_gain must be 0 or more, got {lidar_depth_gain}"
            )
        self.lidar_depth_gain = float(lidar_depth_gain)
        self.dtransform = nn.Sequential(
            *_conv(1, 8, 1),
            *_conv(8, 32, 5, stride=4, padding=2),
            *_conv(32, 64, 5, stride=2, padding=2),
        )

    def lift(
        self,
        features: Tensor,
        points_lidar_m: Sequence[Tensor],
        cameras: CameraBatch,
        lidar_aug_matrix: Tensor,
    ) -> Tensor:
        """(B, N, D + C_out, h, w): logits of the depth bins, then the context of each pixel."""
        image = self.depth_image(points_lidar_m, cameras, lidar_aug_matrix)
        depth = self.dtransform(image.flatten(0, 1))
        logits: Tensor = self.depthnet(torch.cat([depth, features.flatten(0, 1)], dim=1))
        if self.lidar_depth_gain:
            evidence = self.lidar_depth_gain * self.points_per_bin(image).log1p()
            bins, context = logits[:, : self.depths], logits[:, self.depths :]
            logits = torch.cat([bins + evidence.flatten(0, 1), context], dim=1)
        return _by_camera(logits, features)

    def points_per_bin(self, depth_image: Tensor) -> Tensor:
        """How many drawn points fall into each depth bin of each feature pixel's patch.

        Args:
            depth_image: (B, N, 1, H, W), from `depth_image`.

        Returns:
            (B, N, D, h, w) float32; a depth belongs to the nearest bin, none beyond the outer ones.
        """
        depths = self.frustum[:, 0, 0, 2]
        step = depths[1] - depths[0] if self.depths > 1 else torch.ones_like(depths[0])
        nearest = ((depth_image[:, :, 0] - depths[0]) / step).round()
        drawn = (depth_image[:, :, 0] > 0) & (nearest >= 0) & (nearest < self.depths)
        rows, columns = (
            torch.arange(n, device=depth_image.device) * cells // n
            for n, cells in zip(self.image_size, self.feature_size, strict=True)
        )
        height, width = self.feature_size
        patch = rows[:, None] * width + columns
        index = torch.where(drawn, nearest, 0).long() * (height * width) + patch
        counts = depth_image.new_zeros(*depth_image.shape[:2], self.depths * height * width)
        counts.scatter_add_(2, index.flatten(2), drawn.flatten(2).to(counts.dtype))
        per_bin: Tensor = counts.unflatten(2, (self.depths, height, width))
        return per_bin

    def depth_image(
        self, points_lidar_m: Sequence[Tensor], cameras: CameraBatch, lidar_aug_matrix: Tensor
    ) -> Tensor:
        """(B, N, 1, H, W) float32: depth in metres where a point is seen, else 0."""
        drawn = [
            rasterize_depth(
                points.float(),
                cameras.lidar2img[index],
                cameras.img_aug_matrix[index],
                lidar_aug_matrix[index],
                self.image_size,
            )
            for index, points in enumerate(points_lidar_m)
        ]
        return torch.stack(drawn)

    def _make_depthnet(self) -> nn.Module:
        width = self.in_channels
        return nn.Sequential(
            *_conv(width + 64, width, 3, padding=1),
            *_conv(width, width, 3, padding=1),
            nn.Conv2d(width, self.depths + self.out_channels, 1),
        )


def _whole_cells(name: str, bound: Bound) -> int:
    """Cells from low to high, which must be whole; upstream cuts what is left over."""
    quotient = (bound[1] - bound[0]) / bound[2]
    count = round(quotient)
    if count < 1 or abs(quotient - count) > 1e-4:
        raise ValueError(
            f"view_transform: {name} must be a whole number of cells, 1 or more, got "
            f"{quotient:g} in {list(bound)}"
        )
    return count


def _read_loaded_grid(module: LSSTransform, _incompatible: object) -> None:
    module._read_grid()


def _by_camera(maps: Tensor, features: Tensor) -> Tensor:
    """(B * N, ...) to (B, N, ...) as ``features`` has them."""
    return maps.view(features.shape[:2] + maps.shape[1:])


def _frustum(image_size: Sequence[int], feature_size: Sequence[int], dbound: Bound) -> Tensor:
    """(D, h, w, 3) column and row in pixels, depth in metres.

    The pixels are spread from the first to the last of the picture, not put at cell centres.
    """
    (height, width), (rows, columns) = image_size, feature_size
    depths = torch.arange(*dbound, dtype=torch.float32)
    grid = torch.meshgrid(
        depths,
        torch.linspace(0, height - 1, rows),
        torch.linspace(0, width - 1, columns),
        indexing="ij",
    )
    return torch.stack([grid[2], grid[1], grid[0]], -1)


def _conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0
) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _make_downsample(channels: int) -> nn.Module:
    layers: list[nn.Module] = []
    for stride in (1, 2, 1):
        layers += [
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
