"""mmcv.ops' Python wrappers for point sets, on AnyBEV's answers."""

import importlib.util
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

pytestmark = pytest.mark.usefixtures("host")


def cloud(b: int, n: int, seed: int = 0) -> Tensor:
    return torch.rand(b, n, 3, generator=torch.Generator().manual_seed(seed))


def second_copy(name: str) -> ModuleType:
    """``mmcv.ops.<name>`` imported once more, without patches."""
    file = importlib.util.find_spec(f"mmcv.ops.{name}")
    assert file is not None
    assert file.origin is not None
    spec = importlib.util.spec_from_file_location(f"mmcv.ops._unpatched_{name}", file.origin)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_furthest_point_sample() -> None:
    from mmcv.ops import furthest_point_sample

    points = cloud(2, 60).requires_grad_()
    idx = furthest_point_sample(points, 7)
    assert idx.dtype == torch.int32
    assert not idx.requires_grad
    for i in range(2):
        taken = [0]
        for _ in range(6):
            gap = (points[i, :, None] - points[i, taken][None]).square().sum(-1).min(1).values
            taken.append(int(gap.argmax()))
        assert idx[i].tolist() == taken


def test_furthest_point_sample_is_the_original_where_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mmcv.ops import furthest_point_sample

    unpatched = second_copy("furthest_point_sample")
    monkeypatch.setattr(torch.cuda, "IntTensor", torch.IntTensor)
    monkeypatch.setattr(torch.cuda, "FloatTensor", torch.FloatTensor)
    for points, count in ((cloud(3, 50), 9), (cloud(1, 4), 8)):
        expected = unpatched.furthest_point_sample(points, count)
        actual = furthest_point_sample(points, count)
        assert torch.equal(actual, expected)
        assert actual.dtype == expected.dtype
    for fps in (furthest_point_sample, unpatched.furthest_point_sample):
        with pytest.raises(AssertionError):
            fps(cloud(3, 50).transpose(0, 1), 2)


def test_furthest_point_sample_with_dist() -> None:
    from mmcv.ops import furthest_point_sample, furthest_point_sample_with_dist

    points = cloud(2, 40)
    distances = (points[:, :, None] - points[:, None]).square().sum(-1)
    assert torch.equal(
        furthest_point_sample_with_dist(distances, 9), furthest_point_sample(points, 9)
    )


@pytest.mark.parametrize("mode", ["D-FPS", "F-FPS", "FS"])
def test_points_sampler(mode: str) -> None:
    from mmcv.ops import PointsSampler

    sampler = PointsSampler([8], [mode], [-1])
    idx = sampler(cloud(2, 30), torch.rand(2, 4, 30))
    assert idx.shape == (2, 16 if mode == "FS" else 8)


def test_knn() -> None:
    from mmcv.ops import knn

    points, centres = cloud(2, 50), cloud(2, 6, seed=1)
    idx = knn(4, points, centres)
    gap = (centres[:, :, None] - points[:, None]).square().sum(-1)
    assert torch.equal(idx.long(), gap.topk(4, largest=False).indices.transpose(1, 2))
    flat = [t.transpose(1, 2).contiguous() for t in (points, centres)]
    assert torch.equal(knn(4, *flat, True), idx)
    assert torch.equal(knn(3, points)[:, 0], torch.arange(50).int().expand(2, 50))


def test_knn_is_the_original_where_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcv.ops import knn

    unpatched = second_copy("knn")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)
    points, centres = cloud(2, 50), cloud(2, 6, seed=1)
    flat = [t.transpose(1, 2) for t in (points, centres)]
    for arguments in ((5, points, centres), (5, points), (99, points), (5, *flat, True)):
        actual, expected = knn(*arguments), unpatched.knn(*arguments)
        assert torch.equal(actual, expected)
        assert actual.dtype == expected.dtype
        assert actual.stride() == expected.stride()
    for wrong in ((0, points), (100, points), (5, *flat)):
        for function in (knn, unpatched.knn):
            with pytest.raises(AssertionError):
                function(*wrong)


def test_ball_query_dense_and_stacked_agree() -> None:
    from mmcv.ops import ball_query

    points, centres = cloud(2, 50), cloud(2, 6, seed=1)
    dense = ball_query(0, 0.4, 8, points, centres)
    rows = torch.full((2,), 50, dtype=torch.int32), torch.full((2,), 6, dtype=torch.int32)
    stacked = ball_query(0, 0.4, 8, points.reshape(-1, 3), centres.reshape(-1, 3), *rows)
    assert (stacked >= 0).all()
    assert torch.equal(dense.reshape(-1, 8), stacked)


def test_query_and_group() -> None:
    from mmcv.ops import QueryAndGroup

    points, features = cloud(2, 50), torch.rand(2, 4, 50, requires_grad=True)
    centres = points[:, :6].contiguous()
    grouped = QueryAndGroup(0.5, 8)(points, centres, features)
    assert grouped.shape == (2, 7, 6, 8)
    assert (grouped[:, :3].norm(dim=1) < 0.5).all()
    grouped.sum().backward()
    assert features.grad is not None
    assert features.grad.sum() == 2 * 4 * 6 * 8
    nearest = QueryAndGroup(None, 3)(points, centres, features)
    assert not nearest[:, :3, :, 0].any()


def test_three_nn_gives_distances_not_their_squares() -> None:
    from mmcv.ops import three_nn

    target, source = cloud(2, 20), cloud(2, 10, seed=1)
    distance, idx = three_nn(target.transpose(0, 1).contiguous().transpose(0, 1), source)
    expected = torch.cdist(target, source).topk(3, largest=False)
    assert torch.equal(idx.long(), expected.indices)
    torch.testing.assert_close(distance, expected.values, rtol=1e-4, atol=1e-5)


def test_gradients() -> None:
    from mmcv.ops import gather_points, grouping_operation, three_interpolate

    features = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    idx = torch.randint(6, (2, 5, 3), dtype=torch.int32)
    weight = torch.rand(2, 5, 3, dtype=torch.float64)
    assert gradcheck(lambda f: gather_points(f, idx[..., 0].contiguous()), features)
    assert gradcheck(lambda f: grouping_operation(f, idx), features)
    assert gradcheck(lambda f: three_interpolate(f, idx, weight), features)


def test_gradient_of_stacked_grouping() -> None:
    from mmcv.ops import grouping_operation

    features = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    rows, centres = torch.tensor([[4, 5], [2, 3]], dtype=torch.int32)
    idx = torch.randint(4, (5, 2), dtype=torch.int32)
    assert gradcheck(lambda f: grouping_operation(f, idx, rows, centres), features)


def test_gradients_of_assign_score_withk() -> None:
    from mmcv.ops import assign_score_withk

    scores = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    points, centres = (
        torch.randn(2, 5, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    idx = torch.randint(5, (2, 4, 3))
    assert gradcheck(lambda *t: assign_score_withk(*t, idx, "sum"), (scores, points, centres))


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_gradient_of_roi_aware_pooling(mode: str) -> None:
    from mmcv.ops import RoIAwarePool3d

    rois = torch.tensor([[0.5, 0.5, 0, 1.0, 0.8, 1, 0.3], [0.2, 0.5, 0, 0.6, 0.8, 1, -1]])
    pool = RoIAwarePool3d(out_size=(2, 3, 2), max_pts_per_voxel=4, mode=mode)
    points = cloud(1, 30)[0].double()
    features = torch.randn(30, 2, dtype=torch.float64, requires_grad=True)
    assert pool(rois.double(), points, features).shape == (2, 2, 3, 2, 2)
    assert gradcheck(lambda f: pool(rois.double(), points, f), features)


def test_roi_point_pooling() -> None:
    from mmcv.ops import RoIPointPool3d

    points, features = cloud(2, 30), torch.rand(2, 30, 4)
    rois = torch.tensor([[0.5, 0.5, 0, 2, 2, 2, 0.3], [9, 9, 0, 1, 1, 1, 0]]).expand(2, 2, 7)
    pooled, empty = RoIPointPool3d(40)(points, features, rois)
    assert empty.tolist() == [[0, 1], [0, 1]]
    assert torch.equal(pooled[:, 0, :30], torch.cat((points, features), -1))
    assert torch.equal(pooled[:, 0, 30:], pooled[:, 0, :10])
    assert not pooled[:, 1].any()
