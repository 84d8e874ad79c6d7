"""A training step of a small BEVFusion whose operators go through mx_driving's contract."""

import warnings

import pytest
import torch

from anybev.device.npu.limits import KernelFallbackWarning
from anybev.engine.check import tiny_cameras
from anybev.testing import npu_step
from anybev.testing.fake_mx_driving import Binding
from anybev.testing.tolerances import tolerances

LIDAR = {
    "hard_voxelize",
    "npu_box_iou_rotated",
    "npu_draw_gaussian_to_heatmap",
    "npu_gaussian",
    "npu_sparse_conv3d",
    "npu_sparse_conv3d_grad",
    "npu_sparse_matmul",
    "npu_subm_sparse_conv3d_grad_v2",
    "npu_subm_sparse_conv3d_v3",
}
CAMERAS = {"npu_bev_pool_v3", "npu_bev_pool_v3_backward"}


def _step(name: str, device: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses and gradients of the first step."""
    model, batch = npu_step.model_and_batch(name)
    model, batch = model.to(device), batch.to(torch.device(device))
    torch.manual_seed(1)  # of every device: dropout
    losses = npu_step.step(model, batch, npu_step.optimizer_of(model))
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return losses, grads


@pytest.mark.parametrize("name", npu_step.MODELS)
def test_a_step_is_the_cpu_s(mx: Binding, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(tiny_cameras, "_CHANNELS", 16)  # 12, as it is, divide not by 8
    losses, grads = _step(name, "cpu")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", KernelFallbackWarning)
        npu_losses, npu_grads = _step(name, "npu")
    # The first encoder layer has 8 channels; whatever else fell back would be a surprise.
    assert [str(w.message).rpartition(": ")[2] for w in told] == [
        "channels of a gradient must divide by 16, got 8"
    ]
    assert set(mx.calls) >= (LIDAR | CAMERAS if name == "lidar-cam" else LIDAR)
    for key, value in losses.items():
        torch.testing.assert_close(npu_losses[key].cpu(), value, **tolerances(torch.float32))
    assert npu_grads.keys() == grads.keys()
    norm = torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()
    off = torch.stack([(npu_grads[k].cpu() - g).square().sum() for k, g in grads.items()])
    assert off.sum().sqrt() < 1e-4 * norm
