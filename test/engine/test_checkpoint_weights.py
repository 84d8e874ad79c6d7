"""Filling a model: layouts, prefixes, and errors that list the keys."""

import pytest
import torch
from torch import nn

from anybev.engine.checkpoint import CheckpointMismatchError, load_into, save
from anybev.engine.weights import sparse_layout, sparse_weight_keys


class Sparse(nn.Module):
    """A sparse convolution's parameter: [out, kx, ky, kz, in]."""

    def __init__(self, out: int, kernel: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, *kernel, channels))


class Model(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv_input = Sparse(width, (3, 3, 3), 5)
        self.square = Sparse(width, (3, 3, 3), width)
        self.flat = Sparse(8, (1, 1, 3), 8)
        self.dense = nn.Conv3d(2, 2, 3)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 3)


@pytest.fixture
def trained() -> Model:
    torch.manual_seed(1)
    return Model()


def _as_rsck(state: dict) -> dict:
    """As mmcv and spconv 1 store sparse weights: [kx, ky, kz, in, out]."""
    sparse = ("conv_input.weight", "square.weight", "flat.weight")
    return {k: v.permute(1, 2, 3, 4, 0) if k in sparse else v for k, v in state.items()}


def _same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_krsc_weights_are_taken_as_they_are(trained, tmp_path):
    save(tmp_path / "m.pth", trained)
    model = Model()
    report = load_into(model, tmp_path / "m.pth")
    assert _same(model, trained)
    assert (report.sparse_layout, report.converted) == ("krsc", 0)
    assert report.loaded == len(trained.state_dict())
    assert str(report) == f"{report.loaded} tensors, sparse weights in KRSC"


def test_rsck_weights_are_permuted(trained, tmp_path):
    torch.save({"state_dict": _as_rsck(trained.state_dict())}, tmp_path / "m.pth")
    model = Model()
    report = load_into(model, tmp_path / "m.pth")
    assert _same(model, trained)
    assert (report.sparse_layout, report.converted) == ("rsck", 3)
    assert "3 permuted" in str(report)
    assert model.square.weight.is_contiguous()


def test_rskc_weights_are_permuted(trained, tmp_path):
    sparse = ("conv_input.weight", "square.weight", "flat.weight")
    state = trained.state_dict()
    # As spconv 2.0 and 2.1 stored them: [kx, ky, kz, out, in]; the square ones tell nothing.
    rskc = {k: v.permute(1, 2, 3, 0, 4) if k in sparse else v for k, v in state.items()}
    torch.save(rskc, tmp_path / "m.pth")
    model = Model()
    report = load_into(model, tmp_path / "m.pth")
    assert _same(model, trained)
    assert (report.sparse_layout, report.converted) == ("rskc", 3)
    square = {"weight": rskc["square.weight"]}
    torch.save(square, tmp_path / "square.pth")
    alone = Sparse(16, (3, 3, 3), 16)
    with pytest.raises(
        ValueError, match=r"fits RSCK and RSKC alike; try sparse_layout='rsck' or sparse_layout='r"
    ):
        load_into(alone, tmp_path / "square.pth")
    load_into(alone, tmp_path / "square.pth", sparse_layout="rskc")
    assert torch.equal(alone.weight, trained.square.weight)


def test_dense_3d_convolutions_are_no_sparse_weights(trained):
    assert sparse_weight_keys(trained) == ["conv_input.weight", "square.weight", "flat.weight"]
    assert sparse_weight_keys(nn.Conv3d(1, 1, 3)) == []


def test_a_weight_that_fits_both_follows_the_others(tmp_path):
    class Cube(Model):
        def __init__(self) -> None:
            super().__init__()
            self.cube = Sparse(3, (3, 3, 3), 3)

    source, model = Cube(), Cube()
    state = _as_rsck(source.state_dict())
    state["cube.weight"] = source.cube.weight.detach().permute(1, 2, 3, 4, 0)
    torch.save(state, tmp_path / "m.pth")
    load_into(model, tmp_path / "m.pth")
    assert torch.equal(model.cube.weight, source.cube.weight)


def test_a_layout_that_no_shape_tells_is_refused(tmp_path):
    save(tmp_path / "m.pth", Sparse(3, (3, 3, 3), 3))
    model = Sparse(3, (3, 3, 3), 3)
    before = model.weight.clone()
    with pytest.raises(ValueError, match=r"fits KRSC, RSCK and RSKC alike; try sparse_l"):
        load_into(model, tmp_path / "m.pth")
    assert torch.equal(model.weight, before)
    assert load_into(model, tmp_path / "m.pth", sparse_layout="krsc").sparse_layout == "krsc"
    with pytest.raises(ValueError, match="must be krsc, rsck or rskc, got 'kcrs'"):
        load_into(model, tmp_path / "m.pth", sparse_layout="kcrs")


def test_mixed_layouts_are_refused(trained, tmp_path):
    state = {**trained.state_dict(), "square.weight": torch.zeros(3, 3, 3, 16, 16)}
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(
        ValueError,
        match=r"of one layout, got conv_input.weight in KRSC and square.weight in RSCK or RSKC$",
    ):
        load_into(Model(), tmp_path / "m.pth")


def test_a_sparse_weight_of_neither_layout_is_named_with_shapes(trained, tmp_path):
    # What a loader leaves that permutes a KRSC file as if it were RSCK.
    state = {**trained.state_dict(), "conv_input.weight": torch.zeros(5, 16, 3, 3, 3)}
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(CheckpointMismatchError, match="none of KRSC, RSCK and RSKC") as caught:
        load_into(Model(), tmp_path / "m.pth")
    assert caught.value.mismatched == {"conv_input.weight": ((5, 16, 3, 3, 3), (16, 3, 3, 3, 5))}
    shapes = "conv_input.weight is [5, 16, 3, 3, 3] in the file, [16, 3, 3, 3, 5] in the model"
    assert shapes in str(caught.value)


def test_no_sparse_weight_no_layout():
    assert sparse_layout({}, {}, []) is None


@pytest.mark.parametrize("prefix", ["module.", "module.module."])
def test_the_prefix_of_distributed_training_is_dropped(trained, tmp_path, prefix):
    torch.save({prefix + k: v for k, v in trained.state_dict().items()}, tmp_path / "m.pth")
    model = Model()
    load_into(model, tmp_path / "m.pth")
    assert _same(model, trained)


def test_missing_and_unexpected_keys_are_listed_and_nothing_is_loaded(trained, tmp_path):
    state = trained.state_dict()
    state["tail.weight"] = state.pop("head.weight")
    torch.save(state, tmp_path / "m.pth")
    model = Model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointMismatchError, match=r"m.pth must fill Model, got 11 of 12") as e:
        load_into(model, tmp_path / "m.pth")
    assert e.value.missing == ("head.weight",)
    assert e.value.unexpected == ("tail.weight",)
    assert "1 missing in the file: head.weight" in str(e.value)
    assert "1 unexpected in the file: tail.weight" in str(e.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_parts_may_be_left_out_by_pattern(trained, tmp_path):
    state = trained.state_dict()
    state["tail.weight"] = state.pop("head.weight")
    torch.save(state, tmp_path / "m.pth")
    report = load_into(
        Model(), tmp_path / "m.pth", allow_missing=["head.*"], allow_unexpected=["tail.*"]
    )
    assert report.missing == ("head.weight",)
    assert report.unexpected == ("tail.weight",)
    assert str(report).endswith("1 left as they were (head 1), 1 ignored")


def test_a_part_may_be_lacking_as_a_whole_only(trained, tmp_path):
    state = {k: v for k, v in trained.state_dict().items() if not k.startswith("head.")}
    torch.save(state, tmp_path / "m.pth")
    report = load_into(Model(), tmp_path / "m.pth", may_lack=["head", "norm"])
    assert report.missing == ("head.weight", "head.bias")
    assert str(report).endswith("2 left as they were (head 2)")
    torch.save(state | {"head.bias": torch.zeros(3)}, tmp_path / "half.pth")
    with pytest.raises(CheckpointMismatchError, match=r"1 missing in the file: head.weight"):
        load_into(Model(), tmp_path / "half.pth", may_lack=["head", "norm"])
    with pytest.raises(ValueError, match="may_lack must name parts of the model, got 'hea'"):
        load_into(Model(), tmp_path / "m.pth", may_lack=["hea"])


def test_constants_of_the_config_are_compared_and_kept(tmp_path):
    class Lifted(nn.Module):
        def __init__(self, cell_m: float) -> None:
            super().__init__()
            self.view_transform = nn.Module()
            self.view_transform.dx = nn.Parameter(torch.tensor([cell_m] * 3), requires_grad=False)

    model = Lifted(0.3)
    torch.save({"view_transform.dx": torch.full((3,), 0.3).bfloat16()}, tmp_path / "m.pth")
    assert load_into(model, tmp_path / "m.pth").loaded == 1
    assert torch.equal(model.view_transform.dx, torch.full((3,), 0.3))
    save(tmp_path / "m.pth", Lifted(0.4))
    with pytest.raises(
        ValueError,
        match=r"view_transform.dx of .*m.pth must be what the config says, \[0.3, 0.3, 0.3\], got "
        r"\[0.4, 0.4, 0.4\]; try the config that the file was trained with",
    ):
        load_into(model, tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("nx", [358, 360, 1]), ("bx", [-53.85, -53.6, 0.0]), ("dx", [0.3, 0.3, 20.1])],
)
def test_another_grid_is_told_from_half_precision(name, theirs, tmp_path):
    class Lifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.view_transform = nn.Module()
            grid = {"nx": [360, 360, 1], "bx": [-53.85, -53.85, 0.0], "dx": [0.3, 0.3, 20.0]}
            for key, values in grid.items():
                self.view_transform.register_buffer(key, torch.tensor(values))

    model = Lifted()
    for dtype in (torch.float16, torch.bfloat16):
        rounded = {key: value.to(dtype) for key, value in model.state_dict().items()}
        torch.save(rounded, tmp_path / "m.pth")
        assert load_into(model, tmp_path / "m.pth").loaded == 3
    another = {f"view_transform.{name}": torch.tensor(theirs)}
    torch.save(model.state_dict() | another, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=f"view_transform.{name} of .* must be what the config sa"):
        load_into(model, tmp_path / "m.pth")


def test_names_of_the_original_repository_point_to_the_converter(trained, tmp_path):
    torch.save(
        {f"encoders.lidar.backbone.{k}": v for k, v in trained.state_dict().items()},
        tmp_path / "m.pth",
    )
    with pytest.raises(CheckpointMismatchError, match=r"try tools/convert_checkpoint.py: the file"):
        load_into(Model(), tmp_path / "m.pth")


def test_batch_counters_may_be_missing(trained, tmp_path):
    state = trained.state_dict()
    del state["norm.num_batches_tracked"]
    torch.save(state, tmp_path / "m.pth")
    assert load_into(Model(), tmp_path / "m.pth").missing == ("norm.num_batches_tracked",)


def test_a_checkpoint_of_another_model_is_called_so(tmp_path):
    save(tmp_path / "m.pth", nn.Sequential(*[nn.Linear(2, 2) for _ in range(20)]))
    with pytest.raises(CheckpointMismatchError) as caught:
        load_into(Model(), tmp_path / "m.pth")
    message = str(caught.value)
    assert "got 0 of 12 tensors that fit" in message
    assert "40 unexpected in the file: 0.weight, 0.bias" in message
    assert "and 30 more" in message
    assert "looks like another model" in message
    assert len(message) < 1200


def test_another_width_is_told_by_shapes(trained, tmp_path):
    save(tmp_path / "m.pth", Model(width=8))
    with pytest.raises(
        CheckpointMismatchError, match=r"head.weight is \[3, 8\] in the file, \[3, 16"
    ):
        load_into(trained, tmp_path / "m.pth")


def test_a_changed_config_is_named_as_the_cause(trained, tmp_path):
    state = trained.state_dict() | {"head.bias": torch.zeros(4)}
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(CheckpointMismatchError, match="try the config it was trained with; a copy"):
        load_into(Model(), tmp_path / "m.pth")
    del state["head.bias"]
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(CheckpointMismatchError, match="from Python, allow_missing and"):
        load_into(Model(), tmp_path / "m.pth")


def test_many_shapes_are_cut_short(tmp_path):
    save(tmp_path / "m.pth", nn.Sequential(*[nn.Linear(2, 2) for _ in range(12)]))
    model = nn.Sequential(*[nn.Linear(3, 2) for _ in range(12)])
    with pytest.raises(CheckpointMismatchError, match="and 2 more of another shape"):
        load_into(model, tmp_path / "m.pth")


def test_half_precision_weights_fill_a_float_model(trained, tmp_path):
    state = {k: v.half() if v.is_floating_point() else v for k, v in trained.state_dict().items()}
    torch.save(state, tmp_path / "m.pth")
    model = Model()
    load_into(model, tmp_path / "m.pth")
    assert model.head.weight.dtype == torch.float32
    assert torch.equal(model.head.weight, state["head.weight"].float())
