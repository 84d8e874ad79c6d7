"""Checkpoints of mit-han-lab/bevfusion under mmdetection3d's names, with its boxes.

Three things differ in those files. Names: ``encoders.lidar.backbone`` is ``pts_middle_encoder``,
and so on. Sparse weights: [kx, ky, kz, in, out]. Boxes: that repository is built on mmdetection3d
before 1.0, whose lidar boxes are (x, y, z, width, length, height, yaw) with yaw clockwise from -y::

    yaw = -pi / 2 - yaw_mit, so sin(yaw) = -cos(yaw_mit) and cos(yaw) = -sin(yaw_mit)

The head predicts log sizes and (sin, cos) by one linear layer each, so its last layers are turned
instead of its outputs: the two of ``dim`` change places, the two of ``rot`` change places and sign.
Centre, height, velocity, scores and the order of the classes are the same.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anybev.engine.layouts import LAYOUTS, agreed_layout, fitting_layouts, to_krsc
from anybev.engine.weights import listed, strip_wrapper

# Part of that repository -> ours, and what our part may hold.
_PARTS = {
    "encoders.camera.backbone.": ("img_backbone.", r"patch_embed\.|stages\.|norm\d\."),
    "encoders.camera.neck.": ("img_neck.", r"(lateral|fpn)_convs\."),
    "encoders.camera.vtransform.": (
        "view_transform.",
        r"(dx|bx|nx|frustum)$|(dtransform|depthnet|downsample)\.",
    ),
    "encoders.lidar.backbone.": (
        "pts_middle_encoder.",
        r"(conv_input|encoder_layers|conv_out)\.",
    ),
    "fuser.": ("fusion_layer.", r"[01]\."),
    "decoder.backbone.": ("pts_backbone.", r"blocks\."),
    "decoder.neck.": ("pts_neck.", r"deblocks\."),
    "heads.object.": (
        "bbox_head.",
        r"(shared_conv|heatmap_head|class_encoding|decoder|prediction_heads)\.",
    ),
}
_OURS = tuple(ours for ours, _ in _PARTS.values())
# Left out: the head of map segmentation.
_DROPPED = ("heads.map.",)

_DECODER_LAYER = (
    (r"\.self_attn\.(?!attn\.)", ".self_attn.attn."),
    (r"\.multihead_attn\.", ".cross_attn.attn."),
    (r"\.linear1\.", ".ffn.layers.0.0."),
    (r"\.linear2\.", ".ffn.layers.1."),
    *((rf"\.norm{i + 1}\.", f".norms.{i}.") for i in range(3)),
)


@dataclass(frozen=True)
class Conversion:
    """A converted state dict and what was done.

    Attributes:
        state_dict: mmdetection3d's keys, sparse weights in KRSC.
        renamed: key in the file -> key here.
        dropped: keys of the file that are left out.
        layout: of the file's sparse weights; None when it has none.
        permuted: sparse weights whose axes were moved.
        turned: last layers of the head that were turned to our boxes.
    """

    state_dict: dict[str, Tensor]
    renamed: dict[str, str]
    dropped: tuple[str, ...]
    layout: str | None
    permuted: tuple[str, ...]
    turned: tuple[str, ...] = field(default=())

    def parts(self) -> dict[str, int]:
        """Part of the model -> how many tensors it got."""
        counts: dict[str, int] = {}
        for key in self.state_dict:
            part = key.split(".")[0]
            counts[part] = counts.get(part, 0) + 1
        return counts

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count}" for name, count in self.parts().items())
        lines = [f"{len(self.renamed)} tensors renamed: {parts}"]
        if self.layout:
            lines.append(
                f"sparse weights were in {self.layout.upper()}, {len(self.permuted)} permuted"
            )
        lines.append(f"boxes: {', '.join(self.turned)} turned")
        if self.dropped:
            lines.append(f"{len(self.dropped)} tensors left out: {listed(self.dropped)}")
        return "\n".join(lines)


def convert_mit(state_dict: Mapping[str, Tensor], layout: str | None = None) -> Conversion:
    """Rename, permute and turn the weights of mit-han-lab/bevfusion.

    Args:
        state_dict: of its lidar-only or lidar-camera detector (Swin, SECOND, TransFusion head).
        layout: of the sparse weights, where the shapes do not tell.

    Raises:
        ValueError: the file has our names already, lacks the object head, holds parts of another
            model, or its sparse layout cannot be told.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"convert: layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    found = strip_wrapper(state_dict)
    _check_names(found)
    dropped = tuple(key for key in found if key.startswith(_DROPPED))
    renamed = {key: _our_name(key) for key in found if key not in set(dropped)}
    unknown = [key for key, name in renamed.items() if name is None]
    if unknown:
        raise ValueError(
            f"convert: keys must be those of a BEVFusion with Swin, SECOND and TransFusion head, "
            f"got {len(unknown)} unknown ones: {listed(unknown)}"
        )
    names = {key: name for key, name in renamed.items() if name is not None}
    ours = {name: found[key] for key, name in names.items()}
    _check_depth_channels(ours)
    used, permuted = _permute(ours, layout)
    turned = _turn_boxes(ours)
    return Conversion(ours, names, dropped, used, permuted, turned)


def _check_names(found: Mapping[str, Tensor]) -> None:
    if any(key.startswith(_OURS) for key in found):
        raise ValueError(
            "convert: the file must have the names of mit-han-lab/bevfusion, got mmdetection3d's; "
            "try it as it is: nothing is to be converted"
        )
    if not any(key.startswith("heads.object.") for key in found):
        raise ValueError(
            f"convert: the file must hold heads.object, got {len(found)} keys without it: "
            f"{listed(sorted(found))}"
        )


def _our_name(key: str) -> str | None:
    """Our name of a key, or None for what is not part of the model."""
    for theirs, (ours, inside) in _PARTS.items():
        if key.startswith(theirs) and re.match(inside, key.removeprefix(theirs)):
            name = ours + key.removeprefix(theirs)
            if name.startswith("bbox_head.decoder."):
                for pattern, replacement in _DECODER_LAYER:
                    name = re.sub(pattern, replacement, name)
            return name
    return None


def _check_depth_channels(weights: Mapping[str, Tensor]) -> None:
    first = weights.get("view_transform.dtransform.0.weight")
    if first is not None and first.shape[1] != 1:
        raise ValueError(
            "convert: the depth image must have 1 channel, as in the published weights, got "
            f"{first.shape[1]} (points' features drawn beside the depth, or one-hot depth)"
        )


def _permute(weights: dict[str, Tensor], layout: str | None) -> tuple[str | None, tuple[str, ...]]:
    """Bring sparse weights to KRSC, in place; the layout they had, and which were moved.

    The norm behind each convolution tells its output channels; kernels are 3 x 3 x 3, and 1 x 1 x 3
    at the end.
    """
    shapes, votes = {}, {}
    for key, value in weights.items():
        if key.startswith("pts_middle_encoder.") and value.dim() == 5:
            kernel = (1, 1, 3) if ".conv_out." in key else (3, 3, 3)
            shapes[key] = tuple(value.shape)
            votes[key] = fitting_layouts(shapes[key], _output_channels(weights, key), kernel)
    odd = [f"{key} {list(shapes[key])}" for key, layouts in votes.items() if not layouts]
    if odd:
        raise ValueError(
            f"convert: sparse weights must be in one of {', '.join(LAYOUTS).upper()}, got "
            f"{listed(odd)}"
        )
    layout = layout or agreed_layout("convert", votes, shapes, "--layout {}")
    for key, layouts in votes.items():
        if layout not in layouts:
            raise ValueError(f"convert: {key} must be {layout} as asked, got {list(shapes[key])}")
    moved = tuple(votes) if layout != "krsc" else ()
    for key in moved:
        weights[key] = to_krsc(weights[key], str(layout)).contiguous()
    return layout, moved


def _output_channels(weights: Mapping[str, Tensor], key: str) -> int:
    """Output channels of a sparse convolution, from the norm behind it."""
    head, last, _ = key.rsplit(".", 2)
    norm = f"bn{last.removeprefix('conv')}" if last.startswith("conv") else str(int(last) + 1)
    behind = f"{head}.{norm}.weight"
    if behind not in weights:
        raise ValueError(f"convert: {key} must have a norm behind it, got no {behind}")
    return int(weights[behind].shape[0])


def _turn_boxes(weights: dict[str, Tensor]) -> tuple[str, ...]:
    """Turn the head's last layers to our boxes, in place; which layers."""
    turned: dict[str, None] = {}
    for key, value in list(weights.items()):
        match = re.match(r"bbox_head\.(prediction_heads\.\d+\.(dim|rot)\.\d+)\.(weight|bias)$", key)
        if match is None:
            continue
        if match[2] == "dim":
            weights[key] = value[[1, 0, 2]]
        else:
            weights[key] = -value[[1, 0]]
        turned[match[1]] = None
    if not turned:
        raise ValueError(
            "convert: heads.object must have prediction_heads with dim and rot, got none; only "
            "TransFusion heads are known"
        )
    return tuple(turned)


def mit_boxes_to_ours(boxes: Tensor) -> Tensor:
    """Boxes (..., 7 or 9) of mmdetection3d before 1.0 in our convention.

    Args:
        boxes: x, y, z_bottom, width, length, height, yaw clockwise from -y, vx, vy; metres,
            radians.
    """
    x, y, z, width, length, height, yaw, *velocity = boxes.unbind(-1)
    return torch.stack([x, y, z, length, width, height, -torch.pi / 2 - yaw, *velocity], dim=-1)
