"""Activations and filters of mmcv._ext against mmcv's own plain PyTorch versions."""

import pytest
import torch
from torch import Tensor

from anybev.patches import Outcome
from anybev.patches.ext.images_generative import bias_act, upfirdn2d
from anybev.testing.tolerances import tolerances

ACTIVATIONS = [
    "linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish",
]  # fmt: skip
TWICE = ACTIVATIONS[3:]


def leaves() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn((2, 3, 4), generator=generator, dtype=torch.float64) * 2
    bias = torch.randn(3, generator=generator, dtype=torch.float64)
    return values.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("clamp", [None, 0.8])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activation_equals_the_plain_one(
    host: list[Outcome], act: str, clamp: float | None
) -> None:
    from mmcv.ops.bias_act import _bias_act_cuda, _bias_act_ref

    tensors, settings = leaves(), {"dim": 1, "act": act, "gain": 1.7, "clamp": clamp}
    ours = _bias_act_cuda(**settings).apply(*tensors)
    plain = _bias_act_ref(*tensors, **settings)
    torch.testing.assert_close(ours, plain, **tolerances(torch.float64))
    if act == "linear" and clamp is not None:
        return  # upstream keeps no output of it, so its gradient does not see the clamp
    grad = torch.randn_like(plain)
    for got, want in zip(
        *(torch.autograd.grad(out, tensors, grad) for out in (ours, plain)), strict=True
    ):
        torch.testing.assert_close(got, want, **tolerances(torch.float64))


@pytest.mark.parametrize("act", TWICE)
def test_second_derivative(host: list[Outcome], act: str) -> None:
    from mmcv.ops.bias_act import _bias_act_cuda

    function = _bias_act_cuda(dim=1, act=act, gain=1.7).apply
    assert torch.autograd.gradgradcheck(function, leaves())


def test_unknown_activation_is_named() -> None:
    empty = torch.empty(0)
    with pytest.raises(ValueError, match=r"act must be 1..9 and grad 0..2, got 10 and 0"):
        bias_act(torch.ones(1), empty, empty, empty, empty, 0, 0, 10, 0.0, 1.0, -1.0)


def test_leaky_relu_with_bias(host: list[Outcome]) -> None:
    from mmcv.ops.fused_bias_leakyrelu import FusedBiasLeakyReLUFunction, bias_leakyrelu_ref

    tensors = leaves()
    outputs = (
        FusedBiasLeakyReLUFunction.apply(*tensors, 0.3, 1.5),
        bias_leakyrelu_ref(*tensors, 0.3, 1.5),
    )
    torch.testing.assert_close(*outputs, **tolerances(torch.float64))
    grad = torch.randn_like(outputs[0])
    for got, want in zip(
        *(torch.autograd.grad(out, tensors, grad) for out in outputs), strict=True
    ):
        torch.testing.assert_close(got, want, **tolerances(torch.float64))


@pytest.mark.filterwarnings("ignore:Since aten.cudnn_convolution_backward_weight:UserWarning")
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(
    ("up", "down", "padding"), [(1, 1, 0), (2, 1, [1, 2, 0, 3]), ([1, 2], [3, 2], [-1, 2, 3, -2])]
)
@pytest.mark.parametrize("taps", [(3, 4), (5,)])
def test_resampling_equals_the_plain_one(
    host: list[Outcome],
    taps: tuple[int, ...],
    up: object,
    down: object,
    padding: object,
    flip: bool,
) -> None:
    from mmcv.ops.upfirdn2d import _upfirdn2d_cuda, _upfirdn2d_ref

    images = torch.randn(2, 3, 7, 8, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(taps)
    settings = {"up": up, "down": down, "padding": padding, "flip_filter": flip, "gain": 1.5}
    ours = _upfirdn2d_cuda(**settings).apply(images, kernel)
    plain = _upfirdn2d_ref(images, kernel, **settings)
    # Upstream's plain version takes the gain's root for each pass of a separable float32 filter.
    torch.testing.assert_close(ours, plain, **tolerances(torch.float32))
    grads = (torch.autograd.grad(out, images, torch.ones_like(out))[0] for out in (ours, plain))
    torch.testing.assert_close(*grads, **tolerances(torch.float32))


def test_resampling_by_hand() -> None:
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    kernel = torch.tensor([[1.0, 10.0]])
    double = upfirdn2d(row, kernel, 2, 1, 1, 1, 1, 0, 0, 0, flip=True, gain=1.0)
    assert double.flatten().tolist() == [10, 1, 20, 2, 30, 3]
    every_other = upfirdn2d(row, kernel, 1, 1, 2, 1, 1, 0, 0, 0, flip=False, gain=0.5)
    assert every_other.flatten().tolist() == [0.5, 11.5]
