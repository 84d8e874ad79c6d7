"""Data sets, transforms and samplers under mmdetection3d's type names."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dist import get_dist_info

from anybev.datasets import cbgs, nuscenes, sampling
from anybev.datasets.transforms import augment, filters, images, loading, object_sample
from anybev.engine.registry import DATA_SAMPLERS, DATASETS, TRANSFORMS, build

for _transform in (
    loading.LoadPointsFromFile,
    loading.LoadPointsFromMultiSweeps,
    loading.LoadAnnotations3D,
    images.BEVLoadMultiViewImageFromFiles,
    images.ImageAug3D,
    images.GridMask,
    object_sample.ObjectSample,
    augment.GlobalRotScaleTrans,
    augment.BEVFusionGlobalRotScaleTrans,
    augment.BEVFusionRandomFlip3D,
    augment.PointShuffle,
    filters.PointsRangeFilter,
    filters.ObjectRangeFilter,
    filters.ObjectNameFilter,
):
    TRANSFORMS.register_module(module=_transform)


@DATASETS.register_module(name="NuScenesDataset")
def build_nuscenes(
    ann_file: str,
    data_root: str,
    pipeline: Sequence[Mapping[str, Any]],
    metainfo: Mapping[str, Any],
    data_prefix: Mapping[str, str] | None = None,
    modality: Mapping[str, bool] | None = None,
    cameras: Sequence[str] | None = None,
    test_mode: bool = False,
    filter_empty_gt: bool = True,
    use_valid_flag: bool = True,
    seed: int = 0,
    on_bad_sample: str = "stop",
) -> nuscenes.NuScenesDataset:
    """A ``NuScenesDataset`` from mmdetection3d's config keys.

    Args:
        ann_file: v2 info file, relative to ``data_root``.
        data_root: folder of the data set.
        pipeline: transforms as config dicts.
        metainfo: ``classes``, names in the order of the model's labels.
        data_prefix: folders below ``data_root`` of key sweeps (``pts``), other sweeps (``sweeps``)
            and each camera's pictures (``CAM_FRONT='samples/CAM_FRONT'``, or ``img`` for all).
        modality: ``use_camera=True`` reads cameras.
        cameras: channels to read, in this order; None takes those of the info file.
        test_mode: every frame exactly once, none replaced.
        filter_empty_gt: replace training samples without boxes.
        use_valid_flag: annotated boxes count with a lidar or radar point, else a lidar point.
        seed: of augmentation.
        on_bad_sample: ``stop`` or ``skip``.
    """
    return nuscenes.NuScenesDataset(
        ann_file,
        data_root,
        metainfo["classes"],
        [build(TRANSFORMS, step) for step in pipeline],
        data_prefix=data_prefix,
        modality=modality,
        cameras=cameras,
        test_mode=test_mode,
        filter_empty_gt=filter_empty_gt,
        use_valid_flag=use_valid_flag,
        seed=seed,
        on_bad_sample=on_bad_sample,  # type: ignore[arg-type] # checked there
    )


@DATASETS.register_module(name="CBGSDataset")
def build_cbgs(dataset: Mapping[str, Any], seed: int | None = None) -> cbgs.CBGSDataset:
    """A class-balanced data set around the one that ``dataset`` describes."""
    return cbgs.CBGSDataset(build(DATASETS, dataset), seed=seed)


@DATA_SAMPLERS.register_module(name="EpochSampler")
def build_epoch_sampler(
    dataset: Any,
    seed: int | None = None,
    shuffle: bool = True,
    batch_size: int = 1,
    drop_last: bool = False,
    pad: bool = True,
) -> sampling.EpochSampler:
    """The sampler of this rank; ``dataset`` and ``seed`` come from the Runner."""
    rank, world_size = get_dist_info()
    return sampling.EpochSampler(
        len(dataset),
        seed=seed or 0,
        shuffle=shuffle,
        rank=rank,
        world_size=world_size,
        batch_size=batch_size,
        drop_last=drop_last,
        pad=pad,
    )
