"""Scores of rooms are numbers, whatever numpy makes of arrays of one number."""

import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch


def _boxes(offset_m: float) -> Any:
    from mmdet3d.structures import DepthInstance3DBoxes

    rows = [[0.0, 2, 0, 1, 1, 1], [3.0 + offset_m, 2, 0, 1, 1, 1]]
    return DepthInstance3DBoxes(torch.tensor(rows), box_dim=6, with_yaw=False)


def test_rooms_are_scored(host: object) -> None:
    from mmdet3d.evaluation import indoor_eval
    from mmdet3d.structures import Box3DMode

    module = sys.modules["mmdet3d.evaluation.functional.indoor_eval"]
    unpatched = FunctionType(indoor_eval.__code__, vars(module))
    truth = [{"gt_bboxes_3d": _boxes(0.0), "gt_labels_3d": np.array([0, 1])}]
    found = [
        {
            "bboxes_3d": _boxes(0.5),
            "scores_3d": torch.tensor([0.9, 0.8]),
            "labels_3d": torch.tensor([0, 1]),
        }
    ]

    def score(function: Callable[..., Any]) -> dict[str, float]:
        scores: dict[str, float] = function(
            truth, found, [0.25, 0.5], {0: "bed", 1: "chair"}, None, Box3DMode.DEPTH
        )
        return scores

    scores = score(indoor_eval)
    # Half a metre off a box of one metre: two thirds of 0.5.
    assert scores["mAP_0.25"] == 1.0
    assert scores["mAP_0.50"] == pytest.approx(0.5)
    assert scores["bed_rec_0.50"] == 1.0
    assert scores["chair_rec_0.50"] == 0.0
    if np.lib.NumpyVersion(np.__version__) < "2.4.0":
        assert score(unpatched) == scores
    else:
        with pytest.raises(TypeError, match="0-dimensional"):
            score(unpatched)
