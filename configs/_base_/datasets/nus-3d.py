# nuScenes, lidar: ten sweeps, class-balanced resampling, object sampling.
dataset_type = "NuScenesDataset"
data_root = "data/nuscenes/"
detection_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
class_names = [
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
]
metainfo = dict(classes=class_names)
data_prefix = dict(pts="samples/LIDAR_TOP", sweeps="sweeps/LIDAR_TOP")
db_sampler = dict(
    data_root=data_root,
    info_path=data_root + "nuscenes_dbinfos_train.pkl",
    rate=1.0,
    prepare=dict(
        filter_by_difficulty=[-1],
        filter_by_min_points=dict.fromkeys(class_names, 5),
    ),
    classes=class_names,
    sample_groups=dict(
        car=2,
        truck=3,
        construction_vehicle=7,
        bus=4,
        trailer=6,
        barrier=2,
        motorcycle=6,
        bicycle=6,
        pedestrian=2,
        traffic_cone=2,
    ),
)
load_points = dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=5, use_dim=5)
load_sweeps = dict(
    type="LoadPointsFromMultiSweeps",
    sweeps_num=9,
    load_dim=5,
    use_dim=5,
    pad_empty_sweeps=True,
    remove_close=True,
)
train_pipeline = [
    load_points,
    load_sweeps,
    dict(type="LoadAnnotations3D"),
    dict(type="ObjectSample", db_sampler=db_sampler, disable_after_epoch=15),
    dict(
        type="GlobalRotScaleTrans",
        rot_range=[-0.785, 0.785],
        scale_ratio_range=[0.9, 1.1],
        translation_std=[0.5, 0.5, 0.5],
    ),
    dict(type="BEVFusionRandomFlip3D"),
    dict(type="PointsRangeFilter", point_cloud_range=detection_range),
    dict(type="ObjectRangeFilter", point_cloud_range=detection_range),
    dict(type="ObjectNameFilter", classes=class_names),
    dict(type="PointShuffle"),
]
test_pipeline = [
    load_points,
    load_sweeps,
    dict(type="PointsRangeFilter", point_cloud_range=detection_range),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="EpochSampler", shuffle=True, batch_size=4),
    dataset=dict(
        type="CBGSDataset",
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            ann_file="nuscenes_infos_train.pkl",
            pipeline=train_pipeline,
            metainfo=metainfo,
            data_prefix=data_prefix,
            use_valid_flag=True,
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="EpochSampler", shuffle=False, pad=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="nuscenes_infos_val.pkl",
        pipeline=test_pipeline,
        metainfo=metainfo,
        data_prefix=data_prefix,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="NuScenesMetric",
    data_root=data_root,
    ann_file=data_root + "nuscenes_infos_val.pkl",
    classes=class_names,
    version="v1.0-trainval",
    split="val",
)
test_evaluator = val_evaluator
