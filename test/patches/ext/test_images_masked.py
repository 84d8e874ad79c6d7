"""Masked convolution and attention masks of mmcv._ext against plain convolution and loops."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anybev.patches import Outcome
from anybev.patches.ext.images_masked import (
    masked_col2im_forward,
    masked_im2col_forward,
    psamask_backward,
    psamask_forward,
)
from anybev.testing.tolerances import tolerances


@pytest.mark.parametrize(("kernel", "pad"), [((3, 3), (1, 1)), ((1, 3), (0, 2)), ((2, 2), (0, 1))])
def test_patches_are_unfold_s(kernel: tuple[int, int], pad: tuple[int, int]) -> None:
    image = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    height, width = (size + 2 * p - k + 1 for size, p, k in zip((5, 6), pad, kernel, strict=True))
    rows, columns = torch.tensor([0, 2, height - 1]), torch.tensor([1, 0, width - 1])
    expected = F.unfold(image, kernel, padding=pad)[0].view(-1, height, width)[:, rows, columns]
    patches = torch.full_like(expected, torch.nan)
    masked_im2col_forward(image, rows, columns, patches, *kernel, *pad)
    assert torch.equal(patches, expected)


def test_pixels_that_are_not_chosen_stay() -> None:
    image = torch.full((1, 2, 3, 4), 7.0)
    rows, columns = torch.tensor([0, 2]), torch.tensor([3, 1])
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    masked_col2im_forward(values, rows, columns, image, height=3, width=4, channels=2)
    assert torch.equal(image[0, :, rows, columns], values)
    assert int((image == 7).sum()) == 20


@pytest.mark.filterwarnings("ignore:This overload of addmm is deprecated:UserWarning")
def test_masked_convolution_of_mmcv(host: list[Outcome]) -> None:
    from mmcv.ops import MaskedConv2d

    layer, images = MaskedConv2d(3, 4, 3, padding=1), torch.randn(1, 3, 5, 6)
    mask = torch.rand(1, 5, 6) > 0.5
    expected = F.conv2d(images, layer.weight, layer.bias, padding=1) * mask
    torch.testing.assert_close(layer(images, mask), expected, **tolerances(torch.float32))
    assert not layer(images, torch.zeros_like(mask)).any()


def spread(
    masks: Tensor, into: Tensor, kind: int, mask: tuple[int, int], half: tuple[int, int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(index of ``into``, index of ``masks``) pairs that belong together."""
    _, _, height, width = masks.shape
    pairs = []
    for n, h, w, i, j in product(
        range(len(masks)), range(height), range(width), range(mask[0]), range(mask[1])
    ):
        y, x = i + h - half[0], j + w - half[1]
        if 0 <= y < height and 0 <= x < width:
            seen = (n, y * width + x, h, w) if kind == 0 else (n, h * width + w, y, x)
            pairs.append((seen, (n, i * mask[1] + j, h, w)))
    return pairs


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("mask", [(3, 5), (9, 7)])
def test_attention_masks_equal_loops(kind: int, mask: tuple[int, int]) -> None:
    half = mask[0] // 2, mask[1] // 2
    masks, output = torch.randn(2, mask[0] * mask[1], 4, 5), torch.randn(2, 20, 4, 5)
    pairs = spread(masks, output, kind, mask, half)
    expected, rest = output.clone(), (kind, 2, 4, 5, *mask, *half)
    for seen, own in pairs:
        expected[seen] = masks[own]
    psamask_forward(masks, output, *rest)
    assert torch.equal(output, expected)

    grad, into = torch.randn_like(output), torch.randn_like(masks)
    expected = into.clone()
    for seen, own in pairs:
        expected[own] = grad[seen]
    psamask_backward(grad, into, *rest)
    assert torch.equal(into, expected)


def test_attention_masks_of_mmcv(host: list[Outcome]) -> None:
    from mmcv.ops import PSAMask

    for kind in ("collect", "distribute"):
        masks = torch.randn(1, 15, 4, 5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(PSAMask(kind, (3, 5)), (masks,), fast_mode=True)
