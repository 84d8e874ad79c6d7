"""The head's ``train_cfg`` and ``test_cfg``: known keys, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anybev.models.bevfusion.assigner import Assigner

# Classes whose local maximum is the cell itself, because their objects are smaller than a cell, and
# the radius of non-maximum suppression per class (-1: none), as upstream sets them by data set.
SMALL_CLASSES = ("pedestrian", "traffic_cone")  # of nuScenes, 8 and 9 of its ten
SMALL_RADIUS = 0.175
_POINTWISE = {"nuScenes": (8, 9), "Waymo": (1, 2)}
_NMS_RADIUS = {"nuScenes": (-1.0,) * 8 + (SMALL_RADIUS,) * 2, "Waymo": (0.7, 0.7, 0.7)}


@dataclass(frozen=True)
class HeadTrainCfg:
    """How targets are made.

    Attributes:
        point_cloud_range: low x, y, z, high x, y, z, metres.
        grid_size: voxels along x, y, z.
        voxel_size: metres.
        out_size_factor: voxels a map cell spans.
        code_weights: weight of each regressed number.
        assigner: which query answers for which box.
        gaussian_overlap, min_radius: of the heatmap's peaks.
        pos_weight: classification weight of matched queries, 1 when not positive.
        dataset: accepted for mmdetection3d's configs.
    """

    point_cloud_range: Sequence[float]
    grid_size: Sequence[int]
    voxel_size: Sequence[float]
    out_size_factor: int
    code_weights: Sequence[float]
    assigner: Assigner
    gaussian_overlap: float = 0.1
    min_radius: int = 2
    pos_weight: float = -1
    dataset: str = "nuScenes"


@dataclass(frozen=True)
class HeadTestCfg:
    """How boxes are proposed and filtered.

    Attributes:
        grid_size: voxels along x, y(, z).
        out_size_factor: voxels a map cell spans.
        dataset: ``nuScenes`` or ``Waymo`` choose the two class lists below if there are as many
            classes as that data set has; another name, another number: none.
        voxel_size, pc_range: accepted for mmdetection3d's configs; the box coder has its own.
        nms_type: None, ``circle`` (centre distance) or ``rotate`` (overlap seen from above).
        pre_maxsize, post_maxsize: boxes of a class before and after suppression.
        pointwise_classes: classes that skip the local maximum; None takes the data set's.
        nms_radius: per class, -1 for no suppression; squared metres for ``circle``, IoU for
            ``rotate``, both as upstream; None takes the data set's.
    """

    grid_size: Sequence[int]
    out_size_factor: int
    dataset: str = "nuScenes"
    voxel_size: Sequence[float] | None = None
    pc_range: Sequence[float] | None = None
    nms_type: str | None = None
    pre_maxsize: int | None = None
    post_maxsize: int = 83
    pointwise_classes: Sequence[int] | None = None
    nms_radius: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.nms_type not in (None, "circle", "rotate"):
            raise ValueError(
                f"test_cfg: nms_type must be None, circle or rotate, got {self.nms_type!r}"
            )

    def map_size(self) -> tuple[int, int]:
        """Cells of the map along x and y."""
        size_x, size_y = (n // self.out_size_factor for n in self.grid_size[:2])
        return size_x, size_y

    def pointwise(self, num_classes: int) -> list[int]:
        """Classes that skip the local maximum."""
        chosen = self.pointwise_classes
        if chosen is None:
            chosen = _POINTWISE[self.dataset] if self._is_whole(num_classes) else ()
        return [c for c in chosen if c < num_classes]

    def radius(self, num_classes: int) -> list[float]:
        """Suppression radius of each class."""
        chosen = self.nms_radius
        if chosen is None:
            chosen = _NMS_RADIUS[self.dataset] if self._is_whole(num_classes) else ()
        return [*chosen, *[-1.0] * num_classes][:num_classes]

    def _is_whole(self, num_classes: int) -> bool:
        """Whether the classes may be the data set's, whose numbers the lists are made of."""
        return num_classes == len(_NMS_RADIUS.get(self.dataset, ()))
