"""mmdetection3d's layers on point sets: forward and backward, here on the CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("host")


def cloud(b: int = 2, n: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(b, n, 3, generator=torch.Generator().manual_seed(seed))


def train(module: nn.Module, *inputs: Any, but: tuple[str, ...] = ()) -> Any:
    """Forward and backward; every parameter gets a finite gradient, and other than zero."""
    torch.manual_seed(0)
    outputs = module.train()(*inputs)
    tensors = outputs if isinstance(outputs, tuple | list) else [outputs]
    floating = [t for t in tensors if isinstance(t, Tensor) and t.requires_grad]
    sum((t * torch.randn_like(t)).sum() for t in floating).backward()
    for name, parameter in module.named_parameters():
        if name.endswith(but or ("\0",)):
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    return outputs


@pytest.mark.parametrize("fps_mod", ["D-FPS", "F-FPS", "FS"])
@pytest.mark.parametrize("pool_mod", ["max", "avg"])
def test_point_sa_module_msg(fps_mod: str, pool_mod: str) -> None:
    from mmdet3d.models.layers import PointSAModuleMSG

    module = PointSAModuleMSG(
        num_point=8,
        radii=[0.4, 0.8],
        sample_nums=[4, 8],
        mlp_channels=[[5, 16], [5, 32]],
        pool_mod=pool_mod,
        fps_mod=[fps_mod],
        dilated_group=True,
    )
    features = torch.randn(2, 5, 64, requires_grad=True)
    points, new_features, indices = train(module, cloud(), features)
    picked = 16 if fps_mod == "FS" else 8
    assert points.shape == (2, picked, 3)
    assert new_features.shape == (2, 48, picked)
    assert torch.equal(points, cloud().gather(1, indices.long()[..., None].expand(-1, -1, 3)))
    assert features.grad is not None
    assert features.grad.any()


def test_point_sa_module_takes_several_samplers() -> None:
    from mmdet3d.models.layers import PointSAModule

    module = PointSAModule(
        mlp_channels=[5, 16],
        num_point=[8, 12],
        radius=0.8,
        num_sample=4,
        fps_mod=["F-FPS", "D-FPS"],
        fps_sample_range_list=[32, -1],
    )
    features = torch.randn(2, 5, 64)
    points, _, indices = train(module, cloud(), features)
    assert points.shape == (2, 20, 3)
    assert (indices[:, :8] < 32).all()
    assert (indices[:, 8:] >= 32).all()


def test_point_fp_module() -> None:
    from mmdet3d.models.layers import PointFPModule

    module = PointFPModule(mlp_channels=[9, 16])
    source = torch.randn(2, 5, 16, requires_grad=True)
    features = train(module, cloud(), cloud(n=16, seed=1), torch.randn(2, 4, 64), source)
    assert features.shape == (2, 16, 64)
    assert source.grad is not None
    assert source.grad.any()


@pytest.mark.parametrize("radius", [0.5, None])
@pytest.mark.parametrize("kind", ["PAConvSAModule", "PAConvCUDASAModule"])
def test_paconv_sa_module(kind: str, radius: float | None) -> None:
    from mmdet3d.models.layers import build_sa_module

    module = build_sa_module(
        {
            "type": kind,
            "num_point": 16,
            "radius": radius,
            "num_sample": 8,
            "mlp_channels": [12, 16, 32],
            "paconv_num_kernels": [4, 8],
            "norm_cfg": {"type": "BN2d"},
            "use_xyz": True,
            "pool_mod": "max",
            "paconv_kernel_input": "w_neighbor",
        }
    )
    features = torch.randn(2, 12, 64, requires_grad=True)
    # A bias in front of softmax or of a normalisation shifts what is taken off again.
    _, new_features, _ = train(module, cloud(), features, but=("conv.bias",))
    assert new_features.shape == (2, 32, 16)
    assert features.grad is not None
    assert features.grad.any()


def test_both_paconvs_agree() -> None:
    from mmcv.ops import grouping_operation, knn
    from mmdet3d.models.layers import PAConv, PAConvCUDA

    torch.manual_seed(0)
    config = {"in_channels": 12, "out_channels": 6, "num_kernels": 4}
    plain, fused = PAConv(**config), PAConvCUDA(**config)
    fused.scorenet = plain.scorenet
    fused.weight_bank = plain.weight_bank
    points, features = cloud(), torch.randn(2, 12, 64)
    idx = knn(5, points).transpose(1, 2).contiguous()
    grouped_points = grouping_operation(points.transpose(1, 2).contiguous(), idx)
    expected, _ = plain((grouping_operation(features, idx), grouped_points))
    (expected * torch.arange(6.0)[:, None, None]).square().sum().backward()
    assert plain.weight_bank.grad is not None
    gradient = plain.weight_bank.grad.clone()
    plain.zero_grad()
    actual, _, _ = fused((features, grouped_points, idx.long()))
    (actual * torch.arange(6.0)[:, None, None]).square().sum().backward()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused.weight_bank.grad, gradient, rtol=1e-3, atol=1e-3)


def test_stacked_sa_module() -> None:
    from mmdet3d.models.layers.pointnet_modules import StackedSAModuleMSG

    module = StackedSAModuleMSG(
        in_channels=5,
        radius=[0.3, 0.01],
        sample_nums=[4, 4],
        mlp_channels=[[8], [8]],
    )
    rows = torch.tensor([40, 60], dtype=torch.int32)
    centres = torch.tensor([3, 4], dtype=torch.int32)
    points, features = cloud(1, 100)[0], torch.randn(100, 5, requires_grad=True)
    new_points = torch.cat((points[:3], points[40:44] + 0.005))
    new_points[1] = 50
    _, pooled = train(module, points, rows, new_points, centres, features)
    assert pooled.shape == (7, 16)
    assert features.grad is not None
    assert features.grad[:3].any(1).tolist() == [True, False, True]


@pytest.mark.parametrize(("mode", "radius"), [("D-KNN", None), ("F-KNN", None), ("F-KNN", 0.5)])
def test_dgcnn_modules(mode: str, radius: float | None) -> None:
    from mmdet3d.models.layers import DGCNNFAModule, DGCNNFPModule, DGCNNGFModule

    points = torch.cat((torch.randn(2, 64, 3), cloud()), -1)
    if mode == "F-KNN":
        points = cloud()
    channels = points.shape[-1]
    gf = DGCNNGFModule([2 * channels, 16, 24], num_sample=6, knn_mode=mode, radius=radius)
    graph = train(gf, points)
    assert graph.shape == (2, 64, 24)
    fa = train(DGCNNFAModule([24, 32]), [points, graph.detach()])
    assert fa.shape == (2, 64, 56)
    assert train(DGCNNFPModule([56, 16]), fa.detach()).shape == (2, 64, 16)


def test_dgcnn_backbone() -> None:
    from mmdet3d.models.backbones import DGCNNBackbone

    torch.manual_seed(0)
    backbone = DGCNNBackbone(
        in_channels=6,
        num_samples=(5, 5, 5),
        gf_channels=((8, 8), (8, 8), (8,)),
        fa_channels=(16,),
    )
    outputs = backbone(torch.cat((torch.randn(2, 64, 3), cloud()), -1))
    outputs["fa_points"].square().sum().backward()
    assert outputs["fa_points"].shape == (2, 64, 40)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_roi_extractors(mode: str) -> None:
    from mmdet3d.models.roi_heads import Single3DRoIAwareExtractor
    from mmdet3d.models.roi_heads.roi_extractors import Single3DRoIPointExtractor

    points = cloud()
    rois = torch.tensor([[0.5, 0.5, 0, 1, 1, 1, 0.2], [0.3, 0.3, 0, 0.5, 0.5, 1, 1]])
    features = torch.randn(64, 3, requires_grad=True)
    aware = Single3DRoIAwareExtractor(
        {"type": "RoIAwarePool3d", "out_size": 4, "max_pts_per_voxel": 8, "mode": mode}
    )
    rois = torch.cat((torch.zeros(2, 1), rois), 1)  # which sample
    pooled = aware(features, points[0], torch.zeros(64), rois)
    assert pooled.shape == (2, 4, 4, 4, 3)
    pooled.square().sum().backward()
    assert features.grad is not None
    assert features.grad.any()
    sampler = Single3DRoIPointExtractor({"type": "RoIPointPool3d", "num_sampled_points": 16})
    sampled = sampler(torch.randn(2, 64, 3), points, 2, rois.repeat(2, 1, 1))
    assert sampled.shape == (4, 16, 6)
    assert sampled.isfinite().all()
