"""The stand-in of mx_driving: what it refuses, and its convolutions against dense ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from anybev.testing.fake_mx_driving import Binding, ContractError


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32).npu()


def pool(mx: Binding, **changed: object) -> object:
    arguments: dict[str, object] = {
        "depth": None,
        "feat": torch.ones(2, 8).npu(),
        "ranks_depth": None,
        "ranks_feat": None,
        "ranks_bev": ints(0, 3),
        **dict.fromkeys("bd", 1),
        **dict.fromkeys("hw", 2),
    }
    return mx.npu_bev_pool_v3(*(arguments | changed).values())


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"extra": 1}, "10 arguments, the wheel takes 9"),
        ({"b": 1.0}, "argument 5 is 1.0, must be int"),
        ({"b": True}, "argument 5 is True, must be int"),
        ({"feat": None}, "argument 1 is None, must be Tensor"),
        ({"feat": torch.ones(2, 8)}, "argument 1 is on cpu"),
        ({"feat": torch.ones(2, 8).half().npu()}, r"kernel BEVPoolV3 takes no \['float16'"),
        ({"ranks_bev": ints(0, 3).long()}, r"takes no \['float32', 'int64'\]"),
        ({"feat": torch.ones(2, 12).npu()}, "12 channels"),
        ({"feat": torch.ones(2, 368).npu()}, "368 channels"),
        ({"ranks_bev": ints(0, 4)}, r"ranks_bev must be in \[0, 4\), got 0 to 4"),
        ({"ranks_bev": ints(-1, 0)}, "got -1 to 0"),
        ({"feat": torch.ones(3, 8).npu()}, r"feat \(3, 8\)"),
    ],
)
def test_pooling_is_refused(mx: Binding, changed: dict[str, object], why: str) -> None:
    pool(mx)
    with pytest.raises(ContractError, match=f"^npu_bev_pool_v3: .*{why}"):
        pool(mx, **changed)


def _mixed(mx: Binding) -> None:
    features, weight = torch.ones(1, 8).npu().half(), torch.ones(1, 1, 1, 8, 8).npu()
    mx.npu_sparse_matmul(features, weight, ints(0, 1), ints(0), ints(0, 0, 0, 0).view(1, 4))


CALLS: dict[str, tuple[Callable[[Binding], object], str]] = {
    "two dtypes": (_mixed, "SparseMatmul takes no"),
    "30 bits": (lambda mx: mx.unique_voxel(ints(1, 1 << 30)), "2\\^30"),
    "11 bits": (lambda mx: mx.point_to_voxel(ints(0, 2048, 0)[None], [], [], "XYZ"), "2048"),
    "seven columns": (lambda mx: mx.nms3d(torch.ones(2, 5).npu(), 0.5), r"boxes \(2, 5\)"),
    "9 columns": (
        lambda mx: mx.npu_gaussian(
            torch.ones(2, 7).npu(), 1, 0.1, 2, 1.0, 1.0, 0.0, 0.0, 4, 4, True, True, False, 2
        ),
        r"boxes \(2, 7\)",
    ),
    "floats": (
        lambda mx: mx.hard_voxelize(torch.ones(2, 3).npu(), [1, "1", 1], [0.0] * 6, 1, 1, "XYZ"),
        "argument 1 is",
    ),
    "earlier release": (
        lambda mx: mx.npu_subm_sparse_conv3d_v3(*[ints(0)] * 12),
        "12 arguments, the wheel takes 13",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_refused(mx: Binding, name: str) -> None:
    call, why = CALLS[name]
    with pytest.raises(ContractError, match=why):
        call(mx)
    assert mx.calls == []


def _scattered(rows: Tensor, coords: Tensor, shape: tuple[int, ...]) -> Tensor:
    dense = torch.zeros(2, *shape, rows.shape[1])
    dense[tuple(coords.long().t())] = rows
    return dense.permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 1, 1)])
def test_submanifold_convolution_is_a_dense_one_read_at_its_sites(
    mx: Binding, draw: Generator, kernel: tuple[int, ...]
) -> None:
    from mx_driving.ops.sparse_functional import indice_subm_conv

    shape = (5, 4, 3)
    coords = torch.rand(2, *shape, generator=draw).lt(0.3).nonzero().int().contiguous()
    features = torch.randn(len(coords), 4, generator=draw)
    weight = torch.randn(*kernel, 4, 8, generator=draw)
    ones, zeros = [1, 1, 1], [0, 0, 0]
    setting = (list(shape), 8, 2, list(kernel), ones, zeros, ones, 1, None)
    tensors = features.npu(), coords.npu(), weight.npu()
    out, _, table = indice_subm_conv(*tensors, None, *setting)
    again, _, _ = indice_subm_conv(*tensors, table, *setting)
    padding = [k // 2 for k in kernel]
    dense = torch.nn.functional.conv3d(
        _scattered(features, coords, shape), weight.permute(4, 3, 0, 1, 2), padding=padding
    )
    b, x, y, z = coords.long().unbind(1)
    torch.testing.assert_close(out.cpu(), dense[b, :, x, y, z], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again, out)


def test_strided_convolution_is_a_dense_one_read_where_inputs_reach(
    mx: Binding, draw: Generator
) -> None:
    from mx_driving.ops.sparse_functional import indice_conv

    shape, out_shape, stride, padding = (6, 5, 4), (3, 3, 1), [2, 2, 2], [1, 1, 0]
    coords = torch.rand(2, *shape, generator=draw).lt(0.1).nonzero().int().contiguous()
    features = torch.randn(len(coords), 8, generator=draw)
    weight = torch.randn(3, 3, 3, 8, 16, generator=draw)
    out, sites, offset, _, _ = indice_conv(
        features.npu(),
        coords.npu(),
        weight.npu(),
        list(out_shape),
        16,
        2,
        [3, 3, 3],
        stride,
        padding,
        [1, 1, 1],
        1,
        None,
    )
    dense = torch.nn.functional.conv3d(
        _scattered(features, coords, shape),
        weight.permute(4, 3, 0, 1, 2),
        stride=stride,
        padding=padding,
    )
    b, x, y, z = sites.cpu().long().unbind(1)
    torch.testing.assert_close(out.cpu(), dense[b, :, x, y, z], rtol=1e-5, atol=1e-5)
    dense[b, :, x, y, z] = 0
    assert dense.count_nonzero() == 0  # no other output is reached
    assert int(offset[0]) > 0  # pairs without an output come first, as they do there
    linear = (b * 3 + x) * 3 + y
    assert (linear.diff() > 0).all()
