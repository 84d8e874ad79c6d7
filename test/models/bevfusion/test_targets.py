"""Targets of a batch, box by box."""

import pytest
import torch

from anybev.engine.builder import build_detector
from anybev.models.bevfusion.targets import HeadTargets
from anybev.models.bevfusion.transfusion_head import TransFusionHead
from anybev.testing.tiny import MAP_SIZE, tiny_batch, tiny_model_cfg


@pytest.fixture(scope="module")
def head() -> TransFusionHead:
    torch.manual_seed(0)
    return build_detector(tiny_model_cfg(num_decoder_layers=2)).bbox_head.eval()


@pytest.fixture(scope="module")
def outputs(head: TransFusionHead) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return head(torch.randn(3, 32, *MAP_SIZE))


def test_every_layer_is_matched_on_its_own(
    head: TransFusionHead, outputs: dict[str, torch.Tensor]
) -> None:
    batch = tiny_batch((3, 0, 1))
    targets = head.targets(outputs, batch.boxes_lidar, batch.labels)
    assert targets.gt_inds.shape == (3, 24)
    for layer in (slice(0, 12), slice(12, 24)):
        assert sorted(targets.gt_inds[0, layer].tolist())[-4:] == [0, 1, 2, 3]
    assert targets.num_positives == 2 * (3 + 0 + 1)
    assert len(targets.costs) == 6


def _by_hand(
    head: TransFusionHead, targets: HeadTargets, boxes: list[torch.Tensor], y: list[torch.Tensor]
) -> None:
    for sample, row in enumerate(targets.gt_inds.tolist()):
        for query, box in enumerate(row):
            weight = targets.bbox_weights[sample, query]
            if box == 0:
                assert targets.labels[sample, query] == 10
                assert not weight.any()
                assert not targets.bbox_targets[sample, query].any()
            else:
                assert targets.labels[sample, query] == y[sample][box - 1]
                assert weight.all()
                code = head.bbox_coder.encode(boxes[sample][box - 1 : box])[0]
                assert torch.equal(targets.bbox_targets[sample, query], code)


def test_labels_and_codes_follow_the_matching(
    head: TransFusionHead, outputs: dict[str, torch.Tensor]
) -> None:
    batch = tiny_batch((3, 0, 15))  # none, and more boxes than queries
    targets = head.targets(outputs, batch.boxes_lidar, batch.labels)
    _by_hand(head, targets, batch.boxes_lidar, batch.labels)
    assert (targets.gt_inds[2] > 0).all()


def test_ignored_boxes_leave_no_trace(
    head: TransFusionHead, outputs: dict[str, torch.Tensor]
) -> None:
    batch = tiny_batch((3, 2, 1))
    plain = head.targets(outputs, batch.boxes_lidar, batch.labels)
    extra = tiny_batch((4, 4, 4), seed=9)
    boxes = [torch.cat([e, b]) for e, b in zip(extra.boxes_lidar, batch.boxes_lidar, strict=True)]
    labels = [torch.cat([torch.full((4,), -1), y]) for y in batch.labels]
    got = head.targets(outputs, boxes, labels)
    for name in ("gt_inds", "labels", "bbox_targets", "heatmap", "matched_ious"):
        assert torch.equal(getattr(got, name), getattr(plain, name)), name


def test_heatmap_peaks_lie_at_x_row_y_column(
    head: TransFusionHead, outputs: dict[str, torch.Tensor]
) -> None:
    box = torch.tensor([[10.0, -20.0, -1, 4, 2, 1.5, 0.3, 0, 0]])
    none = torch.zeros(0, 9), torch.zeros(0, dtype=torch.int64)
    targets = head.targets(outputs, [none[0], box, none[0]], [none[1], torch.tensor([4]), none[1]])
    # cells of 2 m from (-16, -24)
    assert (targets.heatmap == 1).nonzero().tolist() == [[1, 4, 13, 2]]


def test_matched_ious_average_over_samples(
    head: TransFusionHead, outputs: dict[str, torch.Tensor]
) -> None:
    decoded = head.bbox_coder.decode(outputs)
    boxes = [decoded[0, :1].clone(), torch.zeros(0, 9), decoded[2, 12:14].clone()]
    labels = [torch.zeros(len(b), dtype=torch.int64) for b in boxes]
    matching = [torch.zeros(24, dtype=torch.int64) for _ in boxes]
    matching[0][0] = 1
    matching[2][12] = 1
    targets = head.targets(outputs, boxes, labels, matching)
    assert targets.matched_ious.item() == pytest.approx(2 / 3, abs=1e-4)
    assert targets.num_positives == 2


def test_a_given_matching_must_fit(head: TransFusionHead, outputs: dict[str, torch.Tensor]) -> None:
    batch = tiny_batch((3, 0, 1))
    matching = [torch.zeros(24, dtype=torch.int64) for _ in range(3)]
    matching[1][3] = 1
    with pytest.raises(ValueError, match=r"entry 1 must be \(24,\) with values 0..0, got"):
        head.targets(outputs, batch.boxes_lidar, batch.labels, matching)
