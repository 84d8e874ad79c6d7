"""Layouts in which the weights of sparse convolutions are stored."""

from collections.abc import Sequence

from torch import Tensor

__all__ = ["to_krsc"]

_MARKED = 2  # version in the metadata that mmdetection3d writes with [out, kernel, in]


def to_krsc(key: str, found: Tensor, wanted: Tensor, one_cell: bool, version: int | None) -> Tensor:
    """A stored weight as ``[out, kernel, in]``, told by its shape.

    ``[kernel, in, out]`` is mmcv's and spconv 1's. The version in a state dict's metadata decides
    only where the shape fits both: 2 says ``[out, kernel, in]``, but files that lack it hold
    either, OpenMMLab's published ones that of spconv 2.

    Args:
        key: for messages.
        found: the stored weight.
        wanted: the layer's own.
        one_cell: whether the layer reads its weight's numbers as [in, out]; see
            ``SparseConvolution``.
        version: in the metadata of the state dict.

    Returns:
        The weight; one that fits neither as it is, for ``load_state_dict`` to report.

    Raises:
        ValueError: it fits both and is not marked; it is spconv 2.0's ``[kernel, out, in]``.
    """
    out, *kernel, channels = wanted.shape
    shape = tuple(found.shape)
    is_krsc = shape == tuple(wanted.shape)
    is_rsck = shape == (*kernel, channels, out)
    if is_krsc and is_rsck and version != _MARKED and found.numel() > 1:
        raise ValueError(
            f"{key}: the layout of a sparse weight must show in its shape, got {list(shape)} that "
            "is [out, kernel, in] and [kernel, in, out] alike; try to mark the file: "
            "state_dict._metadata[module]['version'] = 2 says [out, kernel, in]"
        )
    if is_krsc:
        return found
    if is_rsck:
        return found.reshape(wanted.shape) if one_cell else _last_axis_first(found)
    if shape == (*kernel, out, channels):
        raise ValueError(
            f"{key}: a sparse weight must be [out, kernel, in] or [kernel, in, out], got "
            f"{list(shape)} that is [kernel, out, in] of spconv 2.0; try to save it with spconv 2.2"
        )
    return found


def _last_axis_first(weight: Tensor) -> Tensor:
    axes: Sequence[int] = range(weight.ndim - 1)
    return weight.permute(weight.ndim - 1, *axes).contiguous()
