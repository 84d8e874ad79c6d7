"""What every stage of a running detector puts out, under the names of golden packs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from anybev.datasets.sample import Batch
from anybev.models.bevfusion.detector import BEVFusion
from anybev.models.bevfusion.view_transform import DepthLSSTransform, LSSTransform

_DENSE = {
    "view_transform": "cam.bev",
    "pts_middle_encoder": "lidar.bev",
    "fusion_layer": "fused",
    "pts_neck": "fpn",
    "bbox_head.shared_conv": "head.shared",
}


class StageRecorder:
    """Collects the outputs of a detector's modules while it runs (a context manager).

    Args:
        detector: the model to listen to.
        depth_image: (N, 1, H, W) what the view transform gets in place of its own depth image.
    """

    def __init__(self, detector: BEVFusion, depth_image: Tensor | None = None) -> None:
        self.detector = detector
        self.depth_image = depth_image
        self.stages: dict[str, np.ndarray] = {}
        self._levels: list[list[float]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> StageRecorder:
        detector = self.detector
        if detector.view_transform is not None:
            self._listen_to_cameras(detector.view_transform)
        if detector.pts_middle_encoder is not None:
            self._listen(detector.data_preprocessor.pts_voxel_layer, self._voxels)
            encoder = detector.pts_middle_encoder
            for level in (encoder.conv_input, *encoder.encoder_layers.values(), encoder.conv_out):
                self._listen(level, self._level)
        self._listen(detector.pts_backbone, lambda maps: self._keep_all("second", maps))
        modules = dict(detector.named_modules())
        for path, stage in _DENSE.items():
            if path in modules:
                self._listen(modules[path], lambda out, stage=stage: self._keep(stage, out))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def geometry(self, batch: Batch) -> None:
        """Add where the view transform saw the points of the frustum."""
        view = self.detector.view_transform
        if view is None or batch.cameras is None:
            return
        with torch.no_grad():
            points = view.frustum_points_lidar_m(batch.cameras, batch.lidar_aug_matrix)
            cells, kept = view.cells(points)
        self._keep("cam.geom", points)
        hit = torch.unique(cells[kept], dim=0)
        self.stages["cam.geom_counts"] = np.array([int(kept.sum()), len(hit)])

    def _listen_to_cameras(self, view: LSSTransform) -> None:
        self._listen(self.detector.img_backbone, lambda maps: self._keep_all("cam.swin", maps))
        self._listen(self.detector.img_neck, lambda maps: self._keep("cam.neck0", maps[0]))
        self._listen(view.depthnet, lambda out: self._logits(view.depths, out))
        self._before(self.detector.img_backbone, lambda x: self._keep("input.images", x))
        self._before(view.downsample, lambda x: self._keep("cam.bev_pool", x))
        if isinstance(view, DepthLSSTransform):
            self._before(view.dtransform, self._depth_image)

    def _listen(self, module: nn.Module | None, take: Any) -> None:
        if module is not None:
            handle = module.register_forward_hook(lambda _m, _in, out: take(out))
            self._handles.append(handle)

    def _before(self, module: nn.Module, take: Any) -> None:
        handle = module.register_forward_pre_hook(lambda _m, given: take(given[0]))
        self._handles.append(handle)

    def _keep(self, stage: str, value: Tensor) -> None:
        self.stages[stage] = value.detach().cpu().numpy()

    def _keep_all(self, stage: str, maps: tuple[Tensor, ...]) -> None:
        for index, value in enumerate(maps):
            self._keep(f"{stage}{index}", value)

    def _depth_image(self, image: Tensor) -> Tensor:
        if self.depth_image is not None:
            image = self.depth_image
        self._keep("cam.depth_image", image)
        return image

    def _logits(self, depths: int, logits: Tensor) -> None:
        self._keep("cam.depth_softmax", logits[:, :depths].softmax(1))
        self._keep("cam.context", logits[:, depths:])

    def _voxels(self, out: tuple[Tensor, Tensor]) -> None:
        self._keep("lidar.voxel_feats", out[0])
        self._keep("lidar.voxel_coords", out[1])

    def _level(self, out: Any) -> None:
        values = out.features.detach().double()
        sums = (values.sum(), (values**2).sum(), values.abs().max())
        self._levels.append([float(len(values)), *(float(s) for s in sums)])
        self.stages["lidar.levels"] = np.array(self._levels)
