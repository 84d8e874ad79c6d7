"""Voxels of MinkUNet without the way through numpy and CUDA."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev.patches.host.patch_minkunet_voxels import first_of_each

Pair = Callable[[str], tuple[Callable[..., Any], Callable[..., Any]]]


def _preprocessor(**changes: Any) -> Any:
    from mmdet3d.models.data_preprocessors import Det3DDataPreprocessor

    made = Det3DDataPreprocessor.__new__(Det3DDataPreprocessor)
    fields = {
        "voxel_type": "minkunet",
        "voxel_layer": SimpleNamespace(voxel_size=[0.5, 0.4, 0.3]),
        "training": True,
        "max_voxels": None,
        "batch_first": True,
    }
    made.__dict__.update(fields | changes)
    return made


def _sample(points: int | None) -> Any:
    mask = {} if points is None else {"pts_semantic_mask": torch.arange(points)}
    return SimpleNamespace(gt_pts_seg=SimpleNamespace(**mask))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_first": False, "training": False},
        {"max_voxels": 40},
        {"max_voxels": 40, "training": False},
    ],
)
@pytest.mark.parametrize("with_mask", [True, False])
def test_voxels_are_upstreams(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], with_mask: bool
) -> None:
    original, replacement = pair("mmdet3d-minkunet-voxels")
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    rng = torch.Generator().manual_seed(0)
    points = [(torch.rand(n, 5, generator=rng) - 0.5) * 6 for n in (900, 1, 400)]
    results = []
    for function in (original, replacement):
        samples = [_sample(len(p) if with_mask else None) for p in points]
        np.random.seed(3)
        results.append((function(_preprocessor(**changes), points, samples), samples))
    (expected, samples), (actual, others) = results
    for name in ("voxels", "coors"):
        assert actual[name].dtype == expected[name].dtype
        assert torch.equal(actual[name], expected[name])
    for a, b in zip(samples, others, strict=True):
        assert torch.equal(a.batch_idx, b.batch_idx)
        assert torch.equal(a.point2voxel_map, b.point2voxel_map)
        assert vars(a.gt_pts_seg).keys() == vars(b.gt_pts_seg).keys()
        for name, value in vars(a.gt_pts_seg).items():
            assert torch.equal(value, getattr(b.gt_pts_seg, name))


def test_upstream_needs_cuda(pair: Pair) -> None:
    if torch.cuda.is_available():
        pytest.skip("upstream runs on this machine")
    original, _ = pair("mmdet3d-minkunet-voxels")
    with pytest.raises((AssertionError, RuntimeError), match=r"(?i)cuda"):
        original(_preprocessor(), [torch.rand(9, 4)], [_sample(9)])


def test_other_voxel_types_are_left_to_upstream() -> None:
    from anybev.patches.host.patch_minkunet_voxels import replace

    made = replace(lambda self, points, samples: {"left": points})
    assert made(SimpleNamespace(voxel_type="hard"), [1], []) == {"left": [1]}


def test_first_of_each_is_the_first_row_with_a_coordinate() -> None:
    coords = torch.tensor([[5, 0, 1], [-2, 3, 0], [5, 0, 1], [-2, 0, 9], [-2, 3, 0]])
    first, inverse = first_of_each(coords)
    assert first.tolist() == [3, 1, 0]
    assert inverse.tolist() == [2, 1, 2, 0, 1]
