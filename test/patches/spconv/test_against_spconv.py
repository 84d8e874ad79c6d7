"""The supplied spconv against the real one, whose CPU forward is exact on one thread."""

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from anybev.patches.spconv import pytorch as ours
from anybev.testing.tolerances import tolerances

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("spconv") is None, reason="spconv is not installed: an optional oracle"
)

SHAPES = {1: [40], 2: [9, 8], 3: [9, 8, 7], 4: [4, 5, 6, 3]}
LAYERS: list[tuple[str, dict[str, Any]]] = [
    ("SubMConv3d", {"kernel_size": 3}),
    ("SubMConv3d", {"kernel_size": 3, "dilation": 2}),
    ("SubMConv3d", {"kernel_size": (1, 3, 5)}),
    ("SubMConv3d", {"kernel_size": 1}),
    ("SparseConv3d", {"kernel_size": 1}),
    ("SparseConv3d", {"kernel_size": 1, "stride": 2}),
    ("SparseConv3d", {"kernel_size": 3, "stride": 2, "padding": (0, 1, 1)}),
    ("SparseConv3d", {"kernel_size": 2, "stride": 2}),
    ("SparseConv3d", {"kernel_size": 3, "padding": 1, "dilation": 2, "stride": 2}),
    ("SparseConvTranspose3d", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("SubMConv2d", {"kernel_size": 3}),
    ("SparseConv2d", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("SparseConv1d", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("SubMConv4d", {"kernel_size": 3}),
    ("SparseConv4d", {"kernel_size": 3, "stride": 2, "padding": 1}),
]


@pytest.fixture(scope="module")
def theirs() -> Iterator[ModuleType]:
    """The installed spconv on one thread: with two, its convolution races."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert "spconv" not in sys.modules or "anybev" not in sys.modules["spconv"].__version__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, on import
        import spconv.pytorch

        yield spconv.pytorch
    torch.set_num_threads(threads)


def made(module: ModuleType, kind: str, *args: Any, **kwargs: Any) -> Any:
    """The layer with the same seed, and spconv's kernel for the CPU."""
    torch.manual_seed(1)
    return getattr(module, kind)(*args, algo=module.ConvAlgo.Native, **kwargs)


def inputs(axes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(axes)
    indices = (torch.rand(2, *SHAPES[axes], generator=generator) < 0.3).nonzero().int()
    indices = indices[torch.randperm(len(indices), generator=generator)].contiguous()
    return torch.randn(len(indices), 5, generator=generator), indices


def in_order(x: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells and features, the cells ascending."""
    key = x.indices[:, 0].long()
    for axis, size in enumerate(x.spatial_shape, 1):
        key = key * size + x.indices[:, axis]
    order = key.argsort()
    return x.indices[order], x.features[order]


def assert_same(found: Any, wanted: Any) -> None:
    assert list(found.spatial_shape) == list(wanted.spatial_shape)
    (cells, features), (their_cells, their_features) = in_order(found), in_order(wanted)
    assert torch.equal(cells, their_cells)
    torch.testing.assert_close(features, their_features, **tolerances(torch.float32))


@pytest.mark.parametrize(("kind", "kwargs"), LAYERS)
def test_same_seed_same_weights_same_output(
    theirs: ModuleType, kind: str, kwargs: dict[str, Any]
) -> None:
    axes = int(kind[-2])
    features, indices = inputs(axes)
    outs = []
    for module in (ours, theirs):
        layer = made(module, kind, 5, 6, **kwargs)
        x = module.SparseConvTensor(features, indices, SHAPES[axes], 2)
        with torch.no_grad():
            outs.append(layer(x))
    assert_same(*outs)


@pytest.mark.parametrize(
    "kwargs", [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}]
)
def test_maximum_of_features_of_either_sign(theirs: ModuleType, kwargs: dict[str, int]) -> None:
    features, indices = inputs(3)
    outs = [
        made(module, "SparseMaxPool3d", **kwargs)(
            module.SparseConvTensor(features, indices, SHAPES[3], 2)
        )
        for module in (ours, theirs)
    ]
    assert_same(*outs)


def test_down_and_up_again(theirs: ModuleType) -> None:
    features, indices = inputs(3)
    outs = []
    for module in (ours, theirs):
        x = module.SparseConvTensor(features, indices, SHAPES[3], 2)
        down = made(module, "SparseConv3d", 5, 6, 3, 2, 1, indice_key="d")
        same = made(module, "SubMConv3d", 6, 6, 3, indice_key="s")
        up = made(module, "SparseInverseConv3d", 6, 4, 3, "d")
        with torch.no_grad():
            outs.append(up(same(same(down(x)))))
    assert torch.equal(outs[0].indices, indices)
    assert_same(*outs)


def test_the_names_are_spconvs(theirs: ModuleType) -> None:
    for name in ours.__all__:
        assert hasattr(theirs, name), name
    x = ours.SparseConvTensor(*inputs(3), SHAPES[3], 2)
    y = theirs.SparseConvTensor(*inputs(3), SHAPES[3], 2)
    lacking = {name for name in dir(y) if not name.startswith("_")} - set(dir(x))
    assert lacking == {"dequantize", "q_scale"}
