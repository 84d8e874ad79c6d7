"""2D backbone and neck."""

import pytest
import torch

from anybev.models.common.layers import make_conv, make_norm
from anybev.models.common.second import SECOND
from anybev.models.common.second_fpn import SECONDFPN


def test_stages_and_neck_keep_their_sizes() -> None:
    backbone = SECOND(8, [4, 6, 10], [1, 0, 2], [1, 2, 2])
    stages = backbone(torch.randn(2, 8, 12, 20))
    assert [tuple(s.shape) for s in stages] == [(2, 4, 12, 20), (2, 6, 6, 10), (2, 10, 3, 5)]
    neck = SECONDFPN([4, 6, 10], [3, 3, 5], [1, 2, 4], use_conv_for_no_stride=True)
    assert neck(stages).shape == (2, 11, 12, 20)
    assert isinstance(neck.deblocks[0][0], torch.nn.Conv2d)
    plain = SECONDFPN([4], [3], [1])
    assert isinstance(plain.deblocks[0][0], torch.nn.ConvTranspose2d)
    assert plain(stages[:1]).shape == (2, 3, 12, 20)


def test_lists_must_agree() -> None:
    with pytest.raises(ValueError, match=r"SECOND: out_channels, .* equally long, got 2, 1 and 2"):
        SECOND(8, [4, 6], [1], [1, 2])
    with pytest.raises(ValueError, match=r"SECONDFPN: in_channels, .* got 2, 1 and 2"):
        SECONDFPN([4, 6], [3], [1, 2])


def test_layers_must_be_known() -> None:
    with pytest.raises(ValueError, match=r"conv_cfg: type must be one of .*, got 'DCN'"):
        make_conv({"type": "DCN"}, 1, 1, 1)
    with pytest.raises(ValueError, match=r"norm_cfg: type must be one of .*, got None"):
        make_norm({}, 3)
    with pytest.raises(ValueError, match=r"norm_cfg: BatchNorm2d must .*, got 'epsi'; try eps"):
        make_norm({"type": "BN", "epsi": 1}, 3)
    with pytest.raises(ValueError, match="conv_cfg: Conv2d must be given kernel_size, got none"):
        make_conv({"type": "Conv2d"}, 3, 4)
