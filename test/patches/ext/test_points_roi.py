"""Points pooled inside boxes against loops that go box by box, as mmcv's kernels do."""

import math

import pytest
import torch
from torch import Tensor

from anybev.patches.ext import points_roi as ext

SIZE = (3, 2, 4)


def scene(
    boxes: int, points: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Boxes (R, 7) and points (N, 3), most of which lie in some box."""
    generator = torch.Generator().manual_seed(seed)
    rois = torch.rand(boxes, 7, generator=generator, dtype=torch.float64) * 2 - 1
    rois[:, 3:6] = rois[:, 3:6].abs() * 3 + 1
    rois[:, 6] *= 3
    pts = torch.rand(points, 3, generator=generator, dtype=torch.float64) * 4 - 2
    return rois.to(dtype), pts.to(dtype)


def local(roi: list[float], point: list[float]) -> tuple[float, float, float] | None:
    """Along, across and above the bottom; None outside."""
    x, y, bottom, dx, dy, dz, yaw = roi
    turn = math.atan2(point[1] - y, point[0] - x) - yaw
    reach = math.hypot(point[0] - x, point[1] - y)
    along, across, up = reach * math.cos(turn), reach * math.sin(turn), point[2] - bottom
    inside = abs(along) < dx / 2 and abs(across) < dy / 2 and 0 <= up <= dz
    return (along, across, up) if inside else None


def loop_cells(rois: Tensor, pts: Tensor) -> dict[tuple[int, ...], list[int]]:
    """Points of each (box, x, y, z), ascending."""
    cells: dict[tuple[int, ...], list[int]] = {}
    for r, roi in enumerate(rois.tolist()):
        for k, point in enumerate(pts.tolist()):
            where = local(roi, point)
            if where is None:
                continue
            low = (roi[3] / 2, roi[4] / 2, 0.0)
            cell = [
                min(int((where[i] + low[i]) / (roi[3 + i] / SIZE[i])), SIZE[i] - 1)
                for i in range(3)
            ]
            cells.setdefault((r, *cell), []).append(k)
    return cells


def pool(
    rois: Tensor, pts: Tensor, features: Tensor, method: int, slots: int
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (len(rois), *SIZE)
    pooled = features.new_full((*shape, features.shape[1]), 7.0)
    argmax = torch.full((*shape, features.shape[1]), 55, dtype=torch.int32)
    idx = torch.zeros((*shape, slots), dtype=torch.int32)
    ext.roiaware_pool3d_forward(rois, pts, features, argmax, idx, pooled, pool_method=method)
    return pooled, argmax, idx


@pytest.mark.parametrize("slots", [3, 64])
@pytest.mark.parametrize("method", [0, 1])
def test_roiaware_against_the_loop(
    method: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybev.patches.ext.points_roi._AT_ONCE", 500)
    rois, pts = scene(5, 200)
    # Few values, so that maxima are shared: the first point wins.
    features = torch.randint(-3, 3, (200, 6), generator=torch.Generator().manual_seed(1)).double()
    pooled, argmax, idx = pool(rois, pts, features, method, slots)
    cells = loop_cells(rois, pts)
    assert len(cells) > 60
    assert max(map(len, cells.values())) > 3
    wanted, wanted_argmax, wanted_idx = (torch.zeros_like(t) for t in (pooled, argmax, idx))
    wanted += 7
    wanted_argmax.fill_(-1 if method == 0 else 55)
    for cell, all_points in cells.items():
        kept = all_points[: slots - 1]
        wanted_idx[cell][: len(kept) + 1] = torch.tensor([len(kept), *kept])
        if method == 0:
            wanted[cell] = features[kept].max(0).values
            firsts = [min(k for k in kept if features[k, c] == wanted[cell][c]) for c in range(6)]
            wanted_argmax[cell] = torch.tensor(firsts)
        else:
            wanted[cell] = features[kept].sum(0) / len(kept)
    assert torch.equal(idx, wanted_idx)
    assert torch.equal(argmax, wanted_argmax)
    torch.testing.assert_close(pooled, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", [0, 1])
def test_roiaware_backward(method: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybev.patches.ext.points_roi._AT_ONCE", 500)
    rois, pts = scene(5, 200)
    features = torch.randn(200, 6, generator=torch.Generator().manual_seed(1)).double()
    pooled, argmax, idx = pool(rois, pts, features, method, slots=4)
    grad_out = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(2)).double()
    leaf = features.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for cell, points in loop_cells(rois, pts).items():
        kept = leaf[points[:3]]
        value = kept.max(0).values if method == 0 else kept.mean(0)
        total = total + (value * grad_out[cell]).sum()
    total.backward()
    assert leaf.grad is not None
    grad = torch.ones_like(features)
    ext.roiaware_pool3d_backward(idx, argmax, grad_out, grad, pool_method=method)
    torch.testing.assert_close(grad, 1 + leaf.grad)


def test_side_faces_are_outside_and_bottom_and_top_inside() -> None:
    roi = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]])
    pts = torch.tensor([[1.0, 0, 1], [-1, 0, 1], [0, 1, 1], [0, -1, 1], [0, 0, 0], [0, 0, 2]])
    features = torch.arange(1.0, 7)[:, None]
    assert pool(roi, pts, features, 0, 9)[2][0, 1, 1].tolist() == [
        [1, 4, *[0] * 7],
        [0] * 9,
        [0] * 9,
        [1, 5, *[0] * 7],
    ]
    pooled, empty = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, dtype=torch.int32)
    ext.roipoint_pool3d_forward(pts[None], roi[None], features[None], pooled, empty)
    assert pooled[0, 0, :, 3].tolist() == [5, 6]


def test_x_cells_run_along_the_yaw() -> None:
    roi = torch.tensor([[10.0, 0, -1, 6, 2, 2, math.pi / 2]])
    pts = torch.tensor([[9.5, 2.5, 0]])
    count = pool(roi, pts, torch.ones(1, 1), 0, 5)[2][..., 0]
    assert count.nonzero().tolist() == [[0, 2, 1, 2]]


@pytest.mark.parametrize("method", [0, 1])
def test_minus_infinity_and_not_a_number_are_no_maxima(method: int) -> None:
    roi = torch.tensor([[0.0, 0, 0, 3, 2, 4, 0]])
    pts = torch.tensor([[-1.0, -0.5, 0.5], [-1, -0.5, 0.5], [1, 0.5, 3.5]])
    features = torch.tensor([[math.nan], [-math.inf], [-math.inf]])
    pooled, argmax, idx = pool(roi, pts, features, method, 5)
    assert idx[..., 0].sum() == 3
    if method == 0:
        assert (pooled == 7).all()
        assert (argmax == -1).all()
        pooled, argmax, _ = pool(roi, pts, torch.tensor([[math.nan], [math.inf], [2]]), 0, 5)
        assert pooled[0, 0, 0, 0].item() == math.inf
        assert argmax[0, 0, 0, 0].item() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("method", [0, 1])
def test_roiaware_dtypes(method: int, dtype: torch.dtype) -> None:
    rois, pts = (t.to(dtype) for t in scene(3, 100))
    features = torch.randn(100, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    pooled, _, idx = pool(rois, pts, features, method, 64)
    assert pooled.dtype == dtype
    for cell in idx[..., 0].nonzero().tolist():
        count, *points = idx[tuple(cell)].tolist()
        kept = features[points[:count]].double()
        wanted = kept.max(0).values if method == 0 else kept.mean(0)
        torch.testing.assert_close(
            pooled[tuple(cell)].double(), wanted, rtol=2e-3, atol=2e-3 if dtype.itemsize == 2 else 0
        )


@pytest.mark.parametrize(("boxes", "points"), [(0, 5), (3, 0), (0, 0)])
@pytest.mark.parametrize("method", [0, 1])
def test_empty(method: int, boxes: int, points: int) -> None:
    rois, pts = scene(boxes, points)
    features = torch.zeros(points, 2, dtype=torch.float64)
    pooled, argmax, idx = pool(rois, pts, features, method, 4)
    assert (pooled == 7).all()
    assert not idx.any()
    grad = torch.zeros(points, 2, dtype=torch.float64)
    ext.roiaware_pool3d_backward(idx, argmax.fill_(-1), pooled, grad, pool_method=method)
    assert not grad.any()
    sampled = torch.full((1, boxes, 3, 5), 7.0, dtype=torch.float64)
    flag = torch.zeros(1, boxes, dtype=torch.int32)
    ext.roipoint_pool3d_forward(pts[None], rois[None], features[None], sampled, flag)
    assert (sampled == 7).all()
    assert (flag == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("slots", [4, 100])
def test_roipoint_against_the_loop(
    dtype: torch.dtype, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybev.patches.ext.points_roi._AT_ONCE", 300)
    parts = [scene(6, 150, dtype, seed) for seed in (0, 1)]
    rois, pts = (torch.stack(t) for t in zip(*parts, strict=True))
    rois[0, 2, :3] = 50
    features = torch.randn(2, 150, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    pooled = torch.full((2, 6, slots, 6), 7.0, dtype=dtype)
    flag = torch.full((2, 6), 5, dtype=torch.int32)
    ext.roipoint_pool3d_forward(pts, rois, features, pooled, flag)
    for i in range(2):
        for j in range(6):
            hits = [
                k for k in range(150) if local(rois[i, j].tolist(), pts[i, k].tolist()) is not None
            ]
            assert flag[i, j] == (5 if hits else 1)
            if not hits:
                assert (pooled[i, j] == 7).all()
                continue
            order = [hits[:slots][s % len(hits[:slots])] for s in range(slots)]
            assert torch.equal(pooled[i, j], torch.cat((pts[i], features[i]), 1)[order])
    assert (flag == 1).sum() == 1
