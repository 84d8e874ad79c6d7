"""Suppression within classes."""

import torch

from anybev.models.bevfusion.nms import nms_circle, suppress


def _loop(centers: torch.Tensor, scores: torch.Tensor, limit: float) -> list[int]:
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(((centers[i] - centers[k]) ** 2).sum() > limit for k in kept):
            kept.append(i)
    return kept


def test_circle_equals_a_loop() -> None:
    torch.manual_seed(0)
    centers, scores = torch.rand(60, 2) * 4, torch.rand(60)
    assert nms_circle(centers, scores, 0.175).tolist() == _loop(centers, scores, 0.175)
    assert nms_circle(centers[:0], scores[:0], 0.175).shape == (0,)


def test_circle_is_exact_far_from_the_origin() -> None:
    torch.manual_seed(0)
    centers, scores = torch.rand(400, 2) * 8 + 46, torch.rand(400)
    assert nms_circle(centers, scores, 0.175).tolist() == _loop(centers, scores, 0.175)


def test_only_classes_with_a_radius_are_suppressed() -> None:
    boxes = torch.tensor([[0, 0, 0, 1, 1, 1, 0.0]] * 6)
    scores, labels = torch.linspace(0.1, 0.6, 6), torch.tensor([0, 0, 1, 1, 1, 7])
    for kind in ("circle", "rotate"):
        keep = suppress(
            boxes,
            scores,
            labels,
            nms_type=kind,
            radius=[-1.0, 0.175, *[-1.0] * 8],
            pre_maxsize=None,
            post_maxsize=83,
        )
        assert keep.tolist() == [True, True, False, False, True, True], kind


def test_sizes_before_and_after_are_capped() -> None:
    boxes = torch.zeros(5, 7)
    boxes[:, 0], boxes[:, 3:6] = torch.arange(5) * 10.0, 1.0
    scores, labels = torch.tensor([0.1, 0.5, 0.3, 0.2, 0.4]), torch.zeros(5, dtype=torch.int64)
    common = {"radius": [0.2], "nms_type": "rotate"}
    keep = suppress(boxes, scores, labels, pre_maxsize=3, post_maxsize=83, **common)
    assert keep.nonzero()[:, 0].tolist() == [1, 2, 4]
    keep = suppress(boxes, scores, labels, pre_maxsize=None, post_maxsize=1, **common)
    assert keep.nonzero()[:, 0].tolist() == [1]
