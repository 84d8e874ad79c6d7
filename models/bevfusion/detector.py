"""BEVFusion: points to boxes, stage by stage."""

from collections.abc import Sequence

from torch import Tensor, nn

from anybev.datasets.sample import Batch, Detections
from anybev.models.bevfusion.preprocessor import Det3DDataPreprocessor, HardSimpleVFE
from anybev.models.bevfusion.sparse_encoder import BEVFusionSparseEncoder
from anybev.models.bevfusion.transfusion_head import TransFusionHead


class BEVFusion(nn.Module):
    """Lidar branch of BEVFusion with mmdetection3d's state-dict keys.

    Source: Liu et al., "BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View
    Representation", ICRA 2023; TransFusion head: Bai et al., CVPR 2022.

    Args:
        data_preprocessor: points to voxels.
        pts_middle_encoder: voxels to a bird's-eye-view map.
        pts_backbone, pts_neck: 2D trunk over that map.
        bbox_head: boxes.
        pts_voxel_encoder: picks the features of a voxel; None takes all.
        img_backbone, img_neck, view_transform, fusion_layer: None; cameras are not supported yet.
    """

    def __init__(
        self,
        data_preprocessor: Det3DDataPreprocessor,
        pts_middle_encoder: BEVFusionSparseEncoder,
        pts_backbone: nn.Module,
        pts_neck: nn.Module,
        bbox_head: TransFusionHead,
        pts_voxel_encoder: HardSimpleVFE | None = None,
        img_backbone: None = None,
        img_neck: None = None,
        view_transform: None = None,
        fusion_layer: None = None,
    ) -> None:
        super().__init__()
        cameras = {
            "img_backbone": img_backbone,
            "img_neck": img_neck,
            "view_transform": view_transform,
            "fusion_layer": fusion_layer,
        }
        for name, part in cameras.items():
            if part is not None:
                raise ValueError(
                    f"BEVFusion: {name} must be None (lidar only), got {type(part).__name__}; "
                    "try the lidar config"
                )
        self.data_preprocessor = data_preprocessor
        self.pts_voxel_encoder = pts_voxel_encoder or nn.Identity()
        self.pts_middle_encoder = pts_middle_encoder
        self.pts_backbone = pts_backbone
        self.pts_neck = pts_neck
        self.bbox_head = bbox_head

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Head outputs of a batch; see `TransFusionHead.forward`."""
        means, coords = self.data_preprocessor(batch.points_lidar_m)
        voxels = self.pts_voxel_encoder(means)
        lidar_bev = self.pts_middle_encoder(voxels, coords, len(batch))
        stages = self.pts_backbone(lidar_bev)
        bev = self.pts_neck(stages)
        outputs: dict[str, Tensor] = self.bbox_head(bev)
        return outputs

    def loss(self, batch: Batch, matching: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Losses by mmdetection3d's names; the total is the sum of those with "loss" in them.

        Args:
            batch: points, boxes and labels on the model's device.
            matching: a given assignment instead of the Hungarian one; see `TransFusionHead.loss`.
        """
        return self.bbox_head.loss(self(batch), batch.boxes_lidar, batch.labels, matching)

    def predict(self, batch: Batch) -> list[Detections]:
        """Boxes of each sample, not sorted by score."""
        return self.bbox_head.predict(self(batch))
