"""Random scenes for any of mmdetection3d's models, packed as its data sets pack them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

Size = tuple[float, float, float]
# Camera axes (right, down, forward) of those of a lidar (forward, left, up) and of a depth map
# (right, forward, up).
_TO_CAMERA = {
    "lidar": [[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]],
    "depth": [[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
    "cam": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
}


@dataclass(frozen=True)
class Scene:
    """What a sample holds.

    Attributes:
        axes: ``lidar``, ``depth`` or ``cam``: the coordinates of points and boxes.
        low: lower corner of the space that points and boxes lie in.
        high: upper corner; boxes stand on the height ``floor``.
        sizes: of an object of each class, along the box's own axes.
        floor: height of the objects' lower side.
        points: of a sample, half of them in objects; 0 for a model of pictures alone.
        features: of a point, the coordinates included.
        objects: of a sample.
        box_dim: 7, or 9 with velocities.
        picture: height and width; None without one.
        views: pictures of a sample, stacked; 0 for one picture that is not.
        masks: classes of the points where the sample has semantic and instance masks; 0 without.
        by_object: those masks follow the objects; otherwise they are random.
        turned: boxes have a yaw.
        flat: the sample is one of mmdet, of a picture with boxes and masks in it.
    """

    axes: str
    low: Size
    high: Size
    sizes: tuple[Size, ...]
    floor: float = 0.0
    points: int = 4000
    features: int = 4
    objects: int = 6
    box_dim: int = 7
    picture: tuple[int, int] | None = None
    views: int = 0
    masks: int = 0
    by_object: bool = False
    turned: bool = True
    flat: bool = False


def _boxes(scene: Scene, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """(N, box_dim) boxes on the floor, and their classes."""
    labels = torch.arange(scene.objects) % len(scene.sizes)
    low, high = torch.tensor(scene.low), torch.tensor(scene.high)
    sizes = torch.tensor(scene.sizes)[labels]
    place = 0.1 + 0.8 * torch.rand(scene.objects, 3, generator=draw)
    centres = low + place * (high - low)
    up = 1 if scene.axes == "cam" else 2
    centres[:, up] = scene.floor
    if scene.axes == "cam":  # inside the picture
        centres[:, 0] = (place[:, 0] - 0.5) * centres[:, 2]
    yaws = torch.randint(0, 4, (scene.objects, 1), generator=draw) * (torch.pi / 2) - torch.pi / 2
    yaws = (yaws + 0.2 * torch.rand(scene.objects, 1, generator=draw)) * scene.turned
    velocities = torch.rand(scene.objects, scene.box_dim - 7, generator=draw)
    return torch.cat([centres, sizes, yaws, velocities], 1), labels


def _points(scene: Scene, boxes: Tensor, packed: Tensor, draw: torch.Generator) -> Tensor:
    """Spread the packed points, in 0 to 1, over the space, and put half of them into objects.

    Returns:
        The object of each point; ``len(boxes)`` for none.
    """
    low, high = torch.tensor(scene.low), torch.tensor(scene.high)
    owner = torch.arange(len(packed)) % (2 * len(boxes))
    inside = owner < len(boxes)
    box = boxes[owner[inside]]
    local = (packed[inside, :3] - torch.tensor([0.5, 0.5, 0.0])) * box[:, 3:6] * 0.98
    cos, sin = box[:, 6].cos(), box[:, 6].sin()
    along = local[:, 0] * cos - local[:, 1] * sin
    across = local[:, 0] * sin + local[:, 1] * cos
    packed[:, :3] = low + packed[:, :3] * (high - low)
    packed[inside, :3] = torch.stack([along, across, local[:, 2]], 1) + box[:, :3]
    return owner.clamp(max=len(boxes))


def _camera(scene: Scene) -> np.ndarray:
    height, width = scene.picture or (1, 1)
    matrix = np.eye(4, dtype=np.float32)
    matrix[0, 0] = matrix[1, 1] = 0.6 * width
    matrix[:2, 2] = width / 2, height / 2
    return matrix


def _see(scene: Scene, sample: Any, boxes: Any) -> None:
    """Calibration, and what the boxes are in the picture."""
    from mmdet3d.structures import points_cam2img

    height, width = scene.picture or (1, 1)
    to_camera = np.array(_TO_CAMERA[scene.axes], np.float32)
    cam2img = _camera(scene)
    many = max(1, scene.views)
    to_image = cam2img @ to_camera
    sample.set_metainfo(
        {
            "cam2img": cam2img,
            "lidar2img": to_image,
            "depth2img": to_image[:3, :3],
            "num_views": many,
            "num_ref_frames": 0,
            "lidar2cam": [to_camera] * many,
            "ori_cam2img": [cam2img] * many,
            "pad_shape": (height, width),
            "trans_mat": np.diag([0.25, 0.25, 1]).astype(np.float32),
            "affine_aug": False,
        }
    )
    if scene.views:
        sample.set_metainfo({"scale_factor": [np.ones(2, np.float32)] * many})
    matrix = torch.from_numpy(to_image)
    corners = points_cam2img(boxes.corners.reshape(-1, 3), matrix).reshape(-1, 8, 2)
    centres = points_cam2img(boxes.gravity_center, matrix, with_depth=True)
    limits = torch.tensor([width - 1.0, height - 1.0])
    lower = corners.amin(1).clamp(min=0).minimum(limits - 8)
    upper = corners.amax(1).minimum(limits).maximum(lower + 8)
    in_3d, in_2d = sample.gt_instances_3d, sample.gt_instances
    in_2d.bboxes = torch.cat([lower, upper], 1)
    in_2d.labels = in_3d.labels_3d
    in_3d.centers_2d, in_3d.depths = centres[:, :2], centres[:, 2]
    in_3d.attr_labels = torch.zeros_like(in_3d.labels_3d)


def _sample(scene: Scene, seed: int) -> tuple[dict[str, Any], Any]:
    from mmdet3d.testing import create_detector_inputs

    packed = create_detector_inputs(
        seed=seed,
        with_points=scene.points > 0,
        with_img=scene.picture is not None,
        img_size=scene.picture,
        num_gt_instance=scene.objects,
        num_points=scene.points,
        points_feat_dim=scene.features,
        num_classes=scene.masks or len(scene.sizes),
        gt_bboxes_dim=scene.box_dim,
        with_pts_semantic_mask=scene.masks > 0,
        with_pts_instance_mask=scene.masks > 0,
        bboxes_3d_type=scene.axes,
        with_eval_ann_info=True,
    )
    draw = torch.Generator().manual_seed(seed)
    inputs, sample = packed["inputs"], packed["data_samples"][0]
    tensor, labels = _boxes(scene, draw)
    boxes = type(sample.gt_instances_3d.bboxes_3d)(tensor, box_dim=scene.box_dim)
    sample.gt_instances_3d.bboxes_3d, sample.gt_instances_3d.labels_3d = boxes, labels
    if scene.points:
        (points,) = inputs["points"]
        owner = _points(scene, tensor, points, draw)
        if scene.by_object:
            sample.gt_pts_seg.pts_instance_mask = owner
            sample.gt_pts_seg.pts_semantic_mask = torch.cat(
                [labels, torch.tensor([len(scene.sizes)])]
            )[owner]
    if scene.picture:
        pictures = inputs["img"][0] * 255
        inputs["img"] = [torch.stack([pictures] * scene.views) if scene.views else pictures]
        _see(scene, sample, boxes)
    return (inputs, sample) if not scene.flat else _flat(inputs, sample)


def _flat(inputs: dict[str, Any], sample: Any) -> tuple[dict[str, Any], Any]:
    """The picture alone, its boxes being the objects' masks too."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    (picture,) = inputs["img"]
    height, width = picture.shape[-2:]
    objects = sample.gt_instances
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    left, top, right, bottom = objects.bboxes.round()[:, :, None, None].unbind(1)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    objects.masks = BitmapMasks(inside.numpy().astype(np.uint8), height, width)
    shapes = {"img_shape": (height, width), "ori_shape": (height, width)}
    found = DetDataSample(metainfo=shapes | {"scale_factor": (1.0, 1.0)})
    found.gt_instances = objects
    return inputs, found


def batch(scene: Scene, samples: int = 2, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Samples as the data preprocessor takes them.

    Args:
        scene: what each holds.
        samples: how many.
        seed: of the first.
        **changes: fields of the scene.
    """
    drawn = [_sample(replace(scene, **changes), seed + i) for i in range(samples)]
    names = drawn[0][0]
    inputs = {name: [each[name][0] for each, _ in drawn] for name in names}
    return {
        "inputs": inputs["img"] if scene.flat else inputs,
        "data_samples": [sample for _, sample in drawn],
    }
