"""Sparse convolutions of the supplied spconv against dense ones."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from anybev.patches.spconv import pytorch as spconv
from anybev.patches.spconv.pytorch import convolution
from anybev.testing.tolerances import tolerances

SHAPES = {1: [23], 2: [9, 8], 3: [9, 8, 7], 4: [4, 5, 4, 3]}
BATCH = 2
IN, OUT = 3, 4

# Layer, keyword arguments.
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "subm": ("SubMConv3d", {"kernel_size": 3, "padding": 1}),
    "subm_oblong": ("SubMConv3d", {"kernel_size": (1, 3, 5)}),
    "subm_dilated": ("SubMConv3d", {"kernel_size": 3, "dilation": (1, 2, 3)}),
    "subm_1d": ("SubMConv1d", {"kernel_size": 5}),
    "subm_2d": ("SubMConv2d", {"kernel_size": 3}),
    "down": ("SparseConv3d", {"kernel_size": 3, "stride": 2, "padding": (0, 1, 1)}),
    "squeeze": ("SparseConv3d", {"kernel_size": (3, 1, 1), "stride": (2, 1, 1)}),
    "halving": ("SparseConv3d", {"kernel_size": 2, "stride": 2}),
    "one_cell_strided": ("SparseConv3d", {"kernel_size": 1, "stride": 2}),
    "dilated": ("SparseConv3d", {"kernel_size": 3, "dilation": 2, "padding": 2}),
    "dilated_strided": ("SparseConv3d", {"kernel_size": 3, "dilation": 2, "stride": 2}),
    "down_1d": ("SparseConv1d", {"kernel_size": 3, "stride": 2, "padding": 1}),
    "down_2d": ("SparseConv2d", {"kernel_size": 3, "stride": 2, "padding": 1}),
    "transposed": ("SparseConvTranspose3d", {"kernel_size": 3, "stride": 2, "padding": 1}),
    "transposed_2d": ("SparseConvTranspose2d", {"kernel_size": 2, "stride": 2}),
}


def sparse_input(
    axes: int, dtype: torch.dtype = torch.float64, seed: int = 0, density: float = 0.3
) -> spconv.SparseConvTensor:
    """Random cells in no order."""
    generator = torch.Generator().manual_seed(seed)
    shape = SHAPES[axes]
    indices = (torch.rand(BATCH, *shape, generator=generator) < density).nonzero().int()
    indices = indices[torch.randperm(len(indices), generator=generator)]
    features = torch.randn(len(indices), IN, generator=generator, dtype=torch.float64).to(dtype)
    return spconv.SparseConvTensor(features.requires_grad_(), indices, shape, BATCH)


def make(name: str, dtype: torch.dtype, **kwargs: Any) -> Any:
    kind, arguments = LAYERS[name]
    torch.manual_seed(1)
    return getattr(spconv, kind)(IN, OUT, **{**arguments, **kwargs}).to(dtype)


def dense(layer: Any, grid: Tensor, weight: Tensor) -> Tensor:
    """The same convolution of a (B, C, cells) grid, without the bias."""
    axes = layer.ndim
    padding = layer.geometry.padding
    if layer.transposed:
        kernel = weight.movedim(-1, 0)  # [in, out, kernel]
        convolve = getattr(functional, f"conv_transpose{axes}d")
        return convolve(grid, kernel, stride=layer.stride, padding=padding)
    convolve = getattr(functional, f"conv{axes}d")
    stride = layer.geometry.stride
    return convolve(grid, weight.movedim(-1, 1), None, stride, padding, tuple(layer.dilation))


def at(grid: Tensor, indices: Tensor) -> Tensor:
    """(M, C) of a (B, C, cells) grid."""
    return grid.movedim(1, -1)[tuple(indices.long().unbind(1))]


@pytest.mark.parametrize("name", LAYERS)
def test_forward_and_gradients_equal_those_of_the_dense_convolution(name: str) -> None:
    layer = make(name, torch.float64)
    x = sparse_input(layer.ndim)

    out = layer(x)
    cotangent = torch.randn_like(out.features)
    found = torch.autograd.grad(out.features, [x.features, *layer.parameters()], cotangent)

    grid = dense(layer, x.dense(), layer.weight)
    assert out.spatial_shape == list(grid.shape[2:])
    wanted = at(grid, out.indices) + layer.bias
    torch.testing.assert_close(out.features, wanted, **tolerances(torch.float64))
    grads = torch.autograd.grad(wanted, [x.features, *layer.parameters()], cotangent)
    for a, b in zip(found, grads, strict=True):
        torch.testing.assert_close(a, b, **tolerances(torch.float64))


@pytest.mark.parametrize("name", LAYERS)
def test_output_cells_are_ascending_and_all_that_the_kernel_reaches(name: str) -> None:
    layer = make(name, torch.float64, bias=False)
    x = sparse_input(layer.ndim)
    out = layer(x)
    if layer.subm:
        assert out.indices is x.indices
        return
    occupied = x.replace_feature(torch.ones_like(x.features)).dense()
    reached = dense(layer, occupied, torch.ones_like(layer.weight))[:, 0] > 0
    assert torch.equal(out.indices, reached.nonzero().int())


@pytest.mark.parametrize("kind", ["SubMConv4d", "SparseConv4d"])
def test_four_axes(kind: str) -> None:
    layer = getattr(spconv, kind)(IN, OUT, 3).double()
    x = sparse_input(4)
    out = layer(x)
    # The first axis as three-dimensional convolutions of its slices.
    grid = x.dense()
    subm = kind.startswith("SubM")
    pad = 1 if subm else 0
    grid = functional.pad(grid, (0,) * 6 + (pad, pad))
    planes = [
        sum(
            functional.conv3d(
                grid[:, :, t + k], layer.weight[:, k].movedim(-1, 1), padding=1 if subm else 0
            )
            for k in range(3)
        )
        for t in range(grid.shape[2] - 2)
    ]
    wanted = at(torch.stack(planes, 2), out.indices) + layer.bias
    torch.testing.assert_close(out.features, wanted, **tolerances(torch.float64))


@pytest.mark.parametrize("name", ["down", "halving", "dilated", "down_2d", "down_1d"])
def test_inverse_is_the_transposed_convolution_at_the_cells_before(name: str) -> None:
    down = make(name, torch.float64, indice_key="down")
    inverse_kind = LAYERS[name][0].replace("SparseConv", "SparseInverseConv")
    up = getattr(spconv, inverse_kind)(OUT, IN, LAYERS[name][1]["kernel_size"], "down").double()
    x = sparse_input(down.ndim)

    middle = down(x)
    middle = middle.replace_feature(middle.features.detach().requires_grad_())
    out = up(middle)
    cotangent = torch.randn_like(out.features)
    found = torch.autograd.grad(out.features, [middle.features, up.weight, up.bias], cotangent)

    assert out.indices is x.indices
    assert out.spatial_shape == x.spatial_shape
    # Every window of the grid of the cells before, without those that leave it.
    extra = [
        size - ((n - 1) * s - 2 * p + d * (k - 1) + 1)
        for size, n, k, s, p, d in zip(
            x.spatial_shape,
            middle.spatial_shape,
            down.kernel_size,
            down.stride,
            down.padding,
            down.dilation,
            strict=True,
        )
    ]
    grid = getattr(functional, f"conv_transpose{down.ndim}d")(
        middle.dense(),
        up.weight.movedim(-1, 0),
        stride=down.stride,
        padding=down.padding,
        output_padding=extra,
        dilation=down.dilation,
    )
    wanted = at(grid, x.indices) + up.bias
    torch.testing.assert_close(out.features, wanted, **tolerances(torch.float64))
    grads = torch.autograd.grad(wanted, [middle.features, up.weight, up.bias], cotangent)
    for a, b in zip(found, grads, strict=True):
        torch.testing.assert_close(a, b, **tolerances(torch.float64))


@pytest.mark.parametrize("kind", ["SubMConv3d", "SparseConv3d"])
def test_a_kernel_of_one_cell_reads_its_weight_as_in_by_out_as_spconv_does(kind: str) -> None:
    layer = getattr(spconv, kind)(IN, OUT, 1).double()
    assert list(layer.weight.shape) == [OUT, 1, 1, 1, IN]
    x = sparse_input(3)
    wanted = x.features @ layer.weight.view(IN, OUT) + layer.bias
    out = layer(x)
    torch.testing.assert_close(out.features, wanted, **tolerances(torch.float64))
    assert out.indices is x.indices


def count_plans(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    built: list[Any] = []
    build = convolution.build_rulebook

    def counting(*args: Any) -> Any:
        built.append(args)
        return build(*args)

    monkeypatch.setattr(convolution, "build_rulebook", counting)
    return built


def test_layers_of_one_key_share_one_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    built = count_plans(monkeypatch)
    net = spconv.SparseSequential(
        spconv.SubMConv3d(IN, 4, 3, indice_key="a"),
        nn.BatchNorm1d(4),
        spconv.SubMConv3d(4, 4, 3, indice_key="a"),
        spconv.SparseConv3d(4, 4, 3, 2, 1, indice_key="down"),
        spconv.SubMConv3d(4, 4, 3, indice_key="b"),
        spconv.SubMConv3d(4, 4, 3, indice_key="b"),
        spconv.SparseInverseConv3d(4, 4, 3, indice_key="down"),
        spconv.SubMConv3d(4, 4, 3, indice_key="a"),
    ).double()
    x = sparse_input(3)
    out = net(x)
    assert len(built) == 3
    assert sorted(out.indice_dict) == ["a", "b", "down"]
    assert x.indice_dict == {}
    assert torch.equal(out.indices, x.indices)


def test_layers_without_a_key_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    built = count_plans(monkeypatch)
    layers = [spconv.SubMConv3d(IN, IN, 3).double() for _ in range(2)]
    layers[1](layers[0](sparse_input(3)))
    assert len(built) == 2


def test_indice_data_says_what_spconv_says() -> None:
    x = sparse_input(3)
    layer = spconv.SparseConv3d(IN, OUT, 3, 2, 1, indice_key="down", bias=False).double()
    out = layer(x)
    data = out.find_indice_pair("down")
    assert data is not None
    assert out.find_indice_pair(None) is None
    assert (data.ksize, data.is_subm) == ([3, 3, 3], False)
    # The pairs, worked out one by one, give the output.
    wanted = torch.zeros(len(out.indices), OUT, dtype=torch.float64)
    weight = layer.weight.flatten(1, 3)
    for tap, count in enumerate(data.indice_pair_num.tolist()):
        assert (data.indice_pairs[:, tap, count:] == -1).all()
        for source, row in data.indice_pairs[:, tap, :count].t().tolist():
            wanted[row] += weight[:, tap] @ x.features[source]
    torch.testing.assert_close(out.features, wanted, **tolerances(torch.float64))


@pytest.mark.parametrize("name", ["subm", "down", "dilated", "transposed", "subm_2d", "down_2d"])
def test_no_cell_at_all_and_a_sample_without_one(name: str) -> None:
    layer = make(name, torch.float32)
    x = sparse_input(layer.ndim, torch.float32)
    empty = spconv.SparseConvTensor(
        torch.zeros(0, IN, requires_grad=True), x.indices[:0], x.spatial_shape, 3
    )
    out = layer(empty)
    assert out.features.shape == (0, OUT)
    assert out.dense().shape == (3, OUT, *out.spatial_shape)
    out.features.sum().backward()
    kept = x.indices[:, 0] == 1
    one = spconv.SparseConvTensor(x.features[kept], x.indices[kept], x.spatial_shape, 3)
    grid = layer(one).dense()
    assert grid.shape[0] == 3
    assert not grid[0].any()
    assert grid[1].any()
    assert not grid[2].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["subm", "down", "one_cell_strided"])
def test_half_precision_features(name: str, dtype: torch.dtype) -> None:
    layer = make(name, torch.float32)
    x = sparse_input(3, torch.float32)
    wanted = layer(x).features
    half = layer(x.replace_feature(x.features.to(dtype)))
    assert half.features.dtype == dtype
    torch.testing.assert_close(half.features.float(), wanted, **tolerances(dtype))
    half.features.sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("kernel", [1, 3])
def test_autocast_casts_the_features(kernel: int) -> None:
    layer = spconv.SubMConv3d(IN, OUT, kernel)
    x = sparse_input(3, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.features.dtype == torch.bfloat16
    torch.testing.assert_close(
        out.features.float(), layer(x).features, **tolerances(out.features.dtype)
    )


def test_weights_start_as_spconv_starts_them() -> None:
    torch.manual_seed(3)
    layer = spconv.SparseConv3d(8, 16, 3)
    bound = 1 / math.sqrt(8 * 27)
    torch.manual_seed(3)
    assert torch.equal(layer.weight, torch.empty(16, 3, 3, 3, 8).uniform_(-bound, bound))
    assert torch.equal(layer.bias, torch.empty(16).uniform_(-bound, bound))


def test_the_largest_number_of_cells_is_recorded() -> None:
    layer = spconv.SparseConv3d(IN, OUT, 3, 2, record_voxel_count=True).double()
    many = len(layer(sparse_input(3)).indices)
    layer(sparse_input(3, density=0.02))
    assert layer.get_max_num_voxels().item() == many
    state = layer.state_dict()
    del state["max_num_voxels_during_training"]
    layer.load_state_dict(state)
    assert layer.get_max_num_voxels().item() == 0
    assert spconv.SubMConv3d(IN, OUT, 3).get_max_num_voxels() is None


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        ("SparseConv3d", {"kernel_size": 3, "groups": 3}, "groups must be 1"),
        ("SubMConv3d", {"kernel_size": 2}, "kernel_size must be odd"),
        ("SparseConv3d", {"kernel_size": 1, "padding": 1}, "padding must be 0"),
        ("SparseConv3d", {"kernel_size": (3, 3)}, "one number an axis is needed, 3"),
        ("SparseInverseConv3d", {"kernel_size": 3, "indice_key": None}, "indice_key must name"),
    ],
)
def test_what_no_layer_can_be(kind: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(spconv, kind)(IN, OUT, **kwargs)


def test_keys_that_clash() -> None:
    x = sparse_input(3, torch.float32)
    first = spconv.SubMConv3d(IN, IN, 3, indice_key="a")(x)
    with pytest.raises(ValueError, match=r"kernel_size must be that of indice_key 'a'"):
        spconv.SubMConv3d(IN, OUT, 5, indice_key="a")(first)
    with pytest.raises(ValueError, match=r"dilation must be that of indice_key 'a'"):
        spconv.SubMConv3d(IN, OUT, 3, dilation=2, indice_key="a")(first)
    with pytest.raises(ValueError, match="shared by submanifold layers only"):
        spconv.SparseConv3d(IN, OUT, 3, indice_key="a")(first)
    with pytest.raises(ValueError, match="must be that of a strided convolution or pool"):
        spconv.SparseInverseConv3d(IN, OUT, 3, indice_key="a")(first)
    with pytest.raises(ValueError, match=r"'b' of \['a'\]"):
        spconv.SparseInverseConv3d(IN, OUT, 3, indice_key="b")(first)
    down = spconv.SparseConv3d(IN, IN, 3, 2, indice_key="d")(first)
    with pytest.raises(ValueError, match=r"spatial_shape must be that of indice_key 'a'"):
        spconv.SubMConv3d(IN, OUT, 3, indice_key="a")(down)
    with pytest.raises(ValueError, match=r"kernel_size must be that of indice_key 'd'"):
        spconv.SparseInverseConv3d(IN, OUT, 2, indice_key="d")(down)
    fewer = down.select_by_index(torch.arange(3))
    fewer.indice_dict = down.indice_dict
    with pytest.raises(ValueError, match=r"cells must be that of indice_key 'd'"):
        spconv.SparseInverseConv3d(IN, OUT, 3, indice_key="d")(fewer)


def test_a_grid_that_vanishes_and_channels_that_differ() -> None:
    x = sparse_input(3, torch.float32)
    with pytest.raises(ValueError, match="the output grid must have a cell along each axis"):
        spconv.SparseConv3d(IN, OUT, 8, 2)(x)
    with pytest.raises(ValueError, match=r"features must be \(N, 5\)"):
        spconv.SubMConv3d(5, OUT, 3)(x)


@pytest.mark.parametrize("dilation", [1, 2])
def test_cells_outside_the_grid_or_there_twice(dilation: int) -> None:
    x = sparse_input(3, torch.float32)
    layer = spconv.SubMConv3d(IN, OUT, 3, dilation=dilation)
    twice = torch.cat([x.indices, x.indices[:1]])
    features = torch.zeros(len(twice), IN)
    with pytest.raises(ValueError, match="unique rows"):
        layer(spconv.SparseConvTensor(features, twice, x.spatial_shape, BATCH))
    outside = x.indices.clone()
    outside[3, 2] = 8
    with pytest.raises(ValueError, match="in row 3"):
        layer(spconv.SparseConvTensor(x.features, outside, x.spatial_shape, BATCH))
