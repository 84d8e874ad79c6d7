"""Heads of H3DNet and GroupFree3D with their patch and without."""

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

Pair = Callable[[str], tuple[Callable[..., Any], Callable[..., Any]]]


@pytest.mark.filterwarnings("ignore:Unnecessary conv bias")
def test_h3dnets_refinement_has_upstreams_values_and_a_gradient(host: object) -> None:
    head = _h3dnet_head()
    replacement = type(head).forward
    original = replacement.__wrapped__
    torch.manual_seed(0)
    features = _h3dnet_features()
    with torch.no_grad():
        wanted = original(head, features)
        found = replacement(head, features)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    first = head.bbox_pred[0]
    with pytest.raises(RuntimeError, match="inplace operation"):
        original(head, features)["center_optimized"].sum().backward()
    replacement(head, features)["center_optimized"].sum().backward()
    assert first.conv.weight.grad.any()
    assert not first._forward_hooks


def _h3dnet_head() -> Any:
    from mmdet3d.registry import MODELS
    from mmengine.config import Config
    from mmengine.utils import get_installed_path

    name = Path(get_installed_path("mmdet3d")) / ".mim/configs/h3dnet/h3dnet_8xb3_scannet-seg.py"
    return MODELS.build(Config.fromfile(name).model.roi_head.bbox_head).eval()


def _h3dnet_features() -> dict[str, Tensor]:
    many, channels, proposals = 1024, 128, 256
    features = {
        "aggregated_points": torch.rand(1, proposals, 3),
        "aggregated_features": torch.rand(1, channels, proposals),
        "rpn_proposals": torch.rand(1, proposals, 7) + 0.5,
    }
    for axis in ("z", "xy", "line"):
        features[f"pred_{axis}_center"] = torch.rand(1, many, 3)
        features[f"sem_cls_scores_{axis}"] = torch.rand(1, many, 18)
        features[f"aggregated_features_{axis}"] = torch.rand(1, channels, many)
    return features


class _Head(nn.Module):
    """What GroupFree3D's prediction asks of its head; a sample's boxes are as many as its index."""

    test_cfg = MappingProxyType({"prediction_stages": "last"})
    num_decoder_layers = 1
    bbox_coder = SimpleNamespace(with_rot=True, decode=lambda preds, prefix: preds["boxes"])

    def multiclass_nms_single(
        self, scores: Tensor, classes: Tensor, boxes: Tensor, points: Tensor, meta: dict
    ) -> tuple[Tensor, Tensor, Tensor]:
        kept = slice(0, meta["boxes"])
        return boxes[kept], scores[kept], classes[kept].argmax(-1)


def test_groupfree3d_gives_each_sample_its_boxes(pair: Pair) -> None:
    from mmdet3d.structures import DepthInstance3DBoxes

    original, replacement = pair("mmdet3d-groupfree3d-results")
    torch.manual_seed(0)
    preds = {
        "s0.obj_scores": torch.rand(2, 5, 1),
        "s0.sem_scores": torch.rand(2, 5, 3),
        "boxes": torch.rand(2, 5, 7),
    }
    points = list(torch.rand(2, 10, 4))
    metas = [{"box_type_3d": DepthInstance3DBoxes, "boxes": many} for many in (2, 4)]
    with pytest.raises(AssertionError, match="not consistent"):
        original(_Head(), points, preds, metas)
    found = replacement(_Head(), points, preds, metas)
    assert [len(each) for each in found] == [2, 4]
    for i, each in enumerate(found):
        own = {key: value[i : i + 1] for key, value in preds.items()}
        (alone,) = original(_Head(), points[i : i + 1], own, metas[i : i + 1])
        assert torch.equal(each.bboxes_3d.tensor, alone.bboxes_3d.tensor)
        assert torch.equal(each.scores_3d, alone.scores_3d)
        assert torch.equal(each.labels_3d, alone.labels_3d)
    assert torch.equal(replacement(_Head(), points, preds, metas, False), preds["boxes"])
