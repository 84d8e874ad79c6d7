"""Functions that use names numpy gave up: as upstream where numpy has them, working without."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

Function = Callable[..., Any]
Pair = Callable[[str], tuple[Function, Function]]


def _without(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if hasattr(np, name):
        monkeypatch.delattr(np, name)


def _sampler() -> Any:
    from mmdet3d.structures import LiDARPoints

    def sample(name: str, count: int, boxes: np.ndarray) -> list[dict[str, Any]]:
        del boxes
        return [
            {"name": name, "path": name, "box3d_lidar": np.full(7, i + 1.0)} for i in range(count)
        ]

    return SimpleNamespace(
        sample_classes=["Car", "Cyclist"],
        sample_max_nums=[3, 2],
        cat2label={"Car": 2, "Cyclist": 1},
        rate=1.0,
        data_root="",
        sample_class_v2=sample,
        points_loader=lambda results: {
            "points": LiDARPoints(np.ones((2, 4), np.float32), points_dim=4)
        },
    )


def test_object_sampler_needs_no_np_long(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    original, replacement = pair("mmdet3d-sampler-np-long")
    monkeypatch.setattr(np, "long", np.int64, raising=False)
    expected = original(_sampler(), np.zeros((1, 7)), np.array([2]))
    _without(monkeypatch, "long")
    with pytest.raises(AttributeError, match="long"):
        original(_sampler(), np.zeros((1, 7)), np.array([2]))
    actual = replacement(_sampler(), np.zeros((1, 7)), np.array([2]))
    assert actual["gt_labels_3d"].dtype == np.int64
    for name in ("gt_labels_3d", "gt_bboxes_3d", "group_ids"):
        np.testing.assert_array_equal(actual[name], expected[name])


def test_caption_labels_need_no_np_long(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    original, replacement = pair("mmdet-text-np-long")
    monkeypatch.setattr(np, "long", np.int64, raising=False)
    arguments = (
        np.arange(20.0).reshape(5, 4),
        np.array([0, 2, 1, 2, 0]),
        {"0": "car", "1": "street (wide)", "2": "tree"},
        SimpleNamespace(tokenize=str.split),
        3,
    )
    random.seed(0)
    expected = original(*arguments)
    _without(monkeypatch, "long")
    random.seed(0)
    for a, b in zip(expected, replacement(*arguments), strict=True):
        np.testing.assert_array_equal(a, b)


def _video_evaluation() -> Any:
    rng = np.random.default_rng(0)
    image = {
        "dtScores": rng.random(6),
        "dtMatches": rng.integers(0, 2, (2, 6)),
        "dtIgnore": rng.integers(0, 2, (2, 6)),
        "gtIgnore": np.array([0, 0, 1, 0]),
    }
    params = SimpleNamespace(
        iouThrs=np.array([0.5, 0.7]),
        recThrs=np.linspace(0, 1, 11),
        catIds=[1],
        useCats=1,
        areaRng=[[0, 1e5]],
        maxDets=[1, 5],
        vidIds=[3],
    )
    return SimpleNamespace(evalImgs=[image], params=params, _paramsEval=params)


def test_video_metric_needs_no_np_float(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    original, replacement = pair("mmdet-ytvis-np-float")
    with pytest.raises(AttributeError, match="float"):
        original(_video_evaluation())
    actual = _video_evaluation()
    replacement(actual)
    monkeypatch.setattr(np, "float", float, raising=False)
    expected = _video_evaluation()
    original(expected)
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(actual.eval[name], expected.eval[name])


def test_scannet_metric_needs_no_np_in1d(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    original, replacement = pair("mmdet3d-scannet-np-in1d")
    rng = np.random.default_rng(1)
    truth = np.array([1001, 1002, 2001, 9001, 0])[rng.integers(0, 5, 200)]
    predicted = {
        f"mask{i}": {"label_id": i % 2 + 1, "conf": 0.5, "mask": rng.integers(0, 2, 200)}
        for i in range(4)
    }
    rest = ({"min_region_sizes": [10]}, (1, 2), ("chair", "table"), {1: "chair", 2: "table"})
    monkeypatch.setattr(np, "in1d", lambda a, b: np.isin(a, b), raising=False)
    expected = original(predicted, truth, *rest)
    _without(monkeypatch, "in1d")
    assert replacement(predicted, truth, *rest) == expected
    assert expected[1]["chair"][0]["void_intersection"] > 0


def test_in1d_is_numpys_of_old() -> None:
    from anybev.patches.host.patch_numpy_aliases import _in1d

    rows = np.array([[1, 2], [3, 4]])
    assert _in1d(rows, [4, 1]).tolist() == [True, False, False, True]
    assert _in1d(rows, [4, 1], invert=True).tolist() == [False, True, True, False]
    assert _in1d([], [1]).shape == (0,)


def test_patches_are_skipped_where_numpy_has_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from anybev.patches.host import patch_numpy_aliases

    for name in ("long", "in1d"):
        ask = getattr(patch_numpy_aliases, f"skip_reason_{name}")
        monkeypatch.setattr(np, name, object(), raising=False)
        assert ask() == f"numpy {np.__version__} has np.{name}"
        monkeypatch.delattr(np, name)
        assert ask() is None
