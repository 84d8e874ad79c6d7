"""Swin weights from files of every naming; the inverse converter here is written on its own."""

import pytest
import torch
from torch import Tensor, nn

from anybev.engine.convert_swin import load_swin
from anybev.engine.weights import CheckpointMismatchError
from anybev.models.common.swin import SwinTransformer

OUTPUT_NORMS = tuple(f"norm{i}.{name}" for i in (1, 2, 3) for name in ("weight", "bias"))


def small(seed: int = 0, **arguments: object) -> SwinTransformer:
    torch.manual_seed(seed)
    options = {
        "embed_dims": 8,
        "depths": (2, 1, 1, 1),
        "num_heads": (1, 2, 2, 2),
        "window_size": 4,
        "out_indices": (1, 2, 3),
        "drop_path_rate": 0.0,
    }
    backbone = SwinTransformer(**options | arguments)
    with torch.no_grad():  # nothing may stay at a value that every model starts from
        for parameter in backbone.parameters():
            parameter.normal_(0, 0.3)
    return backbone.eval()


def official(backbone: nn.Module) -> dict[str, Tensor]:
    """As the official repository's classifier stores these weights, word by word."""
    words = {
        "stages": "layers",
        "projection": "proj",
        "ffn.layers.0.0": "mlp.fc1",
        "ffn.layers.1": "mlp.fc2",
        "attn.w_msa": "attn",
    }
    state: dict[str, Tensor] = {}
    for key, value in backbone.state_dict().items():
        if key in OUTPUT_NORMS:
            continue
        if ".downsample." in key:
            channels = value.shape[-1] // 4
            blocks = torch.empty_like(value)
            for block, (row, column) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
                for c in range(channels):
                    cell = c * 4 + row * 2 + column
                    blocks[..., block * channels + c] = value[..., cell]
            value = blocks
        for ours, theirs in words.items():
            key = key.replace(ours, theirs)
        state[key] = value
    width = 8 * state["patch_embed.proj.weight"].shape[0]
    state |= {"norm.weight": torch.ones(width), "norm.bias": torch.ones(width)}
    state |= {"head.weight": torch.ones(3, width), "head.bias": torch.ones(3)}
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    return state


def same_outputs(one: nn.Module, two: nn.Module) -> None:
    pictures = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        for a, b in zip(one(pictures), two(pictures), strict=True):
            assert torch.equal(a, b)


def test_official_names_fill_all_but_the_output_norms() -> None:
    source, backbone = small(1), small(2)
    report = load_swin(backbone, official(source), "swin.pth")
    assert (report.naming, report.prefix) == ("official", "")
    assert report.load.missing == OUTPUT_NORMS
    assert report.load.loaded == report.entries - 6 == len(backbone.state_dict()) - 6
    assert set(report.ignored) == {
        "norm.weight",
        "norm.bias",
        "head.weight",
        "head.bias",
        "stages.0.blocks.1.attn_mask",
    }
    for index in (1, 2, 3):  # not in such files: given to both
        getattr(source, f"norm{index}").load_state_dict(
            getattr(backbone, f"norm{index}").state_dict()
        )
    same_outputs(source, backbone)


def test_patch_merging_reads_cells_as_the_official_one() -> None:
    source, backbone = small(1), small(2)
    state = official(source)
    load_swin(backbone, state, "swin.pth")
    x = torch.randn(2, 6, 10, 8)
    cells = [x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
    name = "layers.0.downsample"
    normed = nn.functional.layer_norm(
        torch.cat(cells, -1), (32,), state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
    )
    wanted = normed @ state[f"{name}.reduction.weight"].T
    torch.testing.assert_close(backbone.stages[0].downsample(x), wanted)


@pytest.mark.parametrize("prefix", ["", "backbone.", "img_backbone.", "module.backbone."])
def test_mmdetections_names_fill_everything_behind_any_prefix(prefix: str) -> None:
    source, backbone = small(1, out_indices=(0, 1, 2, 3)), small(2)
    state = {prefix + key: value for key, value in source.state_dict().items()}
    if prefix == "backbone.":
        state |= {"rpn_head.weight": torch.ones(1), "neck.conv.weight": torch.ones(1)}
    report = load_swin(backbone, state, "detector.pth")
    assert report.naming == "mmdet"
    assert report.prefix == prefix.removeprefix("module.")
    assert report.load.missing == ()
    assert report.load.loaded == report.entries
    assert len(report.ignored) == (4 if prefix == "backbone." else 2)  # norm0 is not given out
    source.out_indices = (1, 2, 3)
    same_outputs(source, backbone)


@pytest.mark.parametrize("flag", [True, False])
def test_the_flag_decides_nothing(flag: bool) -> None:
    for state in (official(small(1)), small(1).state_dict()):
        backbone = small(2, convert_weights=flag)
        load_swin(backbone, state, "swin.pth")
        wanted = small(1).stages[0].downsample.reduction.weight
        assert torch.equal(backbone.stages[0].downsample.reduction.weight, wanted)


def test_the_published_size_fills_181_of_187() -> None:
    tiny = SwinTransformer(out_indices=(1, 2, 3))
    report = load_swin(tiny, official(tiny), "swin_tiny.pth")
    assert str(report).startswith("181 of 187 entries, official names; left as they were: norm1.w")
    assert str(report).endswith("norm3.bias; 5 keys of other parts ignored")
    report = load_swin(tiny, {f"backbone.{k}": v for k, v in tiny.state_dict().items()}, "f.pth")
    assert str(report) == "187 of 187 entries, mmdet names behind 'backbone.'"


def test_what_cannot_fill_is_an_error_and_changes_nothing() -> None:
    backbone = small(2)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=r"one Swin backbone .* got none among 2 keys \(bias, wei"):
        load_swin(backbone, nn.Linear(2, 2).state_dict(), "other.pth")
    two = {p + k: v for p in ("a.", "b.") for k, v in small(1).state_dict().items()}
    with pytest.raises(ValueError, match=r"got 'a.patch_embed.*, 'b.patch_embed"):
        load_swin(backbone, two, "two.pth")
    state = official(small(1))
    del state["layers.1.blocks.0.mlp.fc1.weight"]
    with pytest.raises(
        CheckpointMismatchError,
        match=r"swin.pth must fill SwinTransformer, got \d+ of \d+ tensors(.|\n)*1 missing in the "
        r"file: stages.1.blocks.0.ffn.layers.0.0.weight",
    ):
        load_swin(backbone, state, "swin.pth")
    deeper = official(small(1, depths=(2, 1, 2, 1)))
    with pytest.raises(CheckpointMismatchError, match=r"unexpected in the file: stages.2.blocks.1"):
        load_swin(backbone, deeper, "deeper.pth")
    with pytest.raises(CheckpointMismatchError, match=r"bias_table is .* in the file"):
        load_swin(backbone, official(small(1, window_size=5)), "window.pth")
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


def test_an_index_of_another_order_is_refused() -> None:
    state = small(1).state_dict()
    key = "stages.0.blocks.0.attn.w_msa.relative_position_index"
    state[key] = state[key].flip(0)
    with pytest.raises(ValueError, match=r"relative_position_index of s.pth must be what the conf"):
        load_swin(small(2), state, "s.pth")
    del state[key]  # newer files leave it out: it follows from the window
    assert load_swin(small(2), state, "s.pth").load.missing == (key,)
