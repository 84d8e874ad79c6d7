"""Activations with a bias and resampling filters of ``mmcv._ext``, from their definitions."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from anybev.patches.ext._sampling import working_dtype
from anybev.patches.ext._table import supplies

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
_SELU_TAIL = _SELU_SCALE * _SELU_ALPHA
_LEAKY = 3
_FORWARD = 0


def _along(vector: Tensor, like: Tensor, dim: int) -> Tensor:
    """(C,) as it broadcasts along ``dim`` of ``like``; 0 if empty."""
    if not vector.numel():
        return like.new_zeros(())
    return vector.reshape([-1 if i == dim else 1 for i in range(like.dim())])


@supplies()
def fused_bias_leakyrelu(
    input: Tensor, bias: Tensor, empty: Tensor, act: int, grad: int, alpha: float, scale: float
) -> Tensor:
    """Leaky ReLU of ``input`` plus ``bias``, scaled (mmcv ``fused_bias_leakyrelu``).

    Args:
        input: (N, C, ...) float; a gradient if ``grad`` is 1.
        bias: (C,), or empty for none.
        empty: the forward output if ``grad`` is 1, whose sign decides; otherwise not read.
        act: 3 is leaky ReLU; anything else is linear.
        grad: 0 value, 1 first derivative, 2 second.
        alpha: slope of the negative side.
        scale: factor of the result.

    Returns:
        As ``input``.
    """
    if grad > 1:
        return torch.zeros_like(input)
    value = input + _along(bias, input, 1)
    if act == _LEAKY:
        sign = value if grad == _FORWARD else empty
        value = torch.where(sign > 0, value, value * alpha)
    return value * scale


def _swish_slope(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    s = x.sigmoid()
    return s + x * s * (1 - s)


def _swish_bend(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    s = x.sigmoid()
    return s * (1 - s) * (2 + x * (1 - 2 * s))


_Derivative = Callable[[Tensor, Tensor, float], Tensor]


def _none(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    return torch.zeros_like(y)


# By upstream's number: value at x, and the derivatives at (x, y) where y is the value; all but the
# last read y only, for upstream passes them no x.
_ACTIVATIONS: dict[int, tuple[Callable[[Tensor, float], Tensor], _Derivative, _Derivative]] = {
    1: (lambda x, a: x, lambda x, y, a: torch.ones_like(y), _none),
    2: (lambda x, a: x.relu(), lambda x, y, a: (y > 0).to(y.dtype), _none),
    3: (
        lambda x, a: F.leaky_relu(x, a),
        lambda x, y, a: torch.where(y > 0, 1.0, torch.full_like(y, a)),
        _none,
    ),
    4: (
        lambda x, a: x.tanh(),
        lambda x, y, a: 1 - y**2,
        lambda x, y, a: -2 * y * (1 - y**2),
    ),
    5: (
        lambda x, a: x.sigmoid(),
        lambda x, y, a: y * (1 - y),
        lambda x, y, a: y * (1 - y) * (1 - 2 * y),
    ),
    6: (
        lambda x, a: F.elu(x),
        lambda x, y, a: torch.where(y >= 0, 1.0, y + 1),
        lambda x, y, a: torch.where(y >= 0, 0.0, y + 1),
    ),
    7: (
        lambda x, a: F.selu(x),
        lambda x, y, a: torch.where(y >= 0, _SELU_SCALE, y + _SELU_TAIL),
        lambda x, y, a: torch.where(y >= 0, 0.0, y + _SELU_TAIL),
    ),
    8: (
        lambda x, a: F.softplus(x),
        lambda x, y, a: 1 - (-y).exp(),
        lambda x, y, a: (-y).exp() * (1 - (-y).exp()),
    ),
    9: (lambda x, a: F.silu(x), _swish_slope, _swish_bend),
}
_SWISH = 9


@supplies()
def bias_act(
    input: Tensor,
    bias: Tensor,
    xref: Tensor,
    yref: Tensor,
    dy: Tensor,
    grad: int,
    dim: int,
    act: int,
    alpha: float,
    gain: float,
    clamp: float,
) -> Tensor:
    """An activation of ``input`` plus ``bias``, scaled and clamped (mmcv ``bias_act``).

    Args:
        input: any shape; what is multiplied by the derivative if ``grad`` is 1 or 2.
        bias: (C,), or empty for none.
        xref: the forward input, or empty; read by the derivatives of swish only.
        yref: the forward output, or empty; read by the other derivatives and the clamp.
        dy: factor of the second derivative, or empty.
        grad: 0 value, 1 first derivative, 2 second.
        dim: where ``input`` has the bias' C.
        act: 1 linear, 2 relu, 3 leaky relu, 4 tanh, 5 sigmoid, 6 elu, 7 selu, 8 softplus, 9 swish.
        alpha: slope of leaky relu.
        gain: factor of the result.
        clamp: largest absolute value; below 0 for none.

    Returns:
        As ``input``.

    Raises:
        ValueError: ``act`` or ``grad`` is none of these.
    """
    if act not in _ACTIVATIONS or grad not in (0, 1, 2):
        raise ValueError(f"bias_act: act must be 1..9 and grad 0..2, got {act} and {grad}")
    wide = working_dtype(input.dtype)
    x, shift = input.to(wide), _along(bias, input, dim).to(wide)
    value, *derivatives = _ACTIVATIONS[act]
    if grad == _FORWARD:
        result = value(x + shift, alpha) * gain
        return (result.clamp(-clamp, clamp) if clamp >= 0 else result).to(input.dtype)
    at = (xref if xref.numel() else torch.zeros_like(input)).to(wide) + shift
    out = F.silu(at) * gain if act == _SWISH else yref.to(wide)
    if not out.numel():
        out = torch.zeros_like(x)
    slope = derivatives[grad - 1](at, out / gain if gain else torch.zeros_like(out), alpha)
    result = x * slope * gain
    if dy.numel():
        result = result * dy.to(wide)
    if clamp >= 0:
        result = torch.where(out.abs() < clamp, result, 0)
    return result.to(input.dtype)


@supplies()
def upfirdn2d(
    input: Tensor,
    filter: Tensor,
    upx: int,
    upy: int,
    downx: int,
    downy: int,
    padx0: int,
    padx1: int,
    pady0: int,
    pady1: int,
    flip: bool,
    gain: float,
) -> Tensor:
    """Insert zeros, pad, filter, drop pixels (mmcv ``upfirdn2d``).

    Args:
        input: (N, C, H, W) float.
        filter: (h, w) float32.
        upx: pixels along x for each one.
        upy: along y.
        downx: keep one pixel of so many along x.
        downy: along y.
        padx0: columns of zeros on the left after inserting; negative crops.
        padx1: on the right.
        pady0: rows above.
        pady1: rows below.
        flip: correlate; otherwise convolve.
        gain: factor of the result.

    Returns:
        (N, C, H', W'), dtype of ``input``.
    """
    n, c, height, width = input.shape
    wide = input.new_zeros((n * c, 1, height * upy, width * upx))
    wide[:, :, ::upy, ::upx] = input.reshape(n * c, 1, height, width)
    wide = F.pad(wide, (padx0, padx1, pady0, pady1))
    kernel = (filter if flip else filter.flip((0, 1))) * gain
    result = F.conv2d(wide, kernel.to(input.dtype)[None, None], stride=(downy, downx))
    return result.view(n, c, *result.shape[2:])
