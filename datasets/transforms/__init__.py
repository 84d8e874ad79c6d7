"""Sample-to-sample transforms: loading, range filters, augmentation, object sampling."""

from anybev.datasets.transforms.augment import (
    BEVFusionGlobalRotScaleTrans,
    BEVFusionRandomFlip3D,
    GlobalRotScaleTrans,
    PointShuffle,
)
from anybev.datasets.transforms.base import Compose, Transform
from anybev.datasets.transforms.filters import (
    ObjectNameFilter,
    ObjectRangeFilter,
    PointsRangeFilter,
)
from anybev.datasets.transforms.images import (
    BEVLoadMultiViewImageFromFiles,
    GridMask,
    ImageAug3D,
)
from anybev.datasets.transforms.loading import (
    LoadAnnotations3D,
    LoadPointsFromFile,
    LoadPointsFromMultiSweeps,
)
from anybev.datasets.transforms.object_sample import ObjectSample

__all__ = [
    "BEVFusionGlobalRotScaleTrans",
    "BEVFusionRandomFlip3D",
    "BEVLoadMultiViewImageFromFiles",
    "Compose",
    "GlobalRotScaleTrans",
    "GridMask",
    "ImageAug3D",
    "LoadAnnotations3D",
    "LoadPointsFromFile",
    "LoadPointsFromMultiSweeps",
    "ObjectNameFilter",
    "ObjectRangeFilter",
    "ObjectSample",
    "PointShuffle",
    "PointsRangeFilter",
    "Transform",
]
