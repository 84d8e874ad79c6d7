"""Precise RoI pooling of mmcv._ext against dense midpoint sums, and through mmcv's own wrapper."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anybev.patches import Outcome
from anybev.patches.ext import images_prroi
from anybev.patches.ext.images_prroi import (
    prroi_pool_backward,
    prroi_pool_coor_backward,
    prroi_pool_forward,
)

BINS, SCALE = (2, 3), 0.5


def arguments() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    images = torch.randn((2, 3, 6, 7), generator=generator, dtype=torch.float64)
    corners = [
        [0, 1.3, 2.1, 9.2, 7.7],
        [1, -3.3, -2.2, 6.0, 5.1],
        [1, 6.1, 7.3, 19.0, 18.2],
        [0, 5.0, 5.0, 5.0, 8.0],
    ]
    return images, torch.tensor(corners, dtype=torch.float64)


def midpoint_sums(images: Tensor, rois: Tensor, fine: int = 400) -> Tensor:
    """Mean of the bilinear surface over a fine grid in each bin."""
    height, width = images.shape[2:]
    result = []
    for image, x1, y1, x2, y2 in rois.tolist():
        steps = [
            (torch.arange(count * fine, dtype=torch.float64) + 0.5) / (count * fine)
            for count in BINS
        ]
        y = (y1 + steps[0] * (y2 - y1)) * SCALE
        x = (x1 + steps[1] * (x2 - x1)) * SCALE
        grid = torch.stack(torch.meshgrid(x / (width - 1), y / (height - 1), indexing="xy"), -1)
        surface = F.grid_sample(
            images[int(image)][None], grid[None] * 2 - 1, padding_mode="zeros", align_corners=True
        )
        result.append(F.avg_pool2d(surface, fine)[0])
    return torch.stack(result)


@pytest.mark.parametrize("piece", [10_000_000, 1])
def test_equals_midpoint_sums(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_prroi, "_PIECE_VALUES", piece)
    images, rois = arguments()
    expected = midpoint_sums(images, rois)
    expected[3] = 0  # a region without extent
    output = torch.full_like(expected, torch.nan)
    prroi_pool_forward(images, rois, output, *BINS, SCALE)
    # The sum's own error: steps of 1/400 bin over a surface with kinks.
    torch.testing.assert_close(output, expected, rtol=0, atol=5e-4)


def test_gradients_are_added() -> None:
    images, rois = arguments()
    grad = torch.randn(4, 3, *BINS, dtype=torch.float64)
    for start in (0.0, 2.0):
        into, coordinates = torch.full_like(images, start), torch.full_like(rois, start)
        prroi_pool_backward(grad, rois, into, *BINS, SCALE)
        prroi_pool_coor_backward(grad, grad, images, rois, coordinates, *BINS, SCALE)
        if start == 0:
            first = into, coordinates
    torch.testing.assert_close(into, first[0] + 2)
    torch.testing.assert_close(coordinates, first[1] + 2)
    assert not first[1][:, 0].any()
    assert not first[1][3].any()


def test_gradients_equal_differences() -> None:
    images, rois = arguments()
    generator = torch.Generator().manual_seed(7)
    grad = torch.randn((4, 3, *BINS), generator=generator, dtype=torch.float64)

    def loss(images: Tensor, rois: Tensor) -> Tensor:
        output = torch.empty_like(grad)
        prroi_pool_forward(images, rois, output, *BINS, SCALE)
        return (output * grad).sum()

    into, coordinates = torch.zeros_like(images), torch.zeros_like(rois)
    prroi_pool_backward(grad, rois, into, *BINS, SCALE)
    prroi_pool_coor_backward(grad, grad, images, rois, coordinates, *BINS, SCALE)
    step = 1e-6
    for index in ((0, 1, 2, 3), (1, 0, 0, 0), (1, 2, 5, 6)):
        moved = [images.clone() for _ in range(2)]
        moved[0][index] += step
        moved[1][index] -= step
        slope = (loss(moved[0], rois) - loss(moved[1], rois)) / (2 * step)
        assert into[index].item() == pytest.approx(slope.item(), abs=1e-7)
    for index in ((r, c) for r in range(3) for c in range(1, 5)):
        moved = [rois.clone() for _ in range(2)]
        moved[0][index] += step
        moved[1][index] -= step
        # Where a bin ends on a pixel the slope bends: differences are off by the size of the step.
        slope = (loss(images, moved[0]) - loss(images, moved[1])) / (2 * step)
        assert coordinates[index].item() == pytest.approx(slope.item(), abs=1e-5)


def test_through_mmcv(host: list[Outcome]) -> None:
    from mmcv.ops import prroi_pool

    images, rois = (t.float().requires_grad_() for t in arguments())
    output = prroi_pool(images, rois, BINS, SCALE)
    output.square().sum().backward()
    for leaf in (images, rois):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.any()


def test_autocast_changes_nothing() -> None:
    images, rois = (t.float() for t in arguments())
    outputs = []
    for enabled in (False, True):
        output = torch.empty(4, 3, *BINS)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            prroi_pool_forward(images, rois, output, *BINS, SCALE)
        outputs.append(output)
    assert torch.equal(*outputs)
