"""From camera features to a map: geometry, lifting, pooling."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev.datasets.sample import CameraBatch
from anybev.models.bevfusion.frustum import camera_rays, frustum_points, inverse_2x2, inverse_3x3
from anybev.models.bevfusion.view_transform import DepthLSSTransform, LSSTransform
from anybev.testing.tiny import tiny_batch
from anybev.testing.tiny_cameras import IMAGE_SIZE, VIEW_SETTINGS, tiny_cameras
from anybev.testing.tolerances import tolerances


def _view(kind: type[LSSTransform] = LSSTransform, **changes: object) -> LSSTransform:
    torch.manual_seed(0)
    return kind(**(VIEW_SETTINGS | changes))


def _rig(batch_size: int = 2, count: int = 3) -> tuple[CameraBatch, Tensor]:
    """Cameras, pictures and lidar frame, all turned, scaled and moved at random."""
    cameras = tiny_cameras(batch_size, count)
    draw = np.random.default_rng(1)
    picture = np.tile(np.eye(4), (batch_size, count, 1, 1))
    lidar = np.tile(np.eye(4), (batch_size, 1, 1))
    for matrix in picture.reshape(-1, 4, 4):
        angle, scale = draw.uniform(-0.1, 0.1), draw.uniform(0.4, 0.6)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        matrix[:2, :2] = [[cos, sin], [-sin, cos]]
        matrix[:2, 3] = draw.uniform(-5, 5, 2)
    for matrix in lidar:
        angle, scale = draw.uniform(-3, 3), draw.uniform(0.9, 1.1)
        cos, sin = math.cos(angle), math.sin(angle)
        matrix[:3, :3] = scale * np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        matrix[:3, 3] = draw.normal(0, 0.5, 3)
    moved = replace(cameras, img_aug_matrix=torch.from_numpy(picture).float())
    return moved, torch.from_numpy(lidar).float()


@pytest.mark.parametrize("exact", [False, True])
def test_points_project_back_to_their_pixels(exact: bool) -> None:
    view = _view(exact_geometry=exact)
    cameras, lidar = _rig()
    points = view.frustum_points_lidar_m(cameras, lidar).double()
    assert points.shape == (2, 3, 24, 4, 8, 3)
    back = torch.linalg.inv(lidar.double())
    recorded = torch.einsum("bij,bndhwj->bndhwi", back[:, :3, :3], points)
    recorded += back[:, None, None, None, None, :3, 3]
    matrix = cameras.lidar2img.double()
    seen = torch.einsum("bnij,bndhwj->bndhwi", matrix[..., :3, :3], recorded)
    seen += matrix[:, :, None, None, None, :3, 3]
    depth = seen[..., 2]
    pixel = torch.stack([seen[..., 0] / depth, seen[..., 1] / depth], -1)
    picture = cameras.img_aug_matrix.double()
    pixel = torch.einsum("bnij,bndhwj->bndhwi", picture[..., :2, :2], pixel)
    pixel += picture[:, :, None, None, None, :2, 3]
    frustum = view.frustum.double().expand(2, 3, -1, -1, -1, -1)
    torch.testing.assert_close(depth, frustum[..., 2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pixel, frustum[..., :2], rtol=1e-5, atol=1e-3)


def test_frustum_spreads_pixels_from_edge_to_edge() -> None:
    view = _view()
    assert view.frustum.shape == (24, 4, 8, 3)
    assert view.frustum[0, 0, 0].tolist() == [0, 0, 1]
    assert view.frustum[-1, -1, -1].tolist() == [63, 31, 12.5]
    assert not view.frustum.requires_grad
    assert view.nx.tolist() == view.grid == [32, 32, 1]
    assert view.nx.dtype == torch.int64
    assert view.bx.tolist() == [-15.5, -23.25, 0]
    assert view.lower_m == [-16, -24, -10]


def test_a_checkpoints_grid_takes_the_place_of_the_configs() -> None:
    view = _view()
    state = {key: value.clone() for key, value in view.state_dict().items()}
    state["dx"] *= 0.5
    state["bx"] = state["bx"] - 0.25
    view.load_state_dict(state)
    assert view.cell_m == [0.5, 0.75, 10]
    assert view.lower_m == [-16, -23.875, -5.25]


def test_cells_are_cut_toward_zero() -> None:
    cells, kept = _view().cells(
        torch.tensor([[-16.9, -25.4, -29.9], [-17.1, 0, 0], [15.9, 23.9, 9], [16.0, 0, 0]])
    )
    assert kept.tolist() == [True, False, True, False]
    assert cells[0].tolist() == [0, 0, 0]
    assert cells[2].tolist() == [31, 31, 0]


def _pool_point_by_point(view: LSSTransform, logits: Tensor, points: Tensor) -> Tensor:
    out = torch.zeros(len(logits), view.grid[2], view.out_channels, *view.grid[:2])
    weights = logits[:, :, : view.depths].softmax(2)
    for b, n, d, h, w in np.ndindex(*points.shape[:-1]):
        place = (points[b, n, d, h, w] - torch.tensor(view.lower_m)) / torch.tensor(view.cell_m)
        x, y, z = (math.trunc(v) for v in place.tolist())
        if 0 <= x < view.grid[0] and 0 <= y < view.grid[1] and 0 <= z < view.grid[2]:
            context = logits[b, n, view.depths :, h, w]
            out[b, z, :, x, y] += weights[b, n, d, h, w] * context
    return out.flatten(1, 2)


@pytest.mark.parametrize("exact", [False, True])
def test_pooling_equals_a_loop_over_points(exact: bool) -> None:
    view = _view(exact_geometry=exact, zbound=[-10.0, 10.0, 10.0])
    cameras, lidar = _rig()
    logits = torch.randn(2, 3, view.depths + 5, 4, 8)
    wanted = _pool_point_by_point(view, logits, view.frustum_points_lidar_m(cameras, lidar))
    got = view.splat(logits, cameras, lidar)
    assert got.shape == (2, 10, 32, 32)
    torch.testing.assert_close(got, wanted, **tolerances(torch.float32))


def test_both_geometries_give_the_same_map_and_gradients() -> None:
    cameras, lidar = _rig()
    results = []
    for exact in (False, True):
        view = _view(DepthLSSTransform, exact_geometry=exact, downsample=2)
        features = torch.randn(2, 3, 6, 4, 8, generator=torch.Generator().manual_seed(3))
        features.requires_grad_(True)
        bev = view.eval()(features, tiny_batch((1, 1)).points_lidar_m, cameras, lidar)
        assert bev.shape == (2, 5, 16, 16)
        bev.square().sum().backward()
        results.append((bev, features.grad, view.dtransform[0].weight.grad))
    for fused, exact in zip(*results, strict=True):
        torch.testing.assert_close(fused, exact, rtol=1e-3, atol=1e-3)


def test_lidar_points_reach_the_depth_image_of_their_camera() -> None:
    view = _view(DepthLSSTransform)
    cameras = tiny_cameras(2, 4)
    ahead = torch.tensor([[8.0, 0, 1.5, 0, 0]])
    lidar = torch.eye(4).repeat(2, 1, 1)
    lidar[1, :3, 3] = torch.tensor([1.0, 2, 0])
    image = view.depth_image([ahead, ahead + torch.tensor([1.0, 2, 0, 0, 0])], cameras, lidar)
    assert image.shape == (2, 4, 1, *IMAGE_SIZE)
    assert image[:, 0, 0, 16, 32].tolist() == [8, 8]
    assert (image > 0).sum() == 2


@pytest.mark.parametrize("kind", [LSSTransform, DepthLSSTransform])
def test_everything_runs_in_float32_under_autocast(kind: type[LSSTransform]) -> None:
    view = _view(kind, downsample=2)
    cameras, lidar = _rig()
    seen = {}

    for name, module in view.named_modules():

        def note(_module: object, _given: object, out: Tensor, name: str = name) -> None:
            seen[name] = out.dtype

        if name and not list(module.children()):
            module.register_forward_hook(note)
    features = torch.randn(2, 3, 6, 4, 8).bfloat16()
    points = tiny_batch((1, 1)).points_lidar_m
    with torch.autocast("cpu", torch.bfloat16):
        bev = view(features, points, cameras, lidar)
    assert bev.dtype == torch.float32
    assert len(seen) >= 10
    assert set(seen.values()) == {torch.float32}


def test_rays_are_float32_and_close_to_float64() -> None:
    cameras, lidar = _rig()
    view = _view()
    rays = camera_rays(view.frustum[0, ..., :2], cameras, lidar)
    assert rays.rays_m.dtype == rays.origins_m.dtype == torch.float32
    names = ("cam2img", "cam2lidar", "img_aug_matrix")
    exact = replace(cameras, **{name: getattr(cameras, name).double() for name in names})
    wanted = frustum_points(view.frustum.double(), exact, lidar.double())
    error = (view.frustum_points_lidar_m(cameras, lidar) - wanted).abs().max()
    assert error < 1e-5


def test_closed_inverses() -> None:
    matrix = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(inverse_3x3(matrix), torch.linalg.inv(matrix))
    matrix = matrix[..., :2, :2]
    torch.testing.assert_close(inverse_2x2(matrix), torch.linalg.inv(matrix))


def test_settings_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="downsample must be 1 or 2, got 3"):
        _view(downsample=3)
    with pytest.raises(ValueError, match=r"xbound must be low < high and a cell > 0, got \[1, 0"):
        _view(xbound=[1, 0, 0.5])
    for bound, cells in (([0, 1, 3], "0.333333"), ([0, 1, 0.3], "3.33333")):
        match = rf"ybound must be a whole number of cells, 1 or more, got {cells} in \[0, 1"
        with pytest.raises(ValueError, match=match):
            _view(ybound=bound)
    assert _view(xbound=[-0.3, 0.4, 0.1]).nx[0] == 7  # 6.999... in binary
    with pytest.raises(ValueError, match=r"an eighth of image_size, \[4, 8\], got \[2, 4\]"):
        _view(DepthLSSTransform, feature_size=(2, 4))
    cameras, lidar = _rig()
    with pytest.raises(ValueError, match=r"features must be \(4, 8\), got \(4, 4\); try another"):
        _view()(torch.randn(2, 3, 6, 4, 4), [], cameras, lidar)
