"""Voxels to a bird's-eye-view map: sparse 3D residual encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from anybev.device.ops.sparse_neighbors import PlanSpec, sparse_pyramid
from anybev.models.bevfusion.sparse_layers import (
    SparseBasicBlock,
    SparseConv,
    SparseConvModule,
    SparseTensor,
    linear_index,
    triple,
)

_NORM = {"type": "BN1d", "eps": 1e-3, "momentum": 0.01}
Padding = int | Sequence[int]


class BEVFusionSparseEncoder(nn.Module):
    """Four resolutions of sparse residual blocks, then z squeezed into the channels.

    Behaviour and parameter names as BEVFusion in mmdetection3d; sparse weights are
    ``[out, kx, ky, kz, in]``.

    Args:
        in_channels: features of a voxel.
        sparse_shape: cells along x, y, z (one more in z than the voxel grid has).
        order: only ("conv", "norm", "act").
        norm_cfg: layer description of the normalisation.
        base_channels: width after the first convolution.
        output_channels: width before z is folded into the channels.
        encoder_channels: widths of the blocks of each stage.
        encoder_paddings: padding of each block; only that of strided blocks matters.
        block_type: ``basicblock`` (the last block of a stage halves the grid) or ``conv_module``
            (the first block of every stage but the first does).
    """

    def __init__(
        self,
        in_channels: int,
        sparse_shape: Sequence[int],
        order: Sequence[str] = ("conv", "norm", "act"),
        norm_cfg: Mapping[str, Any] = _NORM,
        base_channels: int = 16,
        output_channels: int = 128,
        encoder_channels: Sequence[Sequence[int]] = ((16,), (32, 32, 32), (64, 64, 64), (64,) * 3),
        encoder_paddings: Sequence[Sequence[Padding]] = (
            (1,),
            (1, 1, 1),
            (1, 1, 1),
            ((0, 1, 1), 1, 1),
        ),
        block_type: str = "conv_module",
    ) -> None:
        super().__init__()
        if tuple(order) != ("conv", "norm", "act"):
            raise ValueError(
                f"BEVFusionSparseEncoder: order must be ('conv', 'norm', 'act'), got {order!r}"
            )
        if block_type not in ("basicblock", "conv_module"):
            raise ValueError(
                "BEVFusionSparseEncoder: block_type must be basicblock or conv_module, got "
                f"{block_type!r}"
            )
        self.sparse_shape = triple(sparse_shape)
        self.block_type = block_type
        self.norm_cfg = norm_cfg
        self.conv_input = SparseConvModule(
            SparseConv(in_channels, base_channels, submanifold=True), base_channels, norm_cfg
        )
        self.encoder_layers = nn.ModuleDict()
        width = base_channels
        for index, widths in enumerate(encoder_channels):
            last_stage = index == len(encoder_channels) - 1
            stage = self._stage(width, widths, encoder_paddings[index], index == 0, last_stage)
            self.encoder_layers[f"encoder_layer{index + 1}"] = stage
            width = widths[-1]
        self.conv_out = SparseConvModule(
            SparseConv(width, output_channels, (1, 1, 3), (1, 1, 2), 0, submanifold=False),
            output_channels,
            norm_cfg,
        )
        self.levels = self._levels()

    def _levels(self) -> list[PlanSpec]:
        """Geometry of the layers in order, layers of one resolution sharing one plan."""
        levels: list[PlanSpec] = []
        for module in self.modules():
            if isinstance(module, SparseConv) and not (
                module.spec.mode == "subm" and levels and levels[-1] == module.spec
            ):
                levels.append(module.spec)
        return levels

    def _stage(
        self,
        width: int,
        widths: Sequence[int],
        paddings: Sequence[Padding],
        first_stage: bool,
        last_stage: bool,
    ) -> nn.Sequential:
        blocks: list[nn.Module] = []
        residual = self.block_type == "basicblock"
        for index, channels in enumerate(widths):
            if residual:
                strided = index == len(widths) - 1 and not last_stage
            else:
                strided = index == 0 and not first_stage
            if strided:
                conv = SparseConv(width, channels, 3, 2, paddings[index], submanifold=False)
                blocks.append(SparseConvModule(conv, channels, self.norm_cfg))
            elif not residual:
                conv = SparseConv(width, channels, submanifold=True)
                blocks.append(SparseConvModule(conv, channels, self.norm_cfg))
            elif width == channels:
                blocks.append(SparseBasicBlock(channels, self.norm_cfg))
            else:
                raise ValueError(
                    "BEVFusionSparseEncoder: encoder_channels of a residual block must equal the "
                    f"width before it ({width}), got {channels}"
                )
            width = channels
        return nn.Sequential(*blocks)

    def forward(self, voxel_features: Tensor, coords: Tensor, batch_size: int) -> Tensor:
        """Encode.

        Args:
            voxel_features: (N, in_channels) float.
            coords: (N, 4) int32, columns (b, x, y, z).
            batch_size: samples in the batch; those without voxels give an empty map.

        Returns:
            (B, output_channels * Z, X, Y); channel ``c * Z + z``, as checkpoints expect.
        """
        # Ascending rows keep the neighbours of a row near it in memory.
        order = linear_index(coords, self.sparse_shape).argsort()
        coords = coords[order]
        plans = sparse_pyramid(coords, self.sparse_shape, batch_size, self.levels)
        x = SparseTensor(voxel_features[order], coords, self.sparse_shape, batch_size, plans)
        x = self.conv_input(x)
        for stage in self.encoder_layers.values():
            x = stage(x)
        grid: Tensor = self.conv_out(x).dense()
        batch, size_x, size_y, size_z, channels = grid.shape
        return grid.permute(0, 4, 3, 1, 2).reshape(batch, channels * size_z, size_x, size_y)
