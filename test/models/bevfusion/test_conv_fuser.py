"""Neck of the image backbone, and the joining of maps."""

import pytest
import torch
from torch import nn

from anybev.models.bevfusion.conv_fuser import ConvFuser
from anybev.models.bevfusion.lss_fpn import GeneralizedLSSFPN
from anybev.testing.tolerances import tolerances


def _maps() -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = ((4, 8, 12), (6, 4, 6), (8, 3, 3))
    return [torch.randn(2, *size) for size in sizes]


def test_neck_joins_from_coarse_to_fine() -> None:
    neck = GeneralizedLSSFPN([4, 6, 8], 5, 3, upsample_cfg={"mode": "nearest"}).eval()
    fine, middle, coarse = _maps()
    enlarge = nn.functional.interpolate
    joined = torch.cat([middle, enlarge(coarse, size=(4, 6))], 1)
    middle = neck.fpn_convs[1](neck.lateral_convs[1](joined))
    joined = torch.cat([fine, enlarge(middle, size=(8, 12))], 1)
    wanted = neck.fpn_convs[0](neck.lateral_convs[0](joined))
    out = neck(_maps())
    assert [tuple(m.shape) for m in out] == [(2, 5, 8, 12), (2, 5, 4, 6)]
    torch.testing.assert_close(out[0], wanted, **tolerances(torch.float32))
    torch.testing.assert_close(out[1], middle, **tolerances(torch.float32))


def test_neck_names_what_it_cannot_do() -> None:
    for name, value in (("start_level", 1), ("end_level", 2), ("no_norm_on_lateral", True)):
        with pytest.raises(ValueError, match=f"GeneralizedLSSFPN: {name} must be"):
            GeneralizedLSSFPN([4, 6], 5, **{name: value})
    with pytest.raises(ValueError, match="act_cfg type must be 'ReLU', got 'GELU'"):
        GeneralizedLSSFPN([4, 6], 5, act_cfg={"type": "GELU"})
    with pytest.raises(ValueError, match="in_channels must be of at least 2 maps"):
        GeneralizedLSSFPN([4], 5)
    with pytest.raises(ValueError, match="maps must be 3, got 2; try other out_indices"):
        GeneralizedLSSFPN([4, 6, 8], 5)(_maps()[:2])
    frozen = GeneralizedLSSFPN([4, 6], 5, norm_cfg={"type": "BN2d", "requires_grad": False})
    assert not frozen.fpn_convs[0].bn.weight.requires_grad


def test_fuser_takes_the_maps_in_order() -> None:
    fuser = ConvFuser([2, 3], 4).eval()
    camera, lidar = torch.randn(1, 2, 5, 6), torch.randn(1, 3, 5, 6)
    wanted = fuser[2](fuser[1](fuser[0](torch.cat([camera, lidar], 1))))
    assert torch.equal(fuser([camera, lidar]), wanted)
    assert list(fuser.state_dict())[:2] == ["0.weight", "1.weight"]
    assert ConvFuser(2, 4)([camera]).shape == (1, 4, 5, 6)
    with pytest.raises(ValueError, match=r"channels must be \[2, 3\], got \[3, 2\]"):
        fuser([lidar, camera])
    with pytest.raises(ValueError, match=r"maps must be of one size, got \[\(5, 6\), \(6, 5\)\]"):
        fuser([camera, lidar.transpose(2, 3)])
