"""Deformable convolution of mmcv._ext against loops over taps, and through mmcv's own wrappers."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anybev.patches import Outcome
from anybev.patches.ext import _deform
from anybev.patches.ext.images_deform import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from anybev.testing.tolerances import tolerances

# (groups, deform groups, stride, padding, dilation), each pair (y, x)
CASES = [
    (1, 1, (1, 1), (1, 1), (1, 1)),
    (2, 1, (2, 1), (0, 2), (1, 1)),
    (1, 2, (1, 2), (2, 0), (2, 1)),
    (2, 4, (2, 2), (1, 1), (1, 2)),
]


def pixel(image: Tensor, y: float, x: float) -> float:
    """Bilinear value of (H, W) that is zero outside."""
    height, width = image.shape
    total = 0.0
    for row, column in product(
        (math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)
    ):
        if 0 <= row < height and 0 <= column < width:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * float(image[row, column])
    return total


def loops(
    images: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    case: tuple[int, int, tuple[int, int], tuple[int, int], tuple[int, int]],
) -> Tensor:
    """The definition, one output number at a time."""
    groups, deform, stride, padding, dilation = case
    out, per_group, kernel_y, kernel_x = weight.shape
    channels = images.shape[1]
    result = images.new_zeros((len(images), out, *offset.shape[2:]))
    for b, o, row, column in product(*map(range, result.shape)):
        total = 0.0
        for c, i, j in product(range(per_group), range(kernel_y), range(kernel_x)):
            channel = o // (out // groups) * per_group + c
            tap = channel // (channels // deform) * kernel_y * kernel_x + i * kernel_x + j
            y = row * stride[0] - padding[0] + i * dilation[0]
            x = column * stride[1] - padding[1] + j * dilation[1]
            value = pixel(
                images[b, channel],
                y + float(offset[b, 2 * tap, row, column]),
                x + float(offset[b, 2 * tap + 1, row, column]),
            )
            total += value * float(mask[b, tap, row, column]) * float(weight[o, c, i, j])
        result[b, o, row, column] = total
    return result


def arguments(
    case: tuple[int, int, tuple[int, int], tuple[int, int], tuple[int, int]],
    kernel: tuple[int, int] = (3, 2),
) -> dict[str, Tensor]:
    groups, deform, stride, padding, dilation = case
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    height, width = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip((5, 6), padding, dilation, kernel, stride, strict=True)
    )
    taps = deform * kernel[0] * kernel[1]
    return {
        "input": random(2, 4, 5, 6),
        "offset": random(2, taps * 2, height, width) * 1.5,
        "mask": random(2, taps, height, width).sigmoid(),
        "weight": random(4, 4 // groups, *kernel),
        "bias": random(4),
        "grad": random(2, 4, height, width),
    }


def v1(
    case: tuple[int, int, tuple[int, int], tuple[int, int], tuple[int, int]],
    kernel: tuple[int, int],
) -> dict[str, int]:
    groups, deform, stride, padding, dilation = case
    return {
        "kW": kernel[1],
        "kH": kernel[0],
        "dW": stride[1],
        "dH": stride[0],
        "padW": padding[1],
        "padH": padding[0],
        "dilationW": dilation[1],
        "dilationH": dilation[0],
        "group": groups,
        "deformable_group": deform,
        "im2col_step": 1,
    }


def v2(
    case: tuple[int, int, tuple[int, int], tuple[int, int], tuple[int, int]],
    kernel: tuple[int, int],
) -> dict[str, int]:
    groups, deform, stride, padding, dilation = case
    return {
        "kernel_h": kernel[0],
        "kernel_w": kernel[1],
        "stride_h": stride[0],
        "stride_w": stride[1],
        "pad_h": padding[0],
        "pad_w": padding[1],
        "dilation_h": dilation[0],
        "dilation_w": dilation[1],
        "group": groups,
        "deformable_group": deform,
        "with_bias": True,
    }


@pytest.fixture(params=[48 * 2**20, 700], ids=["whole", "pieces"])
def piece_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(_deform, "_COLUMN_BYTES", request.param)
    return int(request.param)


@pytest.mark.parametrize("case", CASES)
def test_both_versions_equal_loops(piece_bytes: int, case: tuple) -> None:
    a, scratch = arguments(case), torch.empty(0, dtype=torch.float64)
    output = torch.full_like(a["grad"], torch.nan)
    modulated_deform_conv_forward(
        a["input"], a["weight"], a["bias"], scratch, a["offset"], a["mask"], output, scratch,
        **v2(case, (3, 2)),
    )  # fmt: skip
    expected = loops(a["input"], a["offset"], a["mask"], a["weight"], case)
    expected += a["bias"][:, None, None]
    torch.testing.assert_close(output, expected, **tolerances(torch.float64))

    deform_conv_forward(
        a["input"], a["weight"], a["offset"], output, scratch, scratch, **v1(case, (3, 2))
    )
    ones = torch.ones_like(a["mask"])
    expected = loops(a["input"], a["offset"], ones, a["weight"], case)
    torch.testing.assert_close(output, expected, **tolerances(torch.float64))
    assert not scratch.numel()


@pytest.mark.parametrize("stride", [1, 2])
def test_zero_offset_is_a_plain_convolution_with_its_gradient(stride: int) -> None:
    case = (1, 1, (stride, stride), (1, 1), (1, 1))
    a, scratch = arguments(case, (3, 3)), torch.empty(0, dtype=torch.float64)
    a["offset"].zero_()
    images, weight = a["input"].requires_grad_(), a["weight"].requires_grad_()
    expected = F.conv2d(images, weight, stride=stride, padding=1)
    wanted = torch.autograd.grad(expected, (images, weight), a["grad"])
    output, grad_images, grad_offset, grad_weight = (
        torch.zeros_like(t) for t in (expected, images, a["offset"], weight)
    )
    keywords = v1(case, (3, 3))
    with torch.no_grad():
        deform_conv_forward(images, weight, a["offset"], output, scratch, scratch, **keywords)
        deform_conv_backward_input(
            images, a["offset"], a["grad"], grad_images, grad_offset, weight, scratch, **keywords
        )
        deform_conv_backward_parameters(
            images, a["offset"], a["grad"], grad_weight, scratch, scratch, scale=1, **keywords
        )
    for got, want in zip((output, grad_images, grad_weight), (expected, *wanted), strict=True):
        torch.testing.assert_close(got, want.detach(), **tolerances(torch.float64))


def test_offset_gradient_at_a_pixel_looks_towards_the_next_one() -> None:
    # One tap at pixel (1, 1) of a map that is bent there: the derivative is one-sided, as mmcv's.
    images = torch.tensor([[[[0.0, 0, 0], [1, 10, 40], [0, 13, 0]]]], dtype=torch.float64)
    weight, offset = torch.ones(1, 1, 1, 1).double(), torch.zeros(1, 2, 3, 3).double()
    grad_output = torch.zeros(1, 1, 3, 3).double()
    grad_output[0, 0, 1, 1] = 1
    grad_offset, scratch = torch.zeros_like(offset), torch.empty(0)
    case = (1, 1, (1, 1), (0, 0), (1, 1))
    deform_conv_backward_input(
        images, offset, grad_output, torch.zeros_like(images), grad_offset, weight, scratch,
        **v1(case, (1, 1)),
    )  # fmt: skip
    assert grad_offset[0, :, 1, 1].tolist() == [3, 30]


@pytest.mark.parametrize("case", CASES)
def test_what_is_added_and_what_is_set(piece_bytes: int, case: tuple) -> None:
    a, scratch = arguments(case), torch.empty(0, dtype=torch.float64)
    names = ("input", "weight", "bias", "offset", "mask")

    def gradients(start: float) -> list[Tensor]:
        into = [torch.full_like(a[name], start) for name in names]
        modulated_deform_conv_backward(
            a["input"], a["weight"], a["bias"], scratch, a["offset"], a["mask"], scratch, *into,
            a["grad"], **v2(case, (3, 2)),
        )  # fmt: skip
        return into

    for index, (once, more) in enumerate(zip(gradients(0), gradients(5), strict=True)):
        expected = once + 5 if index < 3 else once
        torch.testing.assert_close(more, expected, **tolerances(torch.float64))

    weight = [torch.full_like(a["weight"], start) for start in (0.0, 5.0)]
    for grad, scale in zip(weight, (1.0, 0.5), strict=True):
        deform_conv_backward_parameters(
            a["input"], a["offset"], a["grad"], grad, scratch, scratch, scale=scale,
            **v1(case, (3, 2)),
        )  # fmt: skip
    torch.testing.assert_close(weight[1], weight[0] / 2 + 5, **tolerances(torch.float64))


def test_strided_arguments_give_the_same() -> None:
    case = CASES[0]
    a, scratch = arguments(case), torch.empty(0, dtype=torch.float64)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        images, offset = (a[n].contiguous(memory_format=layout) for n in ("input", "offset"))
        output = torch.empty_like(a["grad"], memory_format=layout)
        grads = torch.zeros_like(images), torch.zeros_like(offset)
        deform_conv_forward(
            images, a["weight"], offset, output, scratch, scratch, **v1(case, (3, 2))
        )
        deform_conv_backward_input(
            images, offset, a["grad"], *grads, a["weight"], scratch, **v1(case, (3, 2))
        )
        results.append((output, *grads))
    for plain, strided in zip(*results, strict=True):
        torch.testing.assert_close(plain, strided, **tolerances(torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_stays_near_float64(dtype: torch.dtype) -> None:
    case = CASES[0]
    a = {name: value.to(dtype) for name, value in arguments(case).items()}
    scratch, results = torch.empty(0), []
    for kind in (dtype, torch.float64):
        b = {name: value.to(kind) for name, value in a.items()}
        output = torch.empty_like(b["grad"])
        modulated_deform_conv_forward(
            b["input"], b["weight"], b["bias"], scratch, b["offset"], b["mask"], output, scratch,
            **v2(case, (3, 2)),
        )  # fmt: skip
        results.append(output.double())
    bound = tolerances(dtype)
    error = (results[0] - results[1]).abs().max() / results[1].abs().max()
    assert error < 4 * bound["rtol"]


def test_shapes_that_contradict_each_other_are_named() -> None:
    case, scratch = CASES[0], torch.empty(0)
    a = arguments(case)
    output, keywords = torch.empty_like(a["grad"]), v1(case, (3, 2))
    with pytest.raises(ValueError, match=r"deform_conv_forward: offset must be \(2, 12, 5, 7\)"):
        deform_conv_forward(
            a["input"], a["weight"], a["offset"][:, :, 1:], output, scratch, scratch, **keywords
        )
    with pytest.raises(ValueError, match="input must have 4 channels, got 3"):
        deform_conv_forward(
            a["input"][:, 1:], a["weight"], a["offset"], output, scratch, scratch, **keywords
        )
    with pytest.raises(ValueError, match=r"input must be \(B, C, H, W\)"):
        deform_conv_forward(
            a["input"][0], a["weight"], a["offset"], output, scratch, scratch, **keywords
        )
    with pytest.raises(ValueError, match=r"weight must have kernel \(3, 2\), got \(2, 2\)"):
        deform_conv_forward(
            a["input"], a["weight"][:, :, 1:], a["offset"], output, scratch, scratch, **keywords
        )


@pytest.mark.parametrize("case", CASES)
def test_gradcheck_through_mmcv(host: list[Outcome], case: tuple) -> None:
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    groups, deform, stride, padding, dilation = case
    a = {name: value.requires_grad_() for name, value in arguments(case).items()}
    tensors = (a["input"], a["offset"], a["weight"])
    geometry = (stride, padding, dilation, groups, deform)
    assert torch.autograd.gradcheck(
        lambda *t: deform_conv2d(*t, *geometry), tensors, fast_mode=True
    )
    tensors = (a["input"], a["offset"], a["mask"], a["weight"], a["bias"])
    assert torch.autograd.gradcheck(
        lambda *t: modulated_deform_conv2d(*t, *geometry), tensors, fast_mode=True
    )


def test_modules_train_where_their_offsets_begin_at_zero(host: list[Outcome]) -> None:
    from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack

    for kind in (DeformConv2dPack, ModulatedDeformConv2dPack):
        torch.manual_seed(0)
        layer = kind(8, 8, 3, padding=1)
        images = torch.randn(2, 8, 7, 9, requires_grad=True)
        layer(images).square().sum().backward()
        for name, value in (*layer.named_parameters(), ("input", images)):
            assert value.grad is not None, name
            assert value.grad.isfinite().all(), name
            assert value.grad.abs().sum() > 0, name


def test_autocast_changes_nothing_of_what_is_given() -> None:
    a = {name: value.float() for name, value in arguments(CASES[0]).items()}
    scratch, outputs = torch.empty(0), []
    for enabled in (False, True):
        output = torch.empty_like(a["grad"])
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            deform_conv_forward(
                a["input"], a["weight"], a["offset"], output, scratch, scratch,
                **v1(CASES[0], (3, 2)),
            )  # fmt: skip
        outputs.append(output)
    assert torch.equal(*outputs)


def test_module_under_autocast(host: list[Outcome]) -> None:
    from mmcv.ops import ModulatedDeformConv2dPack

    torch.manual_seed(0)
    layer, images = ModulatedDeformConv2dPack(8, 8, 3, padding=1), torch.randn(1, 8, 6, 7)
    plain = layer(images)
    with torch.autocast("cpu", torch.float16):
        low = layer(images)
    assert low.dtype == torch.float16
    low.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()
    torch.testing.assert_close(low.float(), plain, **tolerances(torch.float16))
