"""Swin Transformer against a slow one, and its settings."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anybev.models.common.swin import DropPath, PatchEmbed, PatchMerging, SwinTransformer
from anybev.models.common.window_attention import (
    ShiftWindowMSA,
    WindowMSA,
    relative_position_index,
)
from anybev.testing.tolerances import tolerances

SMALL = {"embed_dims": 8, "depths": (2, 1), "num_heads": (2, 4), "strides": (4, 2), "mlp_ratio": 2}


def _swin(**changes: object) -> SwinTransformer:
    torch.manual_seed(0)
    settings = SMALL | {"window_size": 3, "out_indices": (0, 1), "drop_path_rate": 0.0} | changes
    return SwinTransformer(**settings)


def _attend_cell_by_cell(attention: ShiftWindowMSA, x: np.ndarray) -> np.ndarray:
    """Attention of one map (H, W, C) in float64: each cell over the cells of its window."""
    size, shift, msa = attention.window_size, attention.shift_size, attention.w_msa
    height, width, channels = x.shape
    rows, columns = (size * math.ceil(n / size) for n in (height, width))
    weight, bias = (p.detach().double().numpy() for p in (msa.qkv.weight, msa.qkv.bias))
    padded = np.zeros((rows, columns, channels))
    padded[:height, :width] = x
    heads = msa.num_heads
    q, k, v = np.moveaxis((padded @ weight.T + bias).reshape(rows, columns, 3, heads, -1), 2, 0)
    table = msa.relative_position_bias_table.detach().double().numpy()
    out = np.zeros((rows, columns, heads, channels // heads))

    def region(place: int, length: int) -> int:
        return 0 if place < length - size else 1 if place < length - shift else 2

    for row in range(rows):
        for column in range(columns):
            # Places after the roll: where the window is cut.
            at = [(row - shift) % rows, (column - shift) % columns]
            mine = (region(at[0], rows), region(at[1], columns))
            corner = [place // size * size for place in at]
            others, scores = [], []
            for i in range(size * size):
                there = [corner[0] + i // size, corner[1] + i % size]
                cell = ((there[0] + shift) % rows, (there[1] + shift) % columns)
                entry = (at[0] - there[0] + size - 1) * (2 * size - 1) + at[1] - there[1] + size - 1
                score = (q[row, column] * k[cell]).sum(-1) * msa.scale + table[entry]
                if shift and (region(there[0], rows), region(there[1], columns)) != mine:
                    score = score - 100
                others.append(v[cell])
                scores.append(score)
            weights = np.exp(scores) / np.exp(scores).sum(0)
            out[row, column] = (weights[..., None] * np.array(others)).sum(0)
    flat = out[:height, :width].reshape(height, width, channels)
    return flat @ msa.proj.weight.detach().double().numpy().T


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", [(6, 9), (4, 5), (2, 3)])
def test_attention_equals_a_loop_over_cells(shift: int, size: tuple[int, int]) -> None:
    torch.manual_seed(shift)
    attention = ShiftWindowMSA(8, 2, 3, shift).double()
    nn.init.normal_(attention.w_msa.relative_position_bias_table)
    nn.init.normal_(attention.w_msa.qkv.bias)
    nn.init.zeros_(attention.w_msa.proj.bias)
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    wanted = np.stack([_attend_cell_by_cell(attention, one.numpy()) for one in x])
    torch.testing.assert_close(
        attention(x), torch.from_numpy(wanted), **tolerances(torch.float64, "")
    )


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", [(3, 5), (4, 2)])
def test_gradients_of_attention(shift: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    attention = ShiftWindowMSA(4, 2, 2, shift).double()
    x = torch.randn(1, *size, 4, dtype=torch.float64, requires_grad=True)
    table = attention.w_msa.relative_position_bias_table
    bias = attention.w_msa.qkv.bias

    def run(x: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        parts = {"w_msa.relative_position_bias_table": table, "w_msa.qkv.bias": bias}
        return torch.func.functional_call(attention, parts, (x,))

    assert torch.autograd.gradcheck(run, (x, table, bias))


def test_relative_positions_count_rows_then_columns() -> None:
    index = relative_position_index(3)
    assert index.shape == (9, 9)
    assert index[0, 0] == 12
    assert index[8, 0] == 24  # two rows down, two columns right
    assert index[0, 8] == 0


def test_patches_and_blocks_are_filled_up() -> None:
    embed = PatchEmbed(3, 8, 4, {"type": "LN"})
    assert embed(torch.randn(2, 3, 9, 12)).shape == (2, 3, 3, 8)
    merge = PatchMerging(2, {"type": "LN"})
    assert merge(torch.randn(2, 3, 5, 2)).shape == (2, 2, 3, 4)


def test_merging_orders_channels_before_places() -> None:
    merge = PatchMerging(3, {"type": "LN"})
    merge.norm = nn.Identity()
    merge.reduction = nn.Identity()
    x = torch.arange(2 * 4 * 3.0).view(1, 2, 4, 3)
    wanted = nn.functional.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
    assert torch.equal(merge(x).view(1, 2, 12), wanted)


def test_maps_of_the_chosen_stages() -> None:
    images = torch.randn(2, 3, 20, 28)
    first, second = _swin()(images)
    assert first.shape == (2, 8, 5, 7)
    assert second.shape == (2, 16, 3, 4)
    (only,) = _swin(out_indices=(1,))(images)
    torch.testing.assert_close(only, second)
    assert not hasattr(_swin(out_indices=(1,)), "norm0")


def test_one_picture_does_not_depend_on_the_others() -> None:
    model = _swin().eval()
    images = torch.randn(3, 3, 16, 16)
    together = model(images)[1]
    torch.testing.assert_close(model(images[1:2])[1], together[1:2], **tolerances(torch.float32))


def test_recomputing_blocks_gives_the_same_gradients() -> None:
    images = torch.randn(2, 3, 16, 24, requires_grad=True)
    grads = []
    for recompute in (False, True):
        model = _swin(with_cp=recompute)
        sum(m.square().sum() for m in model(images)).backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_masks_made_without_gradients_serve_training() -> None:
    model = _swin(window_size=5)
    images = torch.randn(1, 3, 28, 36)
    with torch.inference_mode():
        model(images)
    model(images)[1].sum().backward()
    assert model.stages[0].blocks[1].attn.w_msa.qkv.weight.grad is not None


def test_branches_are_left_out_for_whole_samples() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    kept = drop(torch.ones(4000, 2, 3))
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (kept.flatten(1) == kept[:, 0, :1]).all()
    torch.testing.assert_close(kept.mean().item(), 1.0, rtol=0.05, atol=0)
    x = torch.randn(2, 3)
    assert drop.eval()(x) is x
    model = _swin(depths=(2, 3), drop_path_rate=0.2)
    rates = [block.drop_path.rate for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_frozen_stages_stay_as_they_are() -> None:
    model = _swin(frozen_stages=1, drop_path_rate=0.5).train()
    frozen = ("patch_embed.", "stages.0.", "norm0.")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen), name
    assert not model.stages[0].training
    assert model.stages[1].training
    assert all(p.requires_grad for p in _swin().parameters())


def test_settings_that_change_the_parameters() -> None:
    model = _swin(qkv_bias=False, patch_norm=False, qk_scale=0.5)
    keys = model.state_dict()
    assert "stages.0.blocks.0.attn.w_msa.qkv.bias" not in keys
    assert "patch_embed.norm.weight" not in keys
    assert model.stages[0].blocks[0].attn.w_msa.scale == 0.5
    assert model(torch.randn(1, 3, 20, 20))[0].isfinite().all()
    weight = _swin(embed_dims=64).stages[1].blocks[0].ffn.layers[0][0].weight
    torch.testing.assert_close(weight.std().item(), 0.02, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": (2,)}, r"num_heads must be as many as depths \(2\), got 1"),
        ({"strides": (4, 4)}, r"strides must be \[4, 2\], got \[4, 4\]"),
        ({"out_indices": (2,)}, r"out_indices must be in 0..1, got \[2\]"),
        ({"frozen_stages": 3}, r"frozen_stages must be in -1..2, got 3"),
        ({"use_abs_pos_embed": True}, "use_abs_pos_embed must be False, got True"),
        ({"act_cfg": {"type": "ReLU"}}, "act_cfg must be of type GELU, got"),
        ({"drop_path_rate": 1.0}, r"DropPath: rate must be in \[0, 1\), got 1.0"),
        ({"embed_dims": 9}, "embed_dims must be a multiple of num_heads 2, got 9"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _swin(**changes)


def test_a_shift_must_be_inside_the_window() -> None:
    with pytest.raises(ValueError, match=r"shift_size must be in 0..2, got 3"):
        ShiftWindowMSA(8, 2, 3, 3)
    assert WindowMSA(8, 2, 3).relative_position_bias_table.shape == (25, 2)
