"""projects/BEVFusion switches off the mixed precision of CUDA, whatever the device."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor

from anybev.patches.host._overlay import Facade, with_globals

Method = Callable[..., Any]


def _on(original: Method, device_type: str) -> Method:
    """The function with ``torch.autocast("cuda", ...)`` meaning the autocast of another device."""

    def autocast(device_type_: str, **kwargs: Any) -> AbstractContextManager[Any]:
        del device_type_
        return torch.autocast(device_type, **kwargs)

    return with_globals(original, torch=Facade(torch, autocast=autocast))


def lidar(original: Method) -> Method:
    """``BEVFusion.extract_pts_feat``: points are voxelized in float32 on every device."""
    on = cache(lambda device_type: _on(original, device_type))

    @wraps(original)
    def extract_pts_feat(self: Any, batch_inputs_dict: dict[str, Any]) -> Any:
        device_type = batch_inputs_dict["points"][0].device.type
        return on(device_type)(self, batch_inputs_dict)

    return extract_pts_feat


def head(original: Method) -> Method:
    """``TransFusionHead.forward_single``: the heatmap is computed in float32 on every device."""
    on = cache(lambda device_type: _on(original, device_type))

    @wraps(original)
    def forward_single(self: Any, inputs: Tensor, metas: Any) -> Any:
        return on(inputs.device.type)(self, inputs, metas)

    return forward_single


def camera(original: Method) -> Method:
    """``BEVFusion.extract_img_feat``: the view transform works in float32 on every device.

    Upstream opens an autocast *to float32*, which CUDA knows and the CPU refuses with a warning.
    Here autocast is off and the features are cast: the same arithmetic.
    """
    del original

    def extract_img_feat(self: Any, x: Tensor, points: Any, *geometry: Any, **named: Any) -> Tensor:
        batch, views = x.shape[:2]
        features = self.img_neck(self.img_backbone(x.flatten(0, 1).contiguous()))
        if not isinstance(features, Tensor):
            features = features[0]
        features = features.unflatten(0, (batch, views))
        with torch.autocast(x.device.type, enabled=False):
            lifted: Tensor = self.view_transform(features.float(), points, *geometry, **named)
        return lifted

    return extract_img_feat
