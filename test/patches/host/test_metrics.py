"""Metrics of the host that go to CUDA upstream."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev import patches
from anybev.patches.host.patch_rotate_iou import rotate_iou_gpu_eval

Pair = Callable[[str], tuple[Callable[..., Any], Callable[..., Any]]]


def _box(rng: np.random.Generator, label: int) -> Any:
    return SimpleNamespace(
        center=rng.normal(size=3),
        wlh=rng.random(3),
        orientation=SimpleNamespace(yaw_pitch_roll=tuple(rng.normal(size=3))),
        velocity=rng.normal(size=3),
        score=float(rng.random()),
        label=label,
    )


@pytest.mark.filterwarnings("ignore:Creating a tensor from a list")
@pytest.mark.parametrize("count", [0, 1, 12])
def test_camera_boxes_of_nuscenes_are_upstreams(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setenv("ANYBEV_BACKEND", "cpu")
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    original, replacement = pair("mmdet3d-nuscenes-camera-boxes")
    rng = np.random.default_rng(count)
    boxes = [_box(rng, i % 10) for i in range(count)]
    expected, actual = original(boxes), replacement(boxes)
    assert torch.equal(actual[0].tensor, expected[0].tensor)
    for a, b in zip(expected[1:], actual[1:], strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


UPSTREAM = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("rotate_iou", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
given = np.load(sys.argv[2])
results = {
    str(c): module.rotate_iou_gpu_eval(given["boxes"], given["queries"], c) for c in (-1, 0, 1, 2)
}
np.savez(sys.argv[3], **results)
"""


def test_kitti_overlaps_are_upstreams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's CUDA kernel run by numba's simulator."""
    if importlib.util.find_spec("mmdet3d") is None:
        pytest.skip("mmdetection3d is not installed: bash install.sh without --no-host")
    monkeypatch.setenv("ANYBEV_BACKEND", "cpu")
    folder = Path(importlib.util.find_spec("mmdet3d").origin).parent
    rng = np.random.default_rng(0)

    def boxes(count: int) -> np.ndarray:
        sizes = rng.uniform(0.5, 5, (count, 2))
        return np.concatenate(
            [rng.uniform(-4, 4, (count, 2)), sizes, rng.uniform(-4, 4, (count, 1))], axis=1
        )

    given = {"boxes": boxes(9), "queries": boxes(7)}
    np.savez(tmp_path / "in.npz", **given)
    kernel = folder / "evaluation/functional/kitti_utils/rotate_iou.py"
    subprocess.run(
        [sys.executable, "-c", UPSTREAM, str(kernel), "in.npz", "out.npz"],
        cwd=tmp_path,
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
        check=True,
        timeout=300,
    )
    with np.load(tmp_path / "out.npz") as expected:
        for criterion in (-1, 0, 1, 2):
            actual = rotate_iou_gpu_eval(given["boxes"], given["queries"], criterion)
            assert actual.dtype == np.float32
            assert expected[str(criterion)].max() > 0.2
            np.testing.assert_allclose(actual, expected[str(criterion)], rtol=1e-5, atol=3e-6)


def test_kitti_overlap_of_a_turned_box_with_itself_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_BACKEND", "cpu")
    box = np.array([[3.0, 1.0, 4.0, 2.0, 0.7]])
    assert rotate_iou_gpu_eval(box, box)[0, 0] == pytest.approx(1, abs=1e-6)
    assert rotate_iou_gpu_eval(box, np.zeros((0, 5))).shape == (1, 0)
    assert rotate_iou_gpu_eval(np.zeros((0, 5)), box).shape == (0, 1)


def test_kitti_metric_imports_the_supplied_module(host: list[patches.Outcome]) -> None:
    from mmdet3d.evaluation.functional.kitti_utils.eval import bev_box_overlap

    boxes = np.array([[0.0, 0, 4, 2, 0], [1.0, 0, 4, 2, 0]])
    np.testing.assert_allclose(bev_box_overlap(boxes, boxes), [[1, 0.6], [0.6, 1]], rtol=1e-6)
