"""The cameras of `anybev check`'s small BEVFusion, for tests."""

from anybev.engine.check.tiny_cameras import (
    IMAGE_SIZE,
    VIEW_SETTINGS,
    tiny_camera_batch,
    tiny_camera_cfg,
    tiny_cameras,
)

__all__ = [
    "IMAGE_SIZE",
    "VIEW_SETTINGS",
    "tiny_camera_batch",
    "tiny_camera_cfg",
    "tiny_cameras",
]
