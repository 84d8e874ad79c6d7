"""sparse_conv and its gradients through mx_driving's sparse convolutions.

mx_driving builds neighbour tables of its own and does not document their layout: a submanifold
table comes out of ``indice_subm_conv``, a strided one out of ``indice_conv``. Both are asked for
once a plan, by a convolution of a few channels of zeros, and travel behind the plan's pair lists.
Rows of strided outputs ascend there as here.

    plan        forward                    gradients
    subm        indice_subm_conv           npu_subm_sparse_conv3d_grad_v2
    strided     npu_sparse_matmul          npu_sparse_conv3d_grad
    inverse     npu_sparse_inverse_conv3d  npu_sparse_matmul, and the columns of the forward

Its weights are [kx, ky, kz, in, out], ours [out, kx, ky, kz, in]. Forward kernels take float16 and
float32 (the inverse one float32 alone); bfloat16 is raised to float32 and rounded back. Gradients
run in float32, as mx_driving itself raises most of them but rounds the weight's to float16. float16
sums of a submanifold convolution are kept in float16, the reference's in float32.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anybev.device.npu import limits
from anybev.device.npu.adapters import runtime, vendor_functional, vendor_kernels
from anybev.device.ops._sparse_payload import INVERSE, STRIDED, SUBM

_PROBE_CHANNELS = 16
_LISTS = 3  # tensors of the pair lists, before the vendor's


def sparse_conv_payload(in_coords: Tensor, rows: int, geometry: Sequence[int]) -> list[Tensor]:
    """[header, coords, table] of a subm plan, [header, coords, offset, order, pair] of a strided.

    The header is a host tensor: kind, cells of the output along x, y, z, samples, kernel.
    """
    limits.require_work(len(in_coords), rows)
    _generation(in_coords.device)
    kind, batch_size = geometry[0], geometry[7]
    shape, out_shape = list(geometry[1:4]), list(geometry[4:7])
    kernel, stride, padding = (list(geometry[i : i + 3]) for i in (8, 11, 14))
    coords = in_coords.clone(memory_format=torch.contiguous_format)  # outputs alias no input
    probe = coords.new_zeros((len(coords), _PROBE_CHANNELS), dtype=torch.float32)
    weight = probe.new_zeros((*kernel, _PROBE_CHANNELS, _PROBE_CHANNELS))
    header = torch.tensor([kind, *out_shape, batch_size, *kernel], dtype=torch.int32)
    setting = (out_shape, _PROBE_CHANNELS, batch_size, kernel, stride, padding, [1, 1, 1], 1, None)
    if kind == SUBM:
        # mx_driving pads its map by half the first side of the kernel, along every axis.
        cubic = kernel in ([1, 1, 1], [3, 3, 3])
        limits.require(cubic, "kernel of a subm plan must be 1 or 3 cubed", kernel)
        _require_map(batch_size, [n + kernel[0] - 1 for n in shape], len(coords))
        _, _, table = vendor_functional().indice_subm_conv(probe, coords, weight, None, *setting)
        return [header, coords, table]
    limits.require(max(kernel) <= 3, "kernel of a strided plan must be at most 3", kernel)
    _require_numbered(batch_size, out_shape)
    pairs, most = len(coords) * math.prod(kernel), limits.INT32
    limits.require(pairs <= most, f"rows times offsets must be at most {most}", pairs)
    found = vendor_functional().indice_conv(probe, coords, weight, *setting)
    _, out_coords, offset, order, pair = found
    limits.require(len(out_coords) == rows, f"outputs of this plan must be {rows}", len(out_coords))
    return [header, coords, offset.int(), order.int(), pair.int()]


def _require_map(batch_size: int, padded: Sequence[int], rows: int) -> None:
    """The map in which mx_driving looks for neighbours is numbered in int32."""
    most, two_levels = limits.INT32, math.prod(padded) > limits.DENSE_MAP_CELLS
    places = rows * padded[2] if two_levels else batch_size * math.prod(padded)
    limits.require(places <= most, f"places of the map of cells must be at most {most}", places)
    if two_levels:
        _require_numbered(batch_size, padded[:2])


def _require_numbered(batch_size: int, cells: Sequence[int]) -> None:
    total, most = batch_size * math.prod(cells), limits.PACKED
    limits.require(total <= most, f"cells of a batch must be at most {most}", total)


def _vendor(gather: list[Tensor]) -> tuple[list[int], list[Tensor]]:
    """Header and tensors that a plan carries for mx_driving."""
    tensors = gather[_LISTS:]
    if not tensors:
        raise limits.NotForKernel  # the plan, when it was made, said why
    return tensors[0].tolist(), tensors[1:]


def _theirs(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).permute(1, 2, 3, 4, 0).contiguous()


def _ours(weight: Tensor) -> Tensor:
    return weight.permute(4, 0, 1, 2, 3)


def _require_channels(kind: int, in_channels: int, out_channels: int) -> None:
    bounded = {SUBM: {}, STRIDED: {"out": out_channels}}
    both = {"in": in_channels, "out": out_channels}
    for name, channels in bounded.get(kind, both).items():
        step, most = limits.CHANNEL_STEP, limits.CONV_CHANNELS
        limits.require(channels % step == 0, f"{name} channels must divide by {step}", channels)
        limits.require(channels <= most, f"{name} channels must be at most {most}", channels)


def sparse_conv(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gather: list[Tensor],
    scatter: list[Tensor],
    rows: int,
) -> Tensor:
    """See the contract."""
    limits.require_work(*features.shape, rows, weight.shape[0])
    limits.require_single("features", features)
    header, tensors = _vendor(gather)
    kind, shape, batch_size = header[0], header[1:4], header[4]
    out_channels, kernel, in_channels = weight.shape[0], list(weight.shape[1:4]), weight.shape[4]
    _require_channels(kind, in_channels, out_channels)
    half = features.dtype == torch.float16 and kind != INVERSE
    wide = features.to(torch.float16 if half else torch.float32).contiguous()
    # Rounded to the features' dtype, as the contract says, whatever the kernel multiplies in.
    theirs = _theirs(weight.to(features.dtype), wide.dtype)
    if kind == SUBM:
        coords, table = tensors
        ones = [1, 1, 1]
        setting = (shape, out_channels, batch_size, kernel, ones, [0, 0, 0], ones, 1, None)
        out = vendor_functional().indice_subm_conv(wide, coords, theirs, table, *setting)[0]
    elif kind == STRIDED:
        _, offset, order, pair = tensors
        out = vendor_kernels().npu_sparse_matmul(wide, theirs, offset, order, pair)[0]
    else:
        out = _columns(wide, kernel, tensors) @ theirs.flatten(0, 3)
    if bias is not None:
        out = out.float() + bias.float()
    result: Tensor = out.to(features.dtype)
    return result


def _columns(features: Tensor, kernel: list[int], tensors: list[Tensor]) -> Tensor:
    """(N, K * C): of each row of the inverse's output, the features that each offset brings."""
    coords, offset, order, _ = tensors
    columns: Tensor = vendor_kernels().npu_sparse_inverse_conv3d(
        features, coords, offset, order, kernel, features.shape[1]
    )
    return columns


def _both(
    grad: Tensor, features: Tensor, theirs: Tensor, gather: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Both gradients, float32, the weight's in mx_driving's layout."""
    limits.require_work(*grad.shape, *features.shape)
    limits.require_single("features", features)
    header, tensors = _vendor(gather)
    kind = header[0]
    _require_channels(kind, features.shape[1], grad.shape[1])
    grad, features = grad.float().contiguous(), features.float().contiguous()
    if kind == INVERSE:
        return _both_inverse(grad, features, theirs, tensors)
    if kind == STRIDED:
        step = limits.GRADIENT_CHANNEL_STEP
        for channels in (features.shape[1], grad.shape[1]):
            kept = channels % step == 0
            limits.require(kept, f"channels of a gradient must divide by {step}", channels)
        _, offset, order, _ = tensors
        both = vendor_kernels().npu_sparse_conv3d_grad(order, offset, features, theirs, grad)
    else:
        allow_hf32 = runtime().conv.allow_hf32
        both = _subm_gradients(grad.device)(features, theirs, grad, tensors[1], allow_hf32)
    return both[0], both[1]


def _both_inverse(
    grad: Tensor, features: Tensor, theirs: Tensor, tensors: list[Tensor]
) -> tuple[Tensor, Tensor]:
    _, offset, order, pair = tensors
    turned = theirs.transpose(3, 4).contiguous()
    grad_features = vendor_kernels().npu_sparse_matmul(grad, turned, offset, order, pair)[0]
    columns = _columns(features, list(theirs.shape[:3]), tensors)
    return grad_features, (columns.t() @ grad).view(theirs.shape)


def _generation(device: torch.device) -> str:
    """Which of mx_driving's kernels a device has."""
    name = str(runtime().get_device_name(device.index))
    known = [kind for kind in ("Ascend910", "Ascend950") if kind in name]
    limits.require(bool(known), "device must be an Ascend910 or Ascend950", name)
    return known[0]


def _subm_gradients(device: torch.device) -> Callable[..., tuple[Tensor, Tensor]]:
    names = {
        "Ascend910": "npu_subm_sparse_conv3d_grad_v2",
        "Ascend950": "npu_subm_sparse_conv3d_grad_arch35",
    }
    found: Callable[..., tuple[Tensor, Tensor]]
    found = getattr(vendor_kernels(), names[_generation(device)])
    return found


def sparse_conv_backward(
    grad: Tensor,
    features: Tensor,
    weight: Tensor,
    gather: list[Tensor],
    scatter: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """See the contract."""
    theirs = _theirs(weight.to(features.dtype), torch.float32)
    grad_features, grad_weight = _both(grad, features, theirs, gather)
    return grad_features.to(features.dtype), _ours(grad_weight).to(weight.dtype).contiguous()


def sparse_conv_grad_weight(
    features: Tensor, grad: Tensor, gather: list[Tensor], scatter: list[Tensor], offsets: int
) -> Tensor:
    """See the contract."""
    kernel = _vendor(gather)[0][5:8]
    # The kernel computes both gradients; this one does not depend on the weight.
    theirs = features.new_zeros((*kernel, features.shape[1], grad.shape[1]), dtype=torch.float32)
    _, grad_weight = _both(grad, features, theirs, gather)
    return _ours(grad_weight).flatten(1, 3).contiguous()
