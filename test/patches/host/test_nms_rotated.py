"""mmcv's rotated suppression with boxes on an NPU: they stay in radians."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.usefixtures("host")


class OnNpu(Tensor):
    """A tensor of the CPU that says it is on an NPU."""

    device = property(lambda self: SimpleNamespace(type="npu"))  # type: ignore[assignment]


def boxes_and_scores() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(40, 5, generator=generator) * torch.tensor([9.0, 9, 5, 3, 7])
    return boxes + 0.5, torch.rand(40, generator=generator)


@pytest.mark.parametrize("clockwise", [True, False])
def test_boxes_stay_as_they_are(clockwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcv.ops import nms_rotated

    from anybev.patches.host import patch_nms_rotated

    def as_plain(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        return kept(boxes.as_subclass(Tensor), scores.as_subclass(Tensor), threshold)

    kept = patch_nms_rotated.kept_rotated
    monkeypatch.setattr(patch_nms_rotated, "kept_rotated", as_plain)
    boxes, scores = boxes_and_scores()
    expected, index = nms_rotated(boxes, scores, 0.1, clockwise=clockwise)
    given = boxes.clone().as_subclass(OnNpu)
    dets, found = nms_rotated(given, scores.as_subclass(OnNpu), 0.1, clockwise=clockwise)
    assert torch.equal(given.as_subclass(Tensor), boxes)
    assert torch.equal(found, index)
    torch.testing.assert_close(dets.as_subclass(Tensor), expected)


def test_no_boxes_come_back_as_upstream_has_it() -> None:
    from mmcv.ops import nms_rotated

    boxes, scores = boxes_and_scores()
    dets, index = nms_rotated(boxes[:0].as_subclass(OnNpu), scores[:0], 0.1)
    assert dets.shape == (0, 5)
    assert index is None


def test_elsewhere_the_original_runs() -> None:
    from mmcv.ops import nms_rotated

    boxes, scores = boxes_and_scores()
    original: Any = nms_rotated.__wrapped__
    for clockwise in (True, False):
        ours = nms_rotated(boxes, scores, 0.1, None, clockwise)
        theirs = original(boxes, scores, 0.1, None, clockwise)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
