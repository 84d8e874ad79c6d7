"""Lift and splat against a loop over points and against the lifted volume."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev.device.ops.lift_splat import lift_splat
from anybev.testing.tolerances import tolerances

LOWER_M, CELL_SIZE_M = (-4.0, -4.5, -2.0), (0.5, 0.4, 2.0)


class Case(NamedTuple):
    """Sizes of a problem; ``lift`` makes its inputs."""

    batch_size: int = 2
    cameras: int = 2
    depths: int = 9
    channels: int = 19
    height: int = 18
    width: int = 21
    grid: tuple[int, int, int] = (16, 20, 2)


def setting(case: Case) -> dict[str, Any]:
    return {"lower_m": LOWER_M, "cell_size_m": CELL_SIZE_M, "grid": case.grid}


def inputs(case: Case, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits and geometry; the lower half of each column looks one way, so runs form."""
    torch.manual_seed(seed)
    pictures = case.batch_size, case.cameras
    shape = (*pictures, case.depths + case.channels, case.height, case.width)
    rays = torch.randn(*pictures, case.height, case.width, 3)
    rays[..., case.height // 2 :, :, :2] = rays[..., -1:, :, :2]
    depths = torch.arange(1, case.depths + 1) * 0.4
    return torch.randn(shape) * 2, rays, torch.randn(*pictures, 3), depths


def loop(logits: Tensor, rays: Tensor, origins: Tensor, depths: Tensor, case: Case) -> Tensor:
    """One point after the other: cells in float32, sums in float64."""
    d, (nx, ny, nz) = case.depths, case.grid
    lower, size = np.float32(LOWER_M), np.float32(CELL_SIZE_M)
    out = np.zeros((case.batch_size, nz, case.channels, nx, ny))
    for b, n, v, u in np.ndindex(case.batch_size, case.cameras, case.height, case.width):
        pixel = logits[b, n, :, v, u].double()
        weights, context = pixel[:d].softmax(0).numpy(), pixel[d:].numpy()
        ray, origin = rays[b, n, v, u].numpy(), origins[b, n].numpy()
        for weight, depth in zip(weights, depths.numpy(), strict=True):
            cell = np.trunc((depth * ray + origin - lower) / size)
            if (cell >= 0).all() and (cell < case.grid).all():
                x, y, z = cell.astype(int)
                out[b, z, :, x, y] += weight * context
    return torch.from_numpy(out).flatten(1, 2).float()


def materialised(logits: Tensor, rays: Tensor, origins: Tensor, depths: Tensor) -> Tensor:
    """The lifted volume of one sample of ``Case()``, masked and added up, for autograd."""
    case = Case()
    depth, context = logits[0].split([case.depths, case.channels], 1)
    volume = depth.softmax(1)[:, None] * context[:, :, None]  # (N, C, D, h, w)
    points = depths[:, None, None, None] * rays[0][:, None] + origins[0][:, None, None, None]
    cell = (points - torch.tensor(LOWER_M)) / torch.tensor(CELL_SIZE_M)
    kept = ((cell > -1) & (cell < torch.tensor(case.grid))).all(-1)
    x, y, z = cell[kept].long().unbind(1)
    nx, ny, nz = case.grid
    out = volume.new_zeros(nx * ny * nz, case.channels)
    rows = volume.permute(0, 2, 3, 4, 1)[kept]
    out = out.index_add(0, (x * ny + y) * nz + z, rows)
    return out.view(1, nx, ny, -1).permute(0, 3, 1, 2)


CASES = {
    "general": Case(),
    "whole vectors": Case(1, 2, 16, 80, 32, 5, (16, 20, 1)),
    "many channels": Case(1, 1, 5, 210, 7, 3),
    "one of everything": Case(1, 1, 1, 1, 1, 1, (1, 1, 1)),
    "one depth": Case(1, 1, 1, 3, 16, 33),
    "many depths": Case(1, 1, 130, 2, 40, 2),
    "flat and wide grid": Case(1, 2, 6, 4, 8, 8, (1, 30, 1)),
    "many small pictures": Case(11, 2, 4, 6, 5, 6, (16, 20, 1)),
    "no camera": Case(cameras=0),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_loop(implementation: str, case: Case) -> None:
    arguments = inputs(case)
    actual = lift_splat(*arguments, **setting(case))
    expected = loop(*arguments, case)
    assert actual.shape == expected.shape
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, **tolerances(torch.float32))


def test_an_empty_batch(implementation: str) -> None:
    case = Case(batch_size=0)
    logits, *geometry = inputs(case)
    out = lift_splat(logits.requires_grad_(), *geometry, **setting(case))
    assert out.shape == (0, 38, 16, 20)
    out.sum().backward()
    assert logits.grad is not None
    assert logits.grad.shape == logits.shape


def test_gradient_of_the_lifted_volume(implementation: str) -> None:
    logits, *geometry = inputs(Case(batch_size=1))
    grad = torch.randn(1, 38, 16, 20)
    gradients = []
    for run in (lambda x: lift_splat(x, *geometry, **setting(Case())), materialised):
        leaf = logits.clone().requires_grad_()
        out = run(leaf) if run is not materialised else materialised(leaf, *geometry)
        gradients.append(torch.autograd.grad(out, leaf, grad)[0])
    torch.testing.assert_close(*gradients, **tolerances(torch.float32))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_implementations_agree(case: Case, dtype: torch.dtype, channels_last: bool) -> None:
    logits, *geometry = inputs(case, seed=1)
    logits = logits.to(dtype)
    if channels_last:
        logits = logits.movedim(2, -1).contiguous().movedim(-1, 2)
    arguments = (logits, *geometry, LOWER_M, CELL_SIZE_M, case.grid)
    native = torch.ops.anybev.lift_splat(*arguments)
    reference = torch.ops.anybev.lift_splat_reference(*arguments)
    assert native.dtype == dtype
    torch.testing.assert_close(native, reference, **tolerances(dtype))
    grad = torch.randn_like(reference)
    native = torch.ops.anybev.lift_splat_backward(grad, *arguments)
    reference = torch.ops.anybev.lift_splat_backward_reference(grad, *arguments)
    assert native.stride() == logits.stride()
    torch.testing.assert_close(native, reference, **tolerances(dtype))


def test_the_same_points_in_the_same_cells() -> None:
    """Weight and context are 1, so cells hold counts: many points on and near the borders."""
    torch.manual_seed(2)
    height, width = 64, 200
    logits = torch.ones(1, 1, 2, height, width)
    rays = torch.randint(-40, 41, (1, 1, height, width, 3)).float() * 0.1
    rays += torch.randint(-2, 3, rays.shape) * 1e-7
    arguments = (rays, torch.zeros(1, 1, 3), torch.tensor([1.0]), [-3.0] * 3, [0.1, 0.2, 3.0])
    native = torch.ops.anybev.lift_splat(logits, *arguments, [60, 31, 2])
    reference = torch.ops.anybev.lift_splat_reference(logits, *arguments, [60, 31, 2])
    assert reference.sum() > 5000
    assert torch.equal(native, reference)


def one_point(x: float, y: float, z: float) -> Tensor:
    """What a point with context 1 adds to BEVFusion's grid."""
    ray = torch.tensor([x, y, z]).view(1, 1, 1, 1, 3)
    geometry = ray, torch.zeros(1, 1, 3), torch.ones(1)
    bounds = (-54.0, -54.0, -10.0), (0.3, 0.3, 20.0), (360, 360, 1)
    return lift_splat(torch.ones(1, 1, 2, 1, 1), *geometry, *bounds)


def test_cells_are_truncated_toward_zero(implementation: str) -> None:
    assert one_point(-54.2, -54.29, -29.9)[0, 0, 0, 0] == 1
    assert one_point(53.9, 0.1, 9.9)[0, 0, 359, 180] == 1
    assert one_point(-53.69, -53.71, 0)[0, 0, 1, 0] == 1


@pytest.mark.parametrize(
    "point",
    [(-54.31, 0, 0), (54.1, 0, 0), (0, -54.31, 0), (0, 54.1, 0), (0, 0, -30.1), (0, 0, 10.1)],
)
def test_points_outside_are_dropped(implementation: str, point: tuple[float, ...]) -> None:
    assert one_point(*point).count_nonzero() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38, -1e20])
@pytest.mark.parametrize("what", ["ray", "origin", "depth"])
def test_points_that_are_not_on_the_map_are_dropped(
    implementation: str, what: str, bad: float
) -> None:
    case = Case()
    logits, rays, origins, depths = inputs(case)
    depth_kept = torch.ones(case.depths)
    if what == "ray":
        rays[0, :, 3:9, ::2, 1] = bad
    elif what == "origin":
        origins[0, 1, 0] = bad
    else:
        depths[[0, 4]], depth_kept[[0, 4]] = bad, 0
        rays[..., 0] = rays[..., 0].where(rays[..., 0].abs() > 0.1, 0.0)
    arguments = (logits, rays, origins, depths)
    leaf = logits.clone().requires_grad_()
    out = lift_splat(leaf, *arguments[1:], **setting(case))
    with np.errstate(all="ignore"):
        expected = loop(*arguments, case)
    torch.testing.assert_close(out, expected, **tolerances(torch.float32))
    out.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_cameras_that_see_nothing(implementation: str) -> None:
    logits, rays, origins, depths = inputs(Case())
    leaf = logits.requires_grad_()
    out = lift_splat(leaf, rays, origins + 1000, depths, **setting(Case()))
    out.sum().backward()
    assert out.count_nonzero() == 0
    assert leaf.grad is not None
    assert leaf.grad.count_nonzero() == 0


def test_a_depth_of_minus_infinity_has_no_weight(implementation: str) -> None:
    logits, *geometry = inputs(Case())
    masked = logits.clone()
    masked[:, :, 3] = -math.inf
    without = logits[:, :, [c for c in range(logits.shape[2]) if c != 3]]
    *same, depths = geometry
    expected = lift_splat(without, *same, depths[[0, 1, 2, 4, 5, 6, 7, 8]], **setting(Case()))
    actual = lift_splat(masked, *geometry, **setting(Case()))
    torch.testing.assert_close(actual, expected, **tolerances(torch.float32))


def test_logits_that_are_not_numbers_show(implementation: str) -> None:
    logits, *geometry = inputs(Case())
    broken = logits.clone()
    broken[0, 0, 2] = math.nan
    broken[1, 0, : Case().depths, 0] = -math.inf
    out = lift_splat(broken, *geometry, **setting(Case()))
    assert out[0].isnan().any()
    assert out[1].isnan().any()
    assert not out.isnan().all()


@pytest.mark.parametrize("form", ["channels last", "slice", "expanded"])
def test_memory_formats(implementation: str, form: str) -> None:
    logits, *geometry = inputs(Case())
    if form == "expanded":
        logits = logits[:, :, :, :1].expand_as(logits).contiguous()
        strided = logits[:, :, :, :1].expand_as(logits)
    elif form == "slice":
        strided = torch.stack([logits, logits], -1)[..., 0]
    else:
        strided = logits.movedim(2, -1).contiguous().movedim(-1, 2)
    geometry[0] = geometry[0].transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    actual, expected = (lift_splat(x, *geometry, **setting(Case())) for x in (strided, logits))
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(actual, expected)
    back = [
        torch.ops.anybev.lift_splat_backward(
            torch.ones_like(actual), x, *geometry, *setting(Case()).values()
        )
        for x in (strided, logits)
    ]
    assert torch.equal(*back)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_computed_in_float32(implementation: str, dtype: torch.dtype) -> None:
    logits, *geometry = inputs(Case())
    logits = logits.to(dtype)
    leaves = [logits.clone().requires_grad_(), logits.float().requires_grad_()]
    outs = [lift_splat(leaf, *geometry, **setting(Case())) for leaf in leaves]
    assert outs[0].dtype == torch.float32
    assert torch.equal(*outs)
    for out in outs:
        out.square().sum().backward()
    assert leaves[0].grad is not None
    assert leaves[0].grad.dtype == dtype
    assert torch.equal(leaves[0].grad, leaves[1].grad.to(dtype))  # type: ignore[union-attr]


def test_gradcheck(implementation: str) -> None:
    """Of a few random projections of the result, which tell every cell apart."""
    case = Case(1, 2, 3, 2, 3, 2)
    logits, *geometry = inputs(case)
    weights = torch.randn(6, math.prod(case.grid) * case.channels, dtype=torch.float64)

    def projected(x: Tensor) -> Tensor:
        return weights @ lift_splat(x, *geometry, **setting(case)).flatten()

    assert torch.autograd.gradcheck(projected, logits.double().requires_grad_())
