"""BEVFusion: points and pictures to boxes, stage by stage."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from anybev.datasets.sample import Batch, CameraBatch, Detections
from anybev.models.bevfusion.conv_fuser import ConvFuser
from anybev.models.bevfusion.preprocessor import Det3DDataPreprocessor, HardSimpleVFE
from anybev.models.bevfusion.sparse_encoder import BEVFusionSparseEncoder
from anybev.models.bevfusion.transfusion_head import TransFusionHead
from anybev.models.bevfusion.view_transform import LSSTransform


class BEVFusion(nn.Module):
    """BEVFusion with mmdetection3d's state-dict keys: lidar, cameras, or both.

    Source: Liu et al., "BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View
    Representation", ICRA 2023; TransFusion head: Bai et al., CVPR 2022.

    Args:
        data_preprocessor: points to voxels, pictures to normalised ones.
        pts_backbone, pts_neck: 2D trunk over the bird's-eye-view map.
        bbox_head: boxes.
        pts_middle_encoder: voxels to a map; None for cameras alone.
        pts_voxel_encoder: picks the features of a voxel; None takes all.
        img_backbone, img_neck, view_transform: pictures to a map; all three or, for lidar alone,
            none.
        fusion_layer: the cameras' and the lidar's map to one; not needed for one sensor.
    """

    img_backbone: Any
    img_neck: Any

    def __init__(
        self,
        data_preprocessor: Det3DDataPreprocessor,
        pts_backbone: nn.Module,
        pts_neck: nn.Module,
        bbox_head: TransFusionHead,
        pts_middle_encoder: BEVFusionSparseEncoder | None = None,
        pts_voxel_encoder: HardSimpleVFE | None = None,
        img_backbone: nn.Module | None = None,
        img_neck: nn.Module | None = None,
        view_transform: LSSTransform | None = None,
        fusion_layer: ConvFuser | None = None,
    ) -> None:
        super().__init__()
        camera = {
            "img_backbone": img_backbone,
            "img_neck": img_neck,
            "view_transform": view_transform,
        }
        given = [name for name, part in camera.items() if part is not None]
        if given and len(given) < len(camera):
            raise ValueError(
                f"BEVFusion: a camera branch must have {', '.join(camera)}, got {', '.join(given)}"
            )
        if not given and pts_middle_encoder is None:
            raise ValueError(
                "BEVFusion: pts_middle_encoder or a camera branch must be given, got neither"
            )
        if given and pts_middle_encoder is not None and fusion_layer is None:
            raise ValueError("BEVFusion: fusion_layer must join lidar and cameras, got None")
        self.data_preprocessor = data_preprocessor
        self.img_backbone = img_backbone
        self.img_neck = img_neck
        self.view_transform = view_transform
        self.pts_voxel_encoder = pts_voxel_encoder or nn.Identity()
        self.pts_middle_encoder = pts_middle_encoder
        self.fusion_layer = fusion_layer
        self.pts_backbone = pts_backbone
        self.pts_neck = pts_neck
        self.bbox_head = bbox_head

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Head outputs of a batch; see `TransFusionHead.forward`.

        Raises:
            ValueError: a camera branch, and no pictures or pictures of another size.
        """
        maps = []
        if self.view_transform is not None:
            camera_bev = self.camera_map(batch)
            maps.append(camera_bev)
        if self.pts_middle_encoder is not None:
            means, coords = self.data_preprocessor.voxelize(batch.points_lidar_m)
            voxels = self.pts_voxel_encoder(means)
            lidar_bev = self.pts_middle_encoder(voxels, coords, len(batch))
            maps.append(lidar_bev)
        bev = maps[0] if self.fusion_layer is None else self.fusion_layer(maps)
        stages = self.pts_backbone(bev)
        features_bev = self.pts_neck(stages)
        outputs: dict[str, Tensor] = self.bbox_head(features_bev)
        return outputs

    def camera_map(self, batch: Batch) -> Tensor:
        """What the cameras see, on the map: (B, C, X, Y) float32.

        Raises:
            ValueError: no camera branch, no pictures or pictures of another size.
        """
        if self.img_backbone is None or self.img_neck is None or self.view_transform is None:
            raise ValueError("BEVFusion: img_backbone must be given for a camera map, got None")
        cameras = self._cameras(batch)
        images = self.data_preprocessor.normalize(cameras.images)
        pyramid = self.img_backbone(images.flatten(0, 1))
        features = self.img_neck(pyramid)[0].unflatten(0, images.shape[:2])
        camera_bev: Tensor = self.view_transform(
            features, batch.points_lidar_m, cameras, batch.lidar_aug_matrix
        )
        return camera_bev

    def loss(self, batch: Batch, matching: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Losses by mmdetection3d's names; the total is the sum of those with "loss" in them.

        Args:
            batch: points, pictures, boxes and labels on the model's device.
            matching: a given assignment instead of the Hungarian one; see `TransFusionHead.loss`.
        """
        return self.bbox_head.loss(self(batch), batch.boxes_lidar, batch.labels, matching)

    def predict(self, batch: Batch) -> list[Detections]:
        """Boxes of each sample, not sorted by score."""
        return self.bbox_head.predict(self(batch))

    def _cameras(self, batch: Batch) -> CameraBatch:
        """The batch's pictures, if they are what the camera branch was built for."""
        if batch.cameras is None:
            raise ValueError(
                "BEVFusion: batch.cameras must hold pictures for the camera branch, got None; try "
                "BEVLoadMultiViewImageFromFiles in the pipeline"
            )
        size = tuple(batch.cameras.images.shape[-2:])
        wanted = size if self.view_transform is None else self.view_transform.image_size
        if size != wanted:
            raise ValueError(
                f"BEVFusion: images must be {wanted} (image_size of view_transform), got {size}; "
                f"try ImageAug3D(final_dim={list(wanted)})"
            )
        return batch.cameras
