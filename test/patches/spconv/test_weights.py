"""State dicts of both layouts of sparse weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anybev.patches.spconv import pytorch as spconv

KERNELS = {"SubMConv3d": (3, 3, 3), "SparseConv3d": (1, 3, 2), "SubMConv2d": (3, 3)}


@pytest.fixture(params=["as it is", "with mmdetection3d's loader"])
def _loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "as it is":

        def permute_unmarked(self: Any, *_: Any) -> None:
            assert not self._parameters, "a convolution must load by itself"

        monkeypatch.setattr(spconv.SparseModule, "_version", 2)
        monkeypatch.setattr(spconv.SparseModule, "_load_from_state_dict", permute_unmarked)


def rsck(weight: Tensor) -> Tensor:
    """[kernel, in, out] of [out, kernel, in]."""
    return weight.movedim(0, -1).contiguous()


@pytest.mark.usefixtures("_loader")
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("kind", KERNELS)
def test_both_layouts_load(kind: str, marked: bool) -> None:
    def model() -> nn.Module:
        layer = getattr(spconv, kind)(5, 8, KERNELS[kind])
        return nn.Sequential(spconv.SparseSequential(layer, nn.BatchNorm1d(8)))

    source = model()
    for permute in (lambda weight: weight, rsck):
        state = source.state_dict()
        assert state._metadata["0.0"]["version"] == 2
        state["0.0.weight"] = permute(state["0.0.weight"])
        if not marked:
            state = dict(state)
        target = model()
        result = target.load_state_dict(state)
        assert not result.missing_keys
        assert not result.unexpected_keys
        for key, value in source.state_dict().items():
            assert torch.equal(target.state_dict()[key], value), key


@pytest.mark.usefixtures("_loader")
def test_a_kernel_of_one_cell_computes_the_same_from_either_layout() -> None:
    x = spconv.SparseConvTensor(torch.randn(3, 5), torch.zeros(3, 4).int(), [1, 1, 1], 1)
    matrix = torch.randn(5, 8)
    layer = spconv.SubMConv3d(5, 8, 1, bias=False)
    # mmcv stores [1, 1, 1, in, out]; spconv 2 [out, 1, 1, 1, in], its numbers read as in by out.
    for stored in (matrix.view(1, 1, 1, 5, 8), matrix.view(8, 1, 1, 1, 5)):
        layer.load_state_dict({"weight": stored})
        torch.testing.assert_close(layer(x).features, x.features @ matrix)


@pytest.mark.usefixtures("_loader")
def test_a_shape_that_fits_both_needs_its_mark() -> None:
    layer = spconv.SubMConv3d(3, 3, 3, bias=False)
    state = {"weight": torch.randn(3, 3, 3, 3, 3)}
    with pytest.raises(ValueError, match=r"is \[out, kernel, in\] and \[kernel, in, out\] alike"):
        layer.load_state_dict(state)
    marked = spconv.SubMConv3d(3, 3, 3, bias=False).state_dict()
    layer.load_state_dict(marked)
    assert torch.equal(layer.weight, marked["weight"])
    one = spconv.SubMConv3d(1, 1, 1, bias=False)
    one.load_state_dict({"weight": torch.ones(1, 1, 1, 1, 1)})
    assert one.weight.item() == 1


@pytest.mark.usefixtures("_loader")
def test_the_layout_of_spconv_2_0_is_refused() -> None:
    layer = spconv.SubMConv3d(5, 8, 3, bias=False)
    with pytest.raises(ValueError, match=r"is \[kernel, out, in\] of spconv 2\.0"):
        layer.load_state_dict({"weight": torch.randn(3, 3, 3, 8, 5)})


@pytest.mark.usefixtures("_loader")
def test_other_shapes_and_missing_keys_are_reported_by_torch() -> None:
    layer = spconv.SubMConv3d(5, 8, 3)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        layer.load_state_dict({"weight": torch.randn(4, 3, 3, 3, 5)}, strict=False)
    assert layer.load_state_dict({}, strict=False).missing_keys == ["weight", "bias"]
    state = {**layer.state_dict(), "more": torch.zeros(1)}
    assert layer.load_state_dict(state, strict=False).unexpected_keys == ["more"]


def test_a_state_dict_is_left_as_it_was() -> None:
    stored = torch.randn(3, 3, 3, 5, 8)
    state = {"weight": stored}
    spconv.SubMConv3d(5, 8, 3, bias=False).load_state_dict(state)
    assert state["weight"] is stored
