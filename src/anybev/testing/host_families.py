"""Every family of mmdetection3d's installed configs: what of it runs, and what does not."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from anybev.testing.host_calls import CALLS, LAYERS
from anybev.testing.host_scenes import Scene

_KITTI_SIZES = ((0.8, 0.6, 1.73), (1.76, 0.6, 1.73), (3.9, 1.6, 1.56))
_KITTI = Scene("lidar", (0, -40, -3), (70.4, 40, 1), _KITTI_SIZES, floor=-1.78)
_KITTI_SEEN = replace(_KITTI, low=(5, -20, -3), high=(60, 20, 1), picture=(192, 640))
_KITTI_CAMERA = Scene(
    "cam",
    (-10, 0, 2),
    (10, 3, 22),
    ((0.8, 1.73, 0.6), (1.76, 1.73, 0.6), (3.9, 1.56, 1.6)),
    floor=1.6,
    points=0,
    picture=(192, 640),
)
_NUSCENES_SIZES = (
    (4.6, 1.95, 1.73),
    (6.9, 2.5, 2.84),
    (12.3, 2.9, 3.87),
    (11.2, 2.9, 3.5),
    (6.4, 2.86, 3.2),
    (0.5, 2.5, 0.99),
    (2.1, 0.77, 1.47),
    (1.7, 0.6, 1.28),
    (0.73, 0.67, 1.77),
    (0.41, 0.41, 1.07),
)
_NUSCENES = Scene(
    "lidar",
    (-50, -50, -5),
    (50, 50, 3),
    _NUSCENES_SIZES,
    floor=-1.8,
    features=5,
    objects=30,
    box_dim=9,
)
_NUSCENES_CAMERA = replace(
    _KITTI_CAMERA, sizes=_NUSCENES_SIZES, picture=(256, 448), objects=10, box_dim=9
)
_LYFT = Scene(
    "lidar",
    (-80, -80, -5),
    (80, 80, 3),
    (
        (1.76, 0.63, 1.44),
        (2.35, 0.96, 1.59),
        (0.8, 0.76, 1.76),
        (0.73, 0.35, 0.5),
        (4.75, 1.92, 1.71),
        (6.52, 2.42, 2.34),
        (12.7, 2.92, 3.42),
        (8.17, 2.75, 3.2),
        (10.24, 2.84, 3.44),
    ),
    floor=-1.1,
    objects=18,
)
_WAYMO_CAMERAS = replace(
    _KITTI_SEEN,
    sizes=((0.91, 0.84, 1.74), (1.81, 0.84, 1.77), (4.73, 2.08, 1.77)),
    floor=0.0,
    points=0,
    picture=(128, 256),
    views=2,
)
_SCANNET = Scene(
    "depth",
    (-3, -3, 0),
    (3, 3, 2.5),
    ((0.8, 0.8, 0.9), (1.9, 1.8, 1.2), (0.6, 0.6, 0.7)) * 6,
    masks=18,
    by_object=True,
    turned=False,
)
_SUNRGBD = Scene(
    "depth",
    (-2, 1, -1),
    (2, 5, 1.5),
    ((2.1, 1.6, 0.9), (0.79, 1.28, 0.72), (0.92, 1.87, 0.85), (0.59, 0.55, 0.83)),
    floor=-1.0,
    picture=(256, 320),
)
_S3DIS = Scene(
    "depth", (-0.7, -0.7, 0), (0.7, 0.7, 2.5), ((0.5, 0.5, 0.9),), points=4096, features=9, masks=13
)
_SEMANTICKITTI = Scene(
    "lidar", (-35, -35, -4), (35, 35, 2), _KITTI_SIZES, floor=-1.8, points=2000, masks=19
)


@dataclass(frozen=True)
class Family:
    """A folder of mmdetection3d's configs.

    Attributes:
        config: file in it; empty where it holds none.
        scene: what the model sees here; None where it cannot be built.
        options: of the config, by dotted key.
        removed: keys of the model that are taken out of the config.
        predicted: fields of the scene that differ when it predicts.
        trained: least share of the trainable parameters that get a gradient that is not 0.
        fails: message of the error that building it ends in; empty where it runs.
        note: what else to know.
    """

    config: str
    scene: Scene | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    removed: tuple[str, ...] = ()
    predicted: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    trained: float = 0.99
    fails: str = ""
    note: str = ""


# Frozen norms that would come with downloaded weights begin at zero otherwise.
_FRESH = {"model.backbone.zero_init_residual": False}
# A model that has not learned finds nothing above its config's threshold.
_ALL_SCORES = {"model.test_cfg.score_thr": 0.0}
_ALL_PTS_SCORES = {"model.test_cfg.pts.score_thr": 0.0}
_NO_PROPOSAL = "no proposal of a fresh RPN meets an object: the box regression of the RoIs rests"

FAMILIES: dict[str, Family] = {
    "3dssd": Family(
        "3dssd_4xb4_kitti-3d-car.py",
        replace(_KITTI, sizes=_KITTI_SIZES[2:], points=16384),
    ),
    "benchmark": Family(
        "hv_PartA2_secfpn_4x8_cyclic_80e_pcdet_kitti-3d-3class.py",
        _KITTI,
        trained=0.95,
        note=_NO_PROPOSAL,
    ),
    "centerpoint": Family(
        "centerpoint_voxel01_second_secfpn_head-dcn-circlenms_8xb4-cyclic-20e_nus-3d.py", _NUSCENES
    ),
    "cylinder3d": Family("cylinder3d_4xb4-3x_semantickitti.py", _SEMANTICKITTI),
    "dgcnn": Family(
        "dgcnn_4xb32-cosine-100e_s3dis-seg_test-area5.py", _S3DIS, predicted={"features": 6}
    ),
    "dynamic_voxelization": Family(
        "second_dv_secfpn_8xb2-cosine-80e_kitti-3d-3class.py", _KITTI, _ALL_SCORES
    ),
    "fcaf3d": Family(
        "fcaf3d_2xb8_scannet-3d-18class.py",
        fails="install MinkowskiEngine",
        note="needs MinkowskiEngine",
    ),
    "fcos3d": Family(
        "fcos3d_r101-caffe-dcn_fpn_head-gn_8xb2-1x_nus-mono3d.py",
        _NUSCENES_CAMERA,
        _FRESH | _ALL_SCORES,
        trained=0.98,
    ),
    "free_anchor": Family(
        "pointpillars_hv_fpn_head-free-anchor_sbn-all_8xb4-2x_nus-3d.py",
        replace(_NUSCENES, features=4),
        _ALL_PTS_SCORES,
    ),
    "groupfree3d": Family(
        "groupfree3d_head-L6-O256_4xb8_scannet-seg.py",
        replace(_SCANNET, features=3),
    ),
    "h3dnet": Family("h3dnet_8xb3_scannet-seg.py", _SCANNET),
    "imvotenet": Family("imvotenet_stage2_8xb16_sunrgbd-3d.py", _SUNRGBD),
    "imvoxelnet": Family(
        "imvoxelnet_8xb4_kitti-3d-car.py",
        replace(_KITTI_SEEN, sizes=_KITTI_SIZES[2:], points=0),
        _FRESH | _ALL_SCORES | {"model.n_voxels": [72, 83, 12]},
        trained=0.93,
        note="every third cell of its volume; its FPN has three outputs too many",
    ),
    "minkunet": Family(
        "minkunet34_w32_spconv_8xb2-laser-polar-mix-3x_semantickitti.py",
        _SEMANTICKITTI,
        note="those for torchsparse need `model.backbone.sparseconv_backend=spconv`; not run",
    ),
    "monoflex": Family("", note="upstream has no config for it, only a head"),
    "mvfcos3d": Family(
        "multiview-fcos3d_r101-dcn_8xb2_waymoD5-3d-3class.py",
        _WAYMO_CAMERAS,
        _FRESH | {"model.voxel_size": [1.5, 1.5, 0.5]},
        trained=0.96,
        note="two views, every third cell of its volume; its FPN has three outputs too many",
    ),
    "mvxnet": Family(
        "mvxnet_fpn_dv_second_secfpn_8xb2-80e_kitti-3d-3class.py",
        _KITTI_SEEN,
        {"model.img_backbone.zero_init_residual": False} | _ALL_PTS_SCORES,
    ),
    "nuimages": Family(
        "mask-rcnn_r50_fpn_1x_nuim.py",
        replace(_NUSCENES_CAMERA, flat=True),
        _FRESH
        | {
            "model.data_preprocessor": {"type": "mmdet.DetDataPreprocessor", "pad_size_divisor": 32}
        },
        removed=("pretrained",),
        note="pictures only; mmdet 3 takes no `pretrained`, which the config still has",
    ),
    "paconv": Family(
        "paconv_ssg-cuda_8xb8-cosine-200e_s3dis-seg.py", _S3DIS, predicted={"features": 6}
    ),
    "parta2": Family(
        "parta2_hv_secfpn_8xb2-cyclic-80e_kitti-3d-3class.py",
        _KITTI,
        trained=0.95,
        note=_NO_PROPOSAL,
    ),
    "pgd": Family(
        "pgd_r101-caffe_fpn_head-gn_4xb3-4x_kitti-mono3d.py", _KITTI_CAMERA, _FRESH, trained=0.95
    ),
    "point_rcnn": Family(
        "point-rcnn_8xb2_kitti-3d-3class.py",
        replace(_KITTI, points=8192),
        {
            "model.train_cfg.rpn.rpn_proposal.nms_pre": 1024,
            "model.test_cfg.rpn.nms_cfg.nms_pre": 1024,
        },
        trained=0.95,
        note=_NO_PROPOSAL,
    ),
    "pointnet2": Family(
        "pointnet2_msg_2xb16-cosine-80e_s3dis-seg.py", _S3DIS, predicted={"features": 6}
    ),
    "pointpillars": Family(
        "pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py", _KITTI, _ALL_SCORES
    ),
    "pv_rcnn": Family(
        "pv_rcnn_8xb2-80e_kitti-3d-3class.py",
        _KITTI,
        {"model.points_encoder.num_keypoints": 1024},
        trained=0.95,
        note=_NO_PROPOSAL,
    ),
    "regnet": Family(
        "pointpillars_hv_regnet-400mf_secfpn_sbn-all_8xb4-2x_nus-3d.py",
        replace(_NUSCENES, features=4),
        {"model.pts_backbone.zero_init_residual": False} | _ALL_PTS_SCORES,
    ),
    "sassd": Family("sassd_8xb6-80e_kitti-3d-3class.py", _KITTI, _ALL_SCORES),
    "second": Family("second_hv_secfpn_8xb6-80e_kitti-3d-3class.py", _KITTI, _ALL_SCORES),
    "smoke": Family(
        "smoke_dla34_dlaneck_gn-all_4xb8-6x_kitti-mono3d.py",
        _KITTI_CAMERA,
        trained=0.97,
        note="6 parameters of its backbone are used in no forward",
    ),
    "spvcnn": Family(
        "spvcnn_w32_8xb2-amp-15e_semantickitti.py",
        fails="install Torchsparse",
        note="takes torchsparse alone",
    ),
    "ssn": Family(
        "ssn_hv_secfpn_sbn-all_16xb2-2x_lyft-3d.py",
        _LYFT,
        _ALL_PTS_SCORES
        | {
            "model.data_preprocessor.voxel_layer.voxel_size": [0.5, 0.5, 8],
            "model.pts_voxel_encoder.voxel_size": [0.5, 0.5, 8],
            "model.pts_middle_encoder.output_shape": [400, 400],
        },
        note="pillars of half a metre",
    ),
    "votenet": Family("votenet_8xb8_scannet-3d.py", _SCANNET),
}


def families_table() -> str:
    """``FAMILIES`` as docs/host.md has it."""
    rows = [
        "| family | config | runs | calls of `mmcv._ext`; sparse layers | note |",
        "|---|---|---|---|---|",
    ]
    for name, family in FAMILIES.items():
        runs = "loss, backward, predict" if name in CALLS else "no"
        used = [CALLS.get(name, ()), LAYERS.get(name, ())]
        shown = "; ".join(", ".join(f"`{each}`" for each in some) for some in used if some)
        config = f"`{family.config}`" if family.config else "none"
        rows.append(f"| {name} | {config} | {runs} | {shown} | {family.note} |")
    return "\n".join(rows) + "\n"
