"""Names of ``mmcv._ext`` that move features of points by indices."""

import torch
from torch import Tensor

from anybev.patches.ext._table import supplies


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
    idx: Tensor, idx_batch_cnt: Tensor, rows_batch_cnt: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows of a stacked tensor that indices counted within their sample mean, and which exist."""
    ends = idx_batch_cnt.cumsum(0)
    centre = torch.arange(idx.shape[0], device=idx.device)
    sample = torch.searchsorted(ends, centre, right=True).clamp_(max=ends.shape[0] - 1)
    count = rows_batch_cnt.long()
    start = count.cumsum(0) - count
    inside = (idx >= 0) & (idx < count[sample, None])
    return torch.where(inside, idx.long() + start[sample, None], 0), inside


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
    rows, inside = _stacked_rows(
        idx_tensor.reshape(m, nsample), idx_batch_cnt_tensor, features_batch_cnt_tensor
    )
    picked = features_tensor[rows].transpose(1, 2)
    out_tensor.copy_(torch.where(inside[:, None], picked, out_tensor))


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
    rows, inside = _stacked_rows(
        idx_tensor.reshape(m, nsample), idx_batch_cnt_tensor, features_batch_cnt_tensor
    )
    grads = torch.where(inside[:, None], grad_out_tensor, 0).transpose(1, 2)
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
    points, out = points_tensor.reshape(b, c, m), out_tensor.view(b, c, n)
    for k in range(3):
        index = _along_points(idx_tensor.reshape(b, n, 3)[..., k], b, c)
        part = points.gather(2, index).mul_(weight_tensor.reshape(b, 1, n, 3)[..., k])
        out.copy_(part) if k == 0 else out.add_(part)


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
    grad_out, grad_points = grad_out_tensor.reshape(b, c, n), grad_points_tensor.view(b, c, m)
    for k in range(3):
        index = _along_points(idx_tensor.reshape(b, n, 3)[..., k], b, c)
        part = grad_out * weight_tensor.reshape(b, 1, n, 3)[..., k]
        grad_points.scatter_add_(2, index, part)
