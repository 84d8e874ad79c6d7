"""Furthest point sampling against a model of mmcv's kernel, thread by thread."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev.patches.ext import points_sample as ext


def kernel(distances: np.ndarray, temp: np.ndarray, m: int) -> list[int]:
    """One sample, as the CUDA kernel does it; ``distances`` (n, n), ``temp`` (n,) is updated."""
    n = len(temp)
    block = max(min(1 << int(math.log(n) / math.log(2)), 1024), 1)
    picks = [0]
    for _ in range(1, m):
        row = distances[picks[-1]]
        best, best_index = [-1.0] * block, [0] * block
        for k in range(n):
            temp[k] = np.fmin(row[k], temp[k])
            if temp[k] > best[k % block]:
                best[k % block], best_index[k % block] = temp[k], k
        half = block // 2
        while half:
            for thread in range(half):
                if best[thread + half] > best[thread]:
                    best[thread], best_index[thread] = (
                        best[thread + half],
                        best_index[thread + half],
                    )
            half //= 2
        picks.append(best_index[0])
    return picks


def pairwise(points: np.ndarray) -> np.ndarray:
    x, y, z = (points[:, None, axis] - points[None, :, axis] for axis in range(3))
    return (x * x + y * y) + z * z


def grid(b: int, n: int, seed: int = 0) -> Tensor:
    """Points on a coarse grid: many coincide, and many distances are equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, (b, n, 3), generator=generator).float()


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 2), (5, 3), (37, 20), (64, 64), (100, 130)])
@pytest.mark.parametrize("given", [False, True])
def test_against_the_kernel(n: int, m: int, given: bool) -> None:
    points = grid(3, n)
    temp, idx = torch.full((3, n), 1e10), torch.full((3, m), -7, dtype=torch.int32)
    expected_temp = temp.clone()
    expected = [kernel(pairwise(points[i].numpy()), expected_temp[i].numpy(), m) for i in range(3)]
    if given:
        matrix = torch.stack([torch.from_numpy(pairwise(p.numpy())) for p in points])
        ext.furthest_point_sampling_with_dist_forward(matrix, temp, idx, b=3, n=n, m=m)
    else:
        ext.furthest_point_sampling_forward(points, temp, idx, b=3, n=n, m=m)
    assert idx.tolist() == expected
    assert torch.equal(temp, expected_temp)


def test_more_points_than_threads() -> None:
    points = grid(1, 2500, seed=3)
    temp, idx = torch.full((1, 2500), 1e10), torch.zeros(1, 12, dtype=torch.int32)
    ext.furthest_point_sampling_forward(points, temp, idx, 1, 2500, 12)
    expected = kernel(pairwise(points[0].numpy()), np.full(2500, 1e10, dtype=np.float32), 12)
    assert idx[0].tolist() == expected


def test_distances_need_not_be_symmetric() -> None:
    matrix = torch.rand(2, 20, 20, generator=torch.Generator().manual_seed(0))
    temp, idx = torch.full((2, 20), 1e10), torch.zeros(2, 9, dtype=torch.int32)
    expected = [kernel(m.numpy(), np.full(20, 1e10, dtype=np.float32), 9) for m in matrix]
    ext.furthest_point_sampling_with_dist_forward(matrix, temp, idx, 2, 20, 9)
    assert idx.tolist() == expected


def test_points_near_the_origin_are_sampled_too() -> None:
    points = torch.tensor([[[1.0, 0, 0], [0, 0, 0], [0.9, 0, 0]]])
    temp, idx = torch.full((1, 3), 1e10), torch.zeros(1, 3, dtype=torch.int32)
    ext.furthest_point_sampling_forward(points, temp, idx, 1, 3, 3)
    assert idx.tolist() == [[0, 1, 2]]


def test_what_was_sampled_before_counts() -> None:
    points = torch.tensor([[[0.0, 0, 0], [10, 0, 0], [6, 0, 0]]])
    temp = torch.tensor([[1e10, 0.5, 1e10]])
    idx = torch.zeros(1, 2, dtype=torch.int32)
    ext.furthest_point_sampling_forward(points, temp, idx, 1, 3, 2)
    assert idx.tolist() == [[0, 2]]
    assert temp.tolist() == [[0.0, 0.5, 36.0]]


def test_a_point_that_is_not_a_number_never_comes_nearer() -> None:
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [math.nan, 0, 0]]])
    temp, idx = torch.full((1, 3), 1e10), torch.zeros(1, 3, dtype=torch.int32)
    ext.furthest_point_sampling_forward(points, temp, idx, 1, 3, 3)
    assert idx.tolist() == [[0, 2, 2]]


@pytest.mark.parametrize("name", ["", "_with_dist"])
def test_empty(name: str) -> None:
    forward = getattr(ext, f"furthest_point_sampling{name}_forward")
    width = 4 if name else 3
    idx = torch.full((2, 3), 9, dtype=torch.int32)
    forward(torch.zeros(2, 4, width), torch.zeros(2, 4), idx[:, :0], 2, 4, 0)
    forward(torch.zeros(0, 4, width), torch.zeros(0, 4), idx[:0], 0, 4, 3)
    assert (idx == 9).all()
    forward(torch.zeros(2, 0, 0 if name else 3), torch.zeros(2, 0), idx, 2, 0, 3)
    assert (idx == 0).all()
