"""Names of ``mmcv._ext`` that sample points far from each other."""

import math

import torch
from torch import Tensor

from anybev.patches.ext._table import supplies

# mmcv's kernel takes 2**10 threads a sample at most.
_MOST_BITS = 10


def _tie_order(n: int, device: torch.device) -> Tensor:
    """Points in the order in which mmcv's kernel prefers them at equal distance.

    Thread t of 2**k holds points t, t + 2**k, ...; a tree then halves the threads, upper half into
    lower, and the lower one wins a tie. So the winner is the point of the thread whose index, bits
    reversed, is least, and of that thread's points the first.
    """
    bits = min(int(math.log(n) / math.log(2.0)), _MOST_BITS)
    point = torch.arange(n, device=device)
    thread, reversed_thread = point % (1 << bits), torch.zeros_like(point)
    for bit in range(bits):
        reversed_thread |= ((thread >> bit) & 1) << (bits - 1 - bit)
    return torch.argsort(reversed_thread * (n + 1) + (point >> bits))


@supplies()
@torch.no_grad()
def furthest_point_sampling_forward(
    points_tensor: Tensor, temp_tensor: Tensor, idx_tensor: Tensor, b: int, n: int, m: int
) -> None:
    """Sample point after point, each the furthest from those sampled before.

    Upstream: mmcv furthest_point_sampling_forward. Point 0 comes first; no point is left out for
    being near the origin, and with m > n points repeat. Of equally far points the one wins that
    mmcv's CUDA kernel picks (see ``_tie_order``). A point with a NaN keeps the distance that
    ``temp_tensor`` came with.

    Args:
        points_tensor: (b, n, 3) float32, metres.
        temp_tensor: (b, n) float32, squared distances so far (1e10 to begin with); updated.
        idx_tensor: (b, m) int32, written.
        b: batch size.
        n: points.
        m: points sampled.
    """
    if idx_tensor.numel() == 0:
        return
    if n == 0:
        idx_tensor.zero_()
        return
    order = _tie_order(n, points_tensor.device)
    points = points_tensor.reshape(b, n, 3)[:, order].to(temp_tensor.dtype)
    axes = points.permute(2, 0, 1).contiguous()
    nearest = temp_tensor.view(b, n)[:, order]
    # fmin passes over a NaN as CUDA's min does; without any, minimum is the same and quicker.
    smaller = torch.minimum if bool(axes.isfinite().all()) else torch.fmin
    distance, delta = torch.empty_like(nearest), torch.empty_like(nearest)
    sampled = torch.zeros((m, b, 1), dtype=torch.long, device=points.device)
    for j in range(1, m):
        centre = axes.gather(2, sampled[j - 1].expand(3, b, 1))
        torch.sub(axes[0], centre[0], out=distance).mul_(distance)
        for axis in (1, 2):
            torch.sub(axes[axis], centre[axis], out=delta)
            distance.add_(delta.mul_(delta))
        smaller(nearest, distance, out=nearest)
        torch.argmax(nearest, dim=1, keepdim=True, out=sampled[j])
    idx_tensor.copy_(order[sampled[..., 0].t()])
    temp_tensor.view(b, n)[:, order] = nearest


@supplies()
@torch.no_grad()
def furthest_point_sampling_with_dist_forward(
    points_tensor: Tensor, temp_tensor: Tensor, idx_tensor: Tensor, b: int, n: int, m: int
) -> None:
    """The same with the distances given.

    Upstream: mmcv furthest_point_sampling_with_dist_forward. ``points_tensor`` need not be
    symmetric: row i holds the distances from i.

    Args:
        points_tensor: (b, n, n) float32, distance of each pair, in any unit.
        temp_tensor: (b, n) float32, distances so far (1e10 to begin with); updated.
        idx_tensor: (b, m) int32, written.
        b: batch size.
        n: points.
        m: points sampled.
    """
    if idx_tensor.numel() == 0:
        return
    if n == 0:
        idx_tensor.zero_()
        return
    order = _tie_order(n, points_tensor.device)
    rows = points_tensor.reshape(b * n, n)
    first_row = torch.arange(b, device=points_tensor.device) * n
    nearest = temp_tensor.view(b, n)[:, order]
    sampled = torch.zeros((m, b), dtype=torch.long, device=points_tensor.device)
    for j in range(1, m):
        distance = rows[first_row + sampled[j - 1]][:, order]
        torch.fmin(nearest, distance.to(nearest.dtype), out=nearest)
        sampled[j] = order[nearest.argmax(dim=1)]
    idx_tensor.copy_(sampled.t())
    temp_tensor.view(b, n)[:, order] = nearest
