"""Replacements of single functions of mmdetection3d, mmdet, mmcv and mmengine."""
