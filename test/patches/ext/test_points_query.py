"""Neighbours of points against loops that go pair by pair, as mmcv's kernels do."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev.patches.ext import points_query as ext

FLOATS = [torch.float32, torch.float64]


def cloud(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Points on a coarse grid: many coincide, and many distances are equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, (*shape, 3), generator=generator).to(dtype) / 4


def squared_distance(a: Tensor, b: Tensor) -> np.floating:
    """As the kernels sum it, in the dtype of the points."""
    x, y, z = (u - v for u, v in zip(a.numpy(), b.numpy(), strict=True))
    return x * x + y * y + z * z


def loop_ball_query(
    low: float, high: float, points: Tensor, centres: Tensor, idx: Tensor
) -> Tensor:
    """One sample; ``idx`` (m, nsample) comes with what a row without hits keeps."""
    idx = idx.clone()
    low2, high2 = np.float32(low) ** 2, np.float32(high) ** 2
    for j, centre in enumerate(centres):
        found = [
            k
            for k, point in enumerate(points)
            if (d := squared_distance(centre, point)) == 0 or low2 <= d < high2
        ][: idx.shape[1]]
        if found:
            idx[j] = torch.tensor(found + found[:1] * (idx.shape[1] - len(found)))
    return idx


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16])
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (0.5, 1.0), (0.0, 0.01), (0.3, 0.31)])
@pytest.mark.parametrize(("n", "m", "nsample"), [(40, 9, 5), (3, 4, 8), (1, 1, 1)])
def test_ball_query(
    dtype: torch.dtype, low: float, high: float, n: int, m: int, nsample: int
) -> None:
    points, centres = cloud(2, n, dtype=dtype), cloud(2, m, dtype=dtype, seed=1)
    idx = torch.full((2, m, nsample), 77, dtype=torch.int32)
    expected = torch.stack(
        [loop_ball_query(low, high, points[i], centres[i], idx[i]) for i in range(2)]
    )
    ext.ball_query_forward(
        centres, points, idx, b=2, n=n, m=m, min_radius=low, max_radius=high, nsample=nsample
    )
    assert torch.equal(idx, expected)


def test_ball_query_in_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    points, centres = cloud(2, 50), cloud(2, 20, seed=1)
    whole, parts = (torch.zeros(2, 20, 6, dtype=torch.int32) for _ in range(2))
    ext.ball_query_forward(centres, points, whole, 2, 50, 20, 0.0, 0.6, 6)
    monkeypatch.setattr("anybev.patches.ext.points_query._PAIRS_AT_ONCE", 130)
    ext.ball_query_forward(centres, points, parts, 2, 50, 20, 0.0, 0.6, 6)
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("radius", [1e-3, 0.05, 0.4, 5.0])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_ball_query_passes_over_far_points_only(
    radius: float, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybev.patches.ext.points_query._CENTRES_AT_ONCE", 7)
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(1, 300, 3, generator=generator) - 0.5) * 4 + offset
    centres = points[:, ::6].contiguous()
    centres[0, 3], centres[0, 4] = math.nan, -math.inf
    idx = torch.full((1, 50, 6), 77, dtype=torch.int32)
    expected = loop_ball_query(0.0, radius, points[0], centres[0], idx[0])
    ext.ball_query_forward(centres, points, idx, 1, 300, 50, 0.0, radius, 6)
    assert torch.equal(idx[0], expected)


@pytest.mark.parametrize("high", [0.1, 1.0, 0.3])
def test_ball_query_excludes_the_outer_radius_and_counts_the_inner_one(high: float) -> None:
    edge = float(np.float32(high))
    beyond = float(np.nextafter(np.float32(high), np.float32(9)))
    points = torch.tensor([[[edge, 0.0, 0.0], [beyond, 0, 0], [edge / 2, 0, 0]]])
    centre = torch.zeros(1, 1, 3)
    outer, inner = (torch.full((1, 1, 3), -5, dtype=torch.int32) for _ in range(2))
    ext.ball_query_forward(centre, points, outer, 1, 3, 1, 0.0, high, 3)
    assert outer.tolist() == [[[2, 2, 2]]]
    ext.ball_query_forward(centre, points, inner, 1, 3, 1, high, high * 2, 3)
    assert inner.tolist() == [[[0, 1, 0]]]


def test_ball_query_takes_the_centre_itself_whatever_the_inner_radius() -> None:
    points = torch.tensor([[[5.0, 0, 0], [0.5, 0, 0], [0, 0, 0], [1.5, 0, 0]]])
    idx = torch.zeros(1, 1, 4, dtype=torch.int32)
    ext.ball_query_forward(torch.zeros(1, 1, 3), points, idx, 1, 4, 1, 1.0, 2.0, 4)
    assert idx.tolist() == [[[2, 3, 2, 2]]]


def test_ball_query_leaves_out_what_is_not_finite() -> None:
    points = torch.tensor([[[math.nan, 0, 0], [math.inf, 0, 0], [0, 0, 0.1]]])
    idx = torch.zeros(1, 2, 2, dtype=torch.int32)
    centres = torch.tensor([[[0.0, 0, 0], [math.nan, 0, 0]]])
    ext.ball_query_forward(centres, points, idx, 1, 3, 2, 0.0, 1.0, 2)
    assert idx.tolist() == [[[2, 2], [0, 0]]]


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16])
@pytest.mark.parametrize("radius", [0.0, 0.4, 1.0])
def test_stack_ball_query(dtype: torch.dtype, radius: float) -> None:
    rows = torch.tensor([30, 0, 25], dtype=torch.int32)
    centre_rows = torch.tensor([4, 2, 5], dtype=torch.int32)
    points, centres = cloud(55, dtype=dtype), cloud(11, dtype=dtype, seed=1)
    idx = torch.full((11, 6), 77, dtype=torch.int32)
    expected = idx.clone()
    for part, sample, found in zip(
        centres.split(centre_rows.tolist()),
        points.split(rows.tolist()),
        expected.split(centre_rows.tolist()),
        strict=True,
    ):
        for j, centre in enumerate(part):
            hits = [
                k
                for k, point in enumerate(sample)
                if squared_distance(centre, point) < np.float32(radius) ** 2
            ][:6]
            if hits:
                found[j] = torch.tensor(hits + hits[:1] * (6 - len(hits)))
            else:
                found[j, 0] = -1
    ext.stack_ball_query_forward(
        centres, centre_rows, points, rows, idx, max_radius=radius, nsample=6
    )
    assert torch.equal(idx, expected)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16])
@pytest.mark.parametrize(("n", "m", "k"), [(40, 9, 5), (3, 4, 8), (1, 1, 1), (0, 2, 3), (5, 0, 2)])
def test_knn(dtype: torch.dtype, n: int, m: int, k: int) -> None:
    points, centres = cloud(2, n, dtype=dtype), cloud(2, m, dtype=dtype, seed=1)
    idx = torch.full((2, m, k), 77, dtype=torch.int32)
    dist2 = torch.full((2, m, k), 77.0)
    ext.knn_forward(points, centres, idx, dist2, b=2, n=n, m=m, nsample=k)
    for i in range(2):
        for j in range(m):
            order = sorted(
                (float(squared_distance(centres[i, j], point)), number)
                for number, point in enumerate(points[i])
            )
            order = (order + [(1e10, 0)] * k)[:k]
            assert idx[i, j].tolist() == [number for _, number in order]
            assert dist2[i, j].tolist() == [distance for distance, _ in order]


def test_knn_gives_no_place_to_what_is_too_far_or_not_a_number() -> None:
    points = torch.tensor([[[math.nan, 0, 0], [1e5, 0, 0], [math.inf, 0, 0], [9e4, 0, 0]]])
    idx, dist2 = torch.zeros(1, 1, 2, dtype=torch.int32), torch.zeros(1, 1, 2)
    ext.knn_forward(points, torch.zeros(1, 1, 3), idx, dist2, 1, 4, 1, 2)
    assert idx.tolist() == [[[3, 0]]]
    assert dist2.tolist() == [[[float(np.float32(8.1e9)), 1e10]]]


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16])
@pytest.mark.parametrize(("n", "m"), [(40, 30), (5, 2), (5, 1), (5, 0), (0, 4)])
def test_three_nn(dtype: torch.dtype, n: int, m: int) -> None:
    targets, points = cloud(2, n, dtype=dtype), cloud(2, m, dtype=dtype, seed=1)
    dist2 = torch.full((2, n, 3), 77.0, dtype=dtype)
    idx = torch.full((2, n, 3), 77, dtype=torch.int32)
    ext.three_nn_forward(targets, points, dist2, idx, b=2, n=n, m=m)
    farthest = float(torch.tensor(1e40, dtype=torch.float64).to(dtype))
    for i in range(2):
        for j in range(n):
            order = sorted(
                (float(squared_distance(targets[i, j], point)), number)
                for number, point in enumerate(points[i])
            )
            order = (order + [(farthest, 0)] * 3)[:3]
            assert idx[i, j].tolist() == [number for _, number in order]
            assert dist2[i, j].tolist() == [distance for distance, _ in order]


def test_three_nn_passes_over_what_is_not_a_number() -> None:
    points = torch.tensor([[[math.nan, 0, 0], [3.0, 0, 0], [math.inf, 0, 0]]])
    idx, dist2 = torch.zeros(1, 1, 3, dtype=torch.int32), torch.zeros(1, 1, 3)
    ext.three_nn_forward(torch.zeros(1, 1, 3), points, dist2, idx, 1, 1, 3)
    assert idx.tolist() == [[[1, 0, 0]]]
    assert dist2.tolist() == [[[9.0, math.inf, math.inf]]]


@pytest.mark.parametrize("dtype", FLOATS)
def test_distances_round_as_the_kernels_do(dtype: torch.dtype) -> None:
    """Far from the origin |a|^2 - 2ab + |b|^2 would lose what decides here."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, 200, 3, generator=generator, dtype=torch.float64).to(dtype) + 1000
    centres = points[:, :9].contiguous()
    dist2, idx = torch.zeros(1, 9, 3, dtype=dtype), torch.zeros(1, 9, 3, dtype=torch.int32)
    ext.three_nn_forward(centres, points, dist2, idx, 1, 9, 200)
    expected = [
        sorted(float(squared_distance(centre, point)) for point in points[0])[:3]
        for centre in centres[0]
    ]
    assert dist2[0].tolist() == expected


def test_features_are_read_as_triples_as_mmcv_reads_them() -> None:
    """DGCNN asks for the nearest in feature space and gets this; its checkpoints depend on it."""
    features = torch.rand(2, 10, 8, generator=torch.Generator().manual_seed(0))
    triples = features.flatten()[:60].reshape(2, 10, 3)
    (idx, dist2), (wanted, wanted_dist2) = (
        (torch.zeros(2, 10, 4, dtype=torch.int32), torch.zeros(2, 10, 4)) for _ in range(2)
    )
    ext.knn_forward(features, features, idx, dist2, b=2, n=10, m=10, nsample=4)
    ext.knn_forward(triples, triples, wanted, wanted_dist2, b=2, n=10, m=10, nsample=4)
    assert torch.equal(idx, wanted)
    assert torch.equal(dist2, wanted_dist2)
