"""Names of ``mmcv._ext`` that move features of points by indices."""

from collections.abc import Iterator

import torch
from torch import Tensor

from anybev.patches.ext._table import supplies

# Features of stacked samples moved at once.
_ELEMENTS_AT_ONCE = 1 << 22


def _along_points(idx: Tensor, b: int, c: int) -> Tensor:
    """(b, ...) indices as (b, c, count) for gather and scatter over the last axis; no copy."""
    return idx.flatten(1)[:, None].long().expand(b, c, -1)


@supplies()
@torch.no_grad()
def gather_points_forward(
    points_tensor: Tensor,
    idx_tensor: Tensor,
    out_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    npoints: int,
) -> None:
    """Pick the features of one point an index.

    Upstream: mmcv gather_points_forward. An index outside [0, n) is an error here; mmcv reads
    foreign memory.

    Args:
        points_tensor: (b, c, n) floating.
        idx_tensor: (b, npoints) integer, in [0, n).
        out_tensor: (b, c, npoints), written.
        b: batch size.
        c: channels.
        n: points.
        npoints: indices a sample.
    """
    index = _along_points(idx_tensor, b, c)
    torch.gather(points_tensor.reshape(b, c, n), 2, index, out=out_tensor.view(b, c, npoints))


@supplies()
@torch.no_grad()
def gather_points_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    grad_points_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    npoints: int,
) -> None:
    """Add each picked feature's gradient to its point.

    Upstream: mmcv gather_points_backward.

    Args:
        grad_out_tensor: (b, c, npoints) floating.
        idx_tensor: (b, npoints) integer, in [0, n).
        grad_points_tensor: (b, c, n), added to.
        b: batch size.
        c: channels.
        n: points.
        npoints: indices a sample.
    """
    index = _along_points(idx_tensor, b, c)
    grad_points_tensor.view(b, c, n).scatter_add_(2, index, grad_out_tensor.reshape(b, c, npoints))


@supplies()
def group_points_forward(
    points_tensor: Tensor,
    idx_tensor: Tensor,
    out_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    npoints: int,
    nsample: int,
) -> None:
    """Pick the features of ``nsample`` points for each of ``npoints`` centres.

    Upstream: mmcv group_points_forward.

    Args:
        points_tensor: (b, c, n) floating.
        idx_tensor: (b, npoints, nsample) integer, in [0, n).
        out_tensor: (b, c, npoints, nsample), written.
        b: batch size.
        c: channels.
        n: points.
        npoints: centres.
        nsample: indices a centre.
    """
    gather_points_forward(points_tensor, idx_tensor, out_tensor, b, c, n, npoints * nsample)


@supplies()
def group_points_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    grad_points_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    npoints: int,
    nsample: int,
) -> None:
    """Add each grouped feature's gradient to its point.

    Upstream: mmcv group_points_backward.

    Args:
        grad_out_tensor: (b, c, npoints, nsample) floating.
        idx_tensor: (b, npoints, nsample) integer, in [0, n).
        grad_points_tensor: (b, c, n), added to.
        b: batch size.
        c: channels.
        n: points.
        npoints: centres.
        nsample: indices a centre.
    """
    gather_points_backward(
        grad_out_tensor, idx_tensor, grad_points_tensor, b, c, n, npoints * nsample
    )


def _stacked_rows(
    idx: Tensor, idx_batch_cnt: Tensor, rows_batch_cnt: Tensor, c: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of centres, with the stacked rows that their indices mean and which of them exist."""
    ends = idx_batch_cnt.cumsum(0)
    centre = torch.arange(idx.shape[0], device=idx.device)
    sample = torch.searchsorted(ends, centre, right=True).clamp_(max=ends.shape[0] - 1)
    count = rows_batch_cnt.long()
    start = count.cumsum(0) - count
    inside = (idx >= 0) & (idx < count[sample, None])
    row = torch.where(inside, idx.long() + start[sample, None], 0)
    step = max(1, _ELEMENTS_AT_ONCE // max(1, idx.shape[1] * c))
    for i in range(0, idx.shape[0], step):
        block = slice(i, i + step)
        yield block, row[block], inside[block]


@supplies()
@torch.no_grad()
def stack_group_points_forward(
    features_tensor: Tensor,
    features_batch_cnt_tensor: Tensor,
    idx_tensor: Tensor,
    idx_batch_cnt_tensor: Tensor,
    out_tensor: Tensor,
    b: int,
    c: int,
    m: int,
    nsample: int,
) -> None:
    """Pick the features of ``nsample`` points a centre, samples of a batch stacked in one axis.

    Upstream: mmcv stack_group_points_forward. Indices count within their own sample. One outside
    it (the -1 of an empty ball) leaves the output as it was; mmcv reads the neighbouring memory.

    Args:
        features_tensor: (N1 + N2 + ..., c) floating.
        features_batch_cnt_tensor: (b,) int32, N1, N2, ...
        idx_tensor: (m, nsample) integer, in [0, N of the sample).
        idx_batch_cnt_tensor: (b,) int32, centres of each sample, m in total.
        out_tensor: (m, c, nsample), written.
        b: batch size.
        c: channels.
        m: centres in total.
        nsample: indices a centre.
    """
    if features_tensor.shape[0] == 0 or out_tensor.numel() == 0:
        return
    for block, rows, inside in _stacked_rows(
        idx_tensor.reshape(m, nsample), idx_batch_cnt_tensor, features_batch_cnt_tensor, c
    ):
        picked = features_tensor[rows].transpose(1, 2)
        out_tensor[block] = torch.where(inside[:, None], picked, out_tensor[block])


@supplies()
@torch.no_grad()
def stack_group_points_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    idx_batch_cnt_tensor: Tensor,
    features_batch_cnt_tensor: Tensor,
    grad_features_tensor: Tensor,
    b: int,
    c: int,
    m: int,
    n: int,
    nsample: int,
) -> None:
    """Add each grouped feature's gradient to its row.

    Upstream: mmcv stack_group_points_backward. An index outside its sample adds nothing.

    Args:
        grad_out_tensor: (m, c, nsample) floating.
        idx_tensor: (m, nsample) integer, counted within the sample.
        idx_batch_cnt_tensor: (b,) int32, centres of each sample, m in total.
        features_batch_cnt_tensor: (b,) int32, rows of each sample, n in total.
        grad_features_tensor: (n, c), added to.
        b: batch size.
        c: channels.
        m: centres in total.
        n: rows in total.
        nsample: indices a centre.
    """
    if n == 0 or grad_out_tensor.numel() == 0:
        return
    for block, rows, inside in _stacked_rows(
        idx_tensor.reshape(m, nsample), idx_batch_cnt_tensor, features_batch_cnt_tensor, c
    ):
        grads = torch.where(inside[:, None], grad_out_tensor[block], 0).transpose(1, 2)
        grad_features_tensor.index_add_(0, rows.reshape(-1), grads.reshape(-1, c))


@supplies()
@torch.no_grad()
def three_interpolate_forward(
    points_tensor: Tensor,
    idx_tensor: Tensor,
    weight_tensor: Tensor,
    out_tensor: Tensor,
    b: int,
    c: int,
    m: int,
    n: int,
) -> None:
    """Weighted sum of three points' features.

    Upstream: mmcv three_interpolate_forward; weights are used as they are, not normalised.

    Args:
        points_tensor: (b, c, m) floating.
        idx_tensor: (b, n, 3) integer, in [0, m).
        weight_tensor: (b, n, 3) floating.
        out_tensor: (b, c, n), written.
        b: batch size.
        c: channels.
        m: points.
        n: outputs.
    """
    idx = idx_tensor.reshape(b, n, 3).long()
    weight, out = weight_tensor.reshape(b, n, 3), out_tensor.view(b, c, n)
    for points, index, factor, total in zip(
        points_tensor.reshape(b, c, m), idx, weight, out, strict=True
    ):
        total.copy_(points[:, index[:, 0]].mul_(factor[:, 0]))
        for k in (1, 2):
            total.add_(points[:, index[:, k]].mul_(factor[:, k]))


@supplies()
@torch.no_grad()
def three_interpolate_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    weight_tensor: Tensor,
    grad_points_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    m: int,
) -> None:
    """Add the weighted gradient of each output to its three points.

    Upstream: mmcv three_interpolate_backward. Weights get no gradient, as in mmcv.

    Args:
        grad_out_tensor: (b, c, n) floating.
        idx_tensor: (b, n, 3) integer, in [0, m).
        weight_tensor: (b, n, 3) floating.
        grad_points_tensor: (b, c, m), added to.
        b: batch size.
        c: channels.
        n: outputs.
        m: points.
    """
    idx = idx_tensor.reshape(b, n, 3).long()
    grad_out, weight = grad_out_tensor.reshape(b, c, n), weight_tensor.reshape(b, n, 3)
    for grad, index, factor, total in zip(
        grad_out, idx, weight, grad_points_tensor.view(b, c, m), strict=True
    ):
        for k in range(3):
            total.scatter_add_(1, index[:, k].expand(c, n), grad * factor[:, k])
