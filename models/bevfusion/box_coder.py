"""Boxes in metres to what the head regresses, and back."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class TransFusionBBoxCoder:
    """Encoding of TransFusion: cell centre, gravity height, log size, sine and cosine, velocity.

    Args:
        pc_range: x and y of the map's low corner, metres.
        out_size_factor: voxels a map cell spans.
        voxel_size: metres along x and y.
        post_center_range: low x, y, z and high x, y, z that a detection's bottom centre must lie
            in, ends included; None keeps all.
        score_threshold: detections must exceed it. None and 0 keep all, as upstream, whose test is
            for truth: with the usual 0.0 even a score of exactly 0 stays.
        code_size: 10, or 8 without velocity.
    """

    def __init__(
        self,
        pc_range: Sequence[float],
        out_size_factor: int,
        voxel_size: Sequence[float],
        post_center_range: Sequence[float] | None = None,
        score_threshold: float | None = None,
        code_size: int = 8,
    ) -> None:
        if code_size not in (8, 10):
            raise ValueError(f"TransFusionBBoxCoder: code_size must be 8 or 10, got {code_size}")
        self.origin_m = (float(pc_range[0]), float(pc_range[1]))
        self.out_size_factor = out_size_factor
        self.voxel_size = (float(voxel_size[0]), float(voxel_size[1]))
        self.post_center_range = post_center_range
        self.score_threshold = score_threshold
        self.code_size = code_size

    def encode(self, boxes_lidar: Tensor) -> Tensor:
        """(G, 9 or more) boxes, metres and radians, to (G, code_size) regression targets."""
        cells = [
            (boxes_lidar[:, axis] - self.origin_m[axis])
            / (self.out_size_factor * self.voxel_size[axis])
            for axis in (0, 1)
        ]
        size, yaw_rad = boxes_lidar[:, 3:6], boxes_lidar[:, 6]
        gravity_z = boxes_lidar[:, 2] + size[:, 2] * 0.5
        code = [*cells, gravity_z, *size.log().unbind(1), yaw_rad.sin(), yaw_rad.cos()]
        if self.code_size == 10:
            code += boxes_lidar[:, 7:9].unbind(1)
        return torch.stack(code, dim=1)

    def decode(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Head outputs to boxes, without gradient, in float32.

        Args:
            outputs: ``center`` (B, 2, Q) in cells, ``height`` (B, 1, Q), ``dim`` (B, 3, Q),
                ``rot`` (B, 2, Q) and, with velocity, ``vel`` (B, 2, Q).

        Returns:
            (B, Q, 9), or (B, Q, 7) without velocity; bottom centre, metres, radians.
        """
        center, height, dim, rot = (
            outputs[name].detach().float() for name in ("center", "height", "dim", "rot")
        )
        metres = [
            center[:, axis] * self.out_size_factor * self.voxel_size[axis] + self.origin_m[axis]
            for axis in (0, 1)
        ]
        size = dim.exp()
        bottom_z = height[:, 0] - size[:, 2] * 0.5
        yaw_rad = torch.atan2(rot[:, 0], rot[:, 1])
        parts = [*metres, bottom_z, *size.unbind(1), yaw_rad]
        if "vel" in outputs:
            parts += outputs["vel"].detach().float().unbind(1)
        return torch.stack(parts, dim=-1)

    def keep(self, boxes_lidar: Tensor, scores: Tensor) -> Tensor:
        """(..., Q) bool: which decoded boxes (..., Q, 7 or 9) pass range and score threshold."""
        mask = torch.ones_like(scores, dtype=torch.bool)
        if self.post_center_range is not None:
            low, high = scores.new_tensor(self.post_center_range).view(2, 3)
            center = boxes_lidar[..., :3]
            mask &= (center >= low).all(-1) & (center <= high).all(-1)
        if self.score_threshold:
            mask &= scores > self.score_threshold
        return mask
