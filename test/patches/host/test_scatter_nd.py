"""mmcv's scatter with the patch and without."""

import warnings
from typing import Any

import pytest
import torch


@pytest.mark.parametrize("shape", [[2, 5, 4, 3], [2, 5, 4, 6, 3]])
def test_the_same_grid_and_gradient_as_upstreams(pair: Any, shape: list[int]) -> None:
    original, replacement = pair("mmcv-scatter-nd")
    cells = torch.rand(shape[:-1]).lt(0.4).nonzero()
    results = []
    for scatter in (original, replacement):
        updates = torch.arange(len(cells) * 3.0).view(-1, 3).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if scatter is original else "error")
            grid = scatter(cells, updates, shape)
        grid.square().sum().backward()
        results.append((grid, updates.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
