"""Inputs of estimates: complete, assumed, and from somewhere."""

import pytest

from anybev.reporting.accelerators import ACCELERATORS, Accelerator


@pytest.mark.parametrize("accelerator", ACCELERATORS, ids=lambda each: each.name)
def test_every_input_says_that_it_is_assumed_and_why(accelerator: Accelerator) -> None:
    inputs = accelerator.inputs()
    assert len(inputs) == 7
    assert all(not given.measured and given.source and given.value > 0 for given in inputs)


@pytest.mark.parametrize("accelerator", ACCELERATORS, ids=lambda each: each.name)
def test_links_are_slower_than_sold_and_the_network_slower_than_the_node(
    accelerator: Accelerator,
) -> None:
    fabric = accelerator.fabric()
    assert fabric.network is not None
    assert 1e9 < fabric.network.bytes_per_s < fabric.local.bytes_per_s
    assert fabric.local.bytes_per_s < 1e9 * accelerator.local.value
    assert 1e-6 <= fabric.local.latency_s <= fabric.network.latency_s <= 1e-4
