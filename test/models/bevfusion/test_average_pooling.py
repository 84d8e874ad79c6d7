"""Cells that hold the mean of what the cameras see there."""

import pytest
import torch

from anybev.models.bevfusion.view_transform import LSSTransform
from anybev.testing.tiny import tiny_batch
from anybev.testing.tiny_cameras import VIEW_SETTINGS, tiny_cameras


def _view(**changes: object) -> LSSTransform:
    torch.manual_seed(0)
    two_heights = {"zbound": [-10.0, 10.0, 10.0]}  # they are folded into the channels
    return LSSTransform(**(VIEW_SETTINGS | two_heights | changes))


@pytest.mark.parametrize("exact", [False, True])
def test_mean_is_the_sum_over_the_weights(exact: bool) -> None:
    view = _view(average=True, exact_geometry=exact).eval()
    cameras, batch = tiny_cameras(2, 3), tiny_batch()
    features = torch.randn(2, 3, 6, 4, 8)
    with torch.no_grad():
        found = view(features, batch.points_lidar_m, cameras, batch.lidar_aug_matrix)
        logits = view.lift(features, batch.points_lidar_m, cameras, batch.lidar_aug_matrix)
        total = view.splat(logits, cameras, batch.lidar_aug_matrix)
        logits[:, :, view.depths :] = 1.0
        weight = view.splat(logits, cameras, batch.lidar_aug_matrix)
    assert found.shape == total.shape == (2, 10, 32, 32)
    torch.testing.assert_close(found, total / (weight + 0.05), rtol=1e-4, atol=1e-5)
    assert (weight > 1).any()
    assert (weight == 0).any()


def test_gradient_reaches_context_and_depth() -> None:
    view = _view(average=True)
    cameras, batch = tiny_cameras(2, 3), tiny_batch()
    features = torch.randn(2, 3, 6, 4, 8)
    out = view(features, batch.points_lidar_m, cameras, batch.lidar_aug_matrix)
    torch.autograd.backward((out * torch.randn_like(out)).sum())
    gradient = view.depthnet.weight.grad
    assert gradient is not None
    assert gradient[: view.depths].abs().max() > 0
    assert gradient[view.depths :].abs().max() > 0
    assert torch.isfinite(gradient).all()
