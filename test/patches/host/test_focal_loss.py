"""Labels that mmdet's focal loss takes away from CUDA."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

Pair = Callable[[str], tuple[Callable[..., Any], Callable[..., Any]]]


@pytest.fixture
def loss(host: object) -> Any:
    from mmdet.models.losses import FocalLoss

    return FocalLoss(reduction="none")


def test_loss_is_upstreams_where_upstream_runs(pair: Pair, loss: Any) -> None:
    original, replacement = pair("mmdet-focal-loss-background")
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(30, 4, generator=rng)
    labels = torch.randint(0, 5, (30,), generator=rng)
    weights = torch.rand(30, generator=rng)
    for arguments in ((scores, labels), (scores, labels, weights, 3.0, "mean")):
        assert torch.equal(replacement(loss, *arguments), original(loss, *arguments))
    one_hot = torch.nn.functional.one_hot(labels, 5)[:, :4]
    assert torch.equal(replacement(loss, scores, one_hot), original(loss, scores, one_hot))


def test_labels_outside_of_the_classes_are_background(pair: Pair, loss: Any) -> None:
    original, replacement = pair("mmdet-focal-loss-background")
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    with pytest.raises(RuntimeError, match="non-negative"):
        original(loss, scores, torch.tensor([-1, 2, 0]))
    actual = replacement(loss, scores, torch.tensor([-1, 2, 9]))
    assert torch.equal(actual, original(loss, scores, torch.tensor([4, 2, 4])))
