"""The small BEVFusion of `anybev check`, for tests."""

from anybev.engine.check.tiny import MAP_SIZE, POINT_CLOUD_RANGE, tiny_batch, tiny_model_cfg

__all__ = ["MAP_SIZE", "POINT_CLOUD_RANGE", "tiny_batch", "tiny_model_cfg"]
