"""draw_heatmap on the simulated npu: through mx_driving's contract, as on the CPU."""

from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from anybev.device.npu.limits import KernelFallbackWarning
from anybev.device.ops.draw_heatmap import draw_heatmap
from anybev.testing.fake_mx_driving import Binding
from anybev.testing.side_by_side import assert_same

targets = partial(
    draw_heatmap,
    batch_size=2,
    num_classes=3,
    grid=(20, 14),
    cell_size_m=(1.0, 1.5),
    origin_m=(-10.0, -10.5),
)
CALLS = ["npu_gaussian", "npu_draw_gaussian_to_heatmap"]


def boxes(draw: Generator, count: int, columns: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.rand(count, columns, generator=draw) * 4 + 0.5
    rows[:, :2] = torch.rand(count, 2, generator=draw) * 22 - 11
    labels = torch.randint(-1, 4, (count,), generator=draw)
    return rows, labels, torch.randint(0, 2, (count,), generator=draw)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("count", "columns"), [(1, 7), (60, 9), (600, 11)])
def test_equals_the_cpu(
    mx: Binding, draw: Generator, dtype: torch.dtype, count: int, columns: int
) -> None:
    rows, labels, samples = boxes(draw, count, columns)
    assert_same(targets, rows.to(dtype), labels, samples)
    assert mx.calls == CALLS


def test_odd_boxes_are_ignored_as_on_the_cpu(mx: Binding, draw: Generator) -> None:
    rows, _, samples = boxes(draw, 9)
    rows[:, 0], rows[:, 1] = torch.linspace(-10.9, 10.9, 9), torch.linspace(-11.9, 10.9, 9)
    rows[1, 0], rows[2, 1], rows[3, 3], rows[4, 4] = torch.nan, torch.inf, torch.nan, 0.0
    rows[5, 3], rows[6, 5] = -1.0, torch.nan
    assert_same(targets, rows, torch.zeros(9, dtype=torch.int64), samples)


def test_last_class_of_one_sample_is_not_the_next_samples_first(mx: Binding) -> None:
    rows = torch.tensor([[0.0, 0, 0, 3, 3, 1, 0]]).repeat(3, 1)
    out = targets(rows.npu(), torch.tensor([2, 3, -1]).npu(), torch.tensor([0, 0, 1]).npu()).cpu()
    assert [int(plane) for plane in out.amax((2, 3)).flatten()] == [0, 0, 1, 0, 0, 0]


def test_no_box_is_no_call(mx: Binding, draw: Generator) -> None:
    assert_same(targets, *boxes(draw, 0))
    assert mx.calls == []


def test_sample_outside_the_batch_is_refused_before_the_kernel(
    mx: Binding, draw: Generator
) -> None:
    rows, labels, samples = boxes(draw, 3)
    with pytest.raises(ValueError, match=r"sample_index must be in \[0, 2\)"):
        targets(rows.npu(), labels.npu(), samples.npu() + 2)
    assert mx.calls == []


@pytest.mark.parametrize(("side", "taken"), [(1024, True), (1025, False)])
def test_longest_side(mx: Binding, draw: Generator, side: int, taken: bool) -> None:
    drawn = partial(targets, grid=(side, 4))
    if taken:
        assert_same(drawn, *boxes(draw, 5))
    else:
        with pytest.warns(KernelFallbackWarning, match="at most 1024, got 1025"):
            assert_same(drawn, *boxes(draw, 5))
    assert mx.calls == (CALLS if taken else [])
