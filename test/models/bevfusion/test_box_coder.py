"""Boxes to regression code and back."""

import math

import pytest
import torch

from anybev.models.bevfusion.box_coder import TransFusionBBoxCoder
from anybev.testing.tolerances import tolerances


def _coder(**more: object) -> TransFusionBBoxCoder:
    settings: dict = {
        "pc_range": [-54.0, -54.0],
        "out_size_factor": 8,
        "voxel_size": [0.075, 0.075],
        "post_center_range": [-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
        "score_threshold": 0.0,
        "code_size": 10,
    }
    return TransFusionBBoxCoder(**(settings | more))


def _boxes(count: int = 20) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    boxes = torch.rand(count, 9, generator=draw) * 100 - 50
    boxes[:, 3:6] = boxes[:, 3:6].abs() / 10 + 0.3
    boxes[:, 6] = torch.rand(count, generator=draw) * 6 - 3
    return boxes


def _outputs(code: torch.Tensor) -> dict[str, torch.Tensor]:
    names = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": code.shape[1] - 8}
    parts = code.T[None].split(list(names.values()), dim=1)
    return {n: p for n, p in zip(names, parts, strict=True) if p.shape[1]}


@pytest.mark.parametrize("size", [8, 10])
def test_decode_undoes_encode(size: int) -> None:
    coder, boxes = _coder(code_size=size), _boxes()
    code = coder.encode(boxes)
    assert code.shape == (20, size)
    decoded = coder.decode(_outputs(code))[0]
    torch.testing.assert_close(decoded, boxes[:, : size - 1], rtol=1e-4, atol=1e-4)


def test_code_of_one_box_by_hand() -> None:
    box = torch.tensor([[10.0, -20.0, -1.0, 4.0, 2.0, 1.5, math.pi / 2, 3.0, -1.0]])
    wanted = [64 / 0.6, 34 / 0.6, -0.25, math.log(4), math.log(2), math.log(1.5), 1, 0, 3, -1]
    got = _coder().encode(box)[0]
    torch.testing.assert_close(got, torch.tensor(wanted), **tolerances(torch.float32))


def test_decode_leaves_its_input_alone_and_carries_no_gradient() -> None:
    outputs = {n: t.requires_grad_() for n, t in _outputs(_coder().encode(_boxes())).items()}
    before = {n: t.detach().clone() for n, t in outputs.items()}
    assert not _coder().decode(outputs).requires_grad
    assert all(torch.equal(outputs[n], before[n]) for n in outputs)


def test_half_precision_outputs_decode_in_float32() -> None:
    outputs = {n: t.bfloat16() for n, t in _outputs(_coder().encode(_boxes())).items()}
    assert _coder().decode(outputs).dtype == torch.float32


def test_range_includes_its_ends_and_zero_threshold_keeps_zero_scores() -> None:
    boxes = torch.zeros(4, 9)
    boxes[0, 0], boxes[1, 0], boxes[2, 2] = 61.2, 61.3, -10.1
    scores = torch.tensor([0.5, 0.5, 0.5, 0.0])
    assert _coder().keep(boxes, scores).tolist() == [True, False, False, True]
    assert _coder(score_threshold=0.1).keep(boxes, scores).tolist() == [True, False, False, False]
    assert _coder(post_center_range=None).keep(boxes, scores).all()


def test_code_size_must_be_known() -> None:
    with pytest.raises(ValueError, match="code_size must be 8 or 10, got 9"):
        _coder(code_size=9)
