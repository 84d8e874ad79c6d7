"""Depth pictures against a loop over points and cameras."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anybev.device.ops import _native
from anybev.device.ops.rasterize_depth import (
    _CONTRACT,
    _inverse,
    _inverse_on_device,
    rasterize_depth,
)
from anybev.testing.golden import GoldenPack

SIZE = (32, 88)
EYE = torch.eye(4)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def turned(yaw_rad: float, scale: float, shift: tuple[float, float, float]) -> Tensor:
    matrix = torch.eye(4)
    cos, sin = scale * math.cos(yaw_rad), scale * math.sin(yaw_rad)
    matrix[:2, :2] = torch.tensor([[cos, -sin], [sin, cos]])
    matrix[2, 2] = scale
    matrix[:3, 3] = torch.tensor(shift)
    return matrix


def rig() -> tuple[Tensor, Tensor]:
    """Three cameras that look ahead, left and back, pictures scaled to a tenth and turned."""
    projections, pictures = [], []
    for camera, yaw_rad in enumerate((0.0, 1.7, 3.3)):
        # x of a camera is to the right, y down, z ahead; the lidar's are ahead, left, up.
        axes = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
        lidar2cam = axes @ turned(-yaw_rad, 1.0, (0.3 * camera, 0.1, -0.4))
        cam2img = torch.eye(4)
        cam2img[0, 0], cam2img[1, 1], cam2img[0, 2], cam2img[1, 2] = 500, 510, 440, 160
        projections.append(cam2img @ lidar2cam)
        pictures.append(turned(0.02 * camera, 0.1, (camera - 1.0, 0.5, 0)))
        pictures[-1][2, 2] = 1
    return torch.stack(projections), torch.stack(pictures)


def scene(count: int, seed: int = 0, columns: int = 5) -> Inputs:
    """Points all around, some not finite, and an augmented lidar frame."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, columns, generator=generator) * 12
    points[3::50, 0] = math.nan
    points[5::50, 1] = math.inf
    points[7::50, 2] = -math.inf
    points[9::50] = 3e38
    return points, *rig(), turned(0.4, 1.05, (0.3, -0.2, 0.1))


def loop(points: Tensor, lidar2img: Tensor, img_aug: Tensor, lidar_aug: Tensor) -> Tensor:
    """One camera after the other, one point after the other, in float32 scalars."""
    one = np.float32
    out = np.zeros((len(lidar2img), 1, *SIZE), np.float32)
    unturn = np.linalg.inv(lidar_aug[:3, :3].double().numpy()).astype(np.float32)
    for camera, (project, aug) in enumerate(zip(lidar2img.numpy(), img_aug.numpy(), strict=True)):
        for point in points[:, :3].numpy():
            if not np.isfinite(point).all():
                continue
            p = point - lidar_aug[:3, 3].numpy()
            x = [row[0] * p[0] + row[1] * p[1] + row[2] * p[2] for row in unturn]
            y = [r[0] * x[0] + r[1] * x[1] + r[2] * x[2] + r[3] for r in project[:3]]
            if not np.isfinite(y).all():
                continue
            d = min(max(y[2], one(1e-5)), one(1e5))
            q = (y[0] / d, y[1] / d, d)
            u, v = (r[0] * q[0] + r[1] * q[1] + r[2] * q[2] + r[3] for r in aug[:2])
            if 0 <= v < SIZE[0] and 0 <= u < SIZE[1]:
                out[camera, 0, int(v), int(u)] = y[2]
    return torch.from_numpy(out)


def operands(points: Tensor, lidar2img: Tensor, img_aug: Tensor, lidar_aug: Tensor) -> tuple:
    return points, lidar2img, img_aug, lidar_aug[:3, 3], _inverse(lidar_aug), *SIZE


@pytest.mark.filterwarnings("ignore:.*(overflow|invalid value).*:RuntimeWarning")
@pytest.mark.parametrize("count", [0, 1, 3, 4, 401])
def test_equals_the_loop(implementation: str, count: int) -> None:
    inputs = scene(count)
    actual = rasterize_depth(*inputs, SIZE)
    assert actual.shape == (3, 1, *SIZE)
    assert actual.is_contiguous()
    assert torch.equal(actual, loop(*inputs))
    assert count < 401 or (actual != 0).sum() > 50


def test_implementations_agree_to_the_last_bit() -> None:
    arguments = operands(*scene(20_000, seed=1, columns=3))
    native = torch.ops.anybev.rasterize_depth(*arguments)
    assert torch.equal(native, torch.ops.anybev.rasterize_depth_reference(*arguments))


def test_recorded_depth_pictures_of_the_real_frame(implementation: str, test_data: Path) -> None:
    """Every pixel of the reference implementation's pictures, 16,408 of them drawn."""
    file = test_data / "golden" / "pack_a.npz"
    if not file.is_file():
        pytest.skip(f"no golden pack at {file}")
    pack = GoldenPack.load(file)
    names = ("lidar2img", "img_aug_matrix", "lidar_aug_matrix")
    matrices = [torch.from_numpy(pack.array(f"input/{name}")).float() for name in names]
    points = torch.from_numpy(pack.inputs().points_lidar_m)
    stage = "lidar_cam/cam.depth_image"
    recorded = np.zeros(pack.get(stage, "shape"), np.float32)
    recorded.reshape(-1)[pack.get(stage, "nz_pos")] = pack.get(stage, "nz_val")
    actual = rasterize_depth(points, *matrices, (256, 704))
    assert torch.equal(actual, torch.from_numpy(recorded))


def project(points: list[list[float]]) -> Tensor:
    """One camera whose picture is x / z, y / z of the lidar frame."""
    return rasterize_depth(torch.tensor(points), EYE[None], EYE[None], EYE, SIZE)[0, 0]


def test_pixel_is_row_then_column_and_the_value_its_depth(implementation: str) -> None:
    image = project([[2 * 20.9, 2 * 5.2, 2.0]])
    assert image.nonzero().tolist() == [[5, 20]]
    assert image[5, 20] == 2


def test_the_last_point_of_a_pixel_stays(implementation: str) -> None:
    ray = [[20.5 * z, 5.5 * z, z] for z in (9.0, 2.0, 30.0, 7.0)]
    assert project(ray)[5, 20] == 7
    assert project([*ray, [math.nan, 5.5, 1.0], [20.5, 5.5, math.inf]])[5, 20] == 7


@pytest.mark.parametrize(
    ("point", "hits"),
    [
        ([0.0, 0.0, 1.0], True),
        ([-1e-7, 0.0, 1.0], False),
        ([0.0, -1e-7, 1.0], False),
        ([87.99, 31.99, 1.0], True),
        ([88.0, 0.0, 1.0], False),
        ([0.0, 32.0, 1.0], False),
        ([5.0, 5.0, -1.0], False),
        ([5e-5, 5e-5, -1.0], True),
        ([2e6, 2e6, 2e5], True),
    ],
)
def test_borders_and_the_clamp(implementation: str, point: list[float], hits: bool) -> None:
    image = project([point])
    assert (image != 0).sum() == int(hits)
    assert image.sum() == (point[2] if hits else 0)


def test_augmentation_is_taken_back(implementation: str) -> None:
    points, lidar2img, img_aug, lidar_aug = scene(2000)
    points = points[points.abs().amax(1) < 100]
    moved = points.clone()
    moved[:, :3] = points[:, :3] @ lidar_aug[:3, :3].T + lidar_aug[:3, 3]
    plain = rasterize_depth(points, lidar2img, img_aug, EYE, SIZE)
    augmented = rasterize_depth(moved, lidar2img, img_aug, lidar_aug, SIZE)
    # Rounding may move a point across the edge of a pixel.
    assert ((plain - augmented).abs() > 1e-3).sum() <= 0.01 * (plain != 0).sum()


def test_the_inverse_without_waiting_is_the_hosts() -> None:
    generator = torch.Generator().manual_seed(0)
    for number in range(200):
        yaw_rad, scale = torch.rand(2, generator=generator).tolist()
        matrix = turned(6 * yaw_rad - 3, 0.9 + 0.2 * scale, (1.0, 2.0, 3.0))
        if number % 2:
            matrix[:3, :3] = torch.randn(3, 3, generator=generator)
        assert torch.equal(_inverse_on_device(matrix), _inverse(matrix))


def test_nothing_waits_for_the_lidar_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    *inputs, lidar_aug = scene(100)
    expected = rasterize_depth(*inputs, lidar_aug, SIZE)
    monkeypatch.setattr(f"{rasterize_depth.__module__}._UNWAITING", ("cpu",))
    monkeypatch.delattr(f"{rasterize_depth.__module__}._inverse")
    assert torch.equal(rasterize_depth(*inputs, lidar_aug, SIZE), expected)
    for bad in (torch.zeros(4, 4), EYE * math.nan):
        image = rasterize_depth(*inputs, bad.requires_grad_(), SIZE)
        assert image.isnan().all()
        assert not image.requires_grad


def test_non_contiguous(implementation: str) -> None:
    points, lidar2img, img_aug, lidar_aug = scene(100)
    expected = rasterize_depth(points, lidar2img, img_aug, lidar_aug, SIZE)
    strided = [value.mT.contiguous().mT for value in (points, lidar2img, img_aug, lidar_aug)]
    assert not any(value.is_contiguous() for value in strided)
    assert torch.equal(rasterize_depth(*strided, SIZE), expected)


def test_no_camera(implementation: str) -> None:
    points, _, _, lidar_aug = scene(10)
    none = torch.zeros(0, 4, 4)
    assert rasterize_depth(points, none, none, lidar_aug, SIZE).shape == (0, 1, *SIZE)


def test_threads_do_not_change_a_bit(set_threads: Callable[[int], None]) -> None:
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(rasterize_depth(*scene(5000), SIZE))
    assert torch.equal(*results)


def test_autocast_changes_nothing(implementation: str) -> None:
    inputs = scene(100)
    expected = rasterize_depth(*inputs, SIZE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rasterize_depth(*inputs, SIZE), expected)


def test_no_gradient(implementation: str) -> None:
    inputs = [value.requires_grad_() for value in scene(100)]
    assert not rasterize_depth(*inputs, SIZE).requires_grad


def test_forced_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_OPS", "rasterize_depth=reference")
    assert _CONTRACT.overload() is torch.ops.anybev.rasterize_depth_reference.default


@pytest.mark.parametrize("name", ["rasterize_depth", "rasterize_depth_reference"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(name: str, requires_grad: bool) -> None:
    points, *rest = operands(*scene(40))
    arguments = (points.requires_grad_(requires_grad), *rest)
    torch.library.opcheck(getattr(torch.ops.anybev, name).default, arguments)


NAMES = ("points_lidar_m", "lidar2img", "img_aug_matrix", "lidar_aug_matrix")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_refuses_dtypes(name: str, dtype: torch.dtype) -> None:
    arguments = dict(zip(NAMES, scene(4), strict=True))
    arguments[name] = arguments[name].to(dtype)
    with pytest.raises(TypeError, match=f"{name} must be float32, got float"):
        rasterize_depth(**arguments, image_size=SIZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points_lidar_m": torch.zeros(4, 2)}, r"points_lidar_m must be \(P, >=3\), got \(4, 2\)"),
        ({"lidar2img": torch.eye(4)}, r"lidar2img must be \(N, 4, 4\), got \(4, 4\)"),
        ({"lidar2img": torch.zeros(3, 3, 4)}, r"lidar2img must be \(N, 4, 4\), got \(3, 3, 4\)"),
        ({"img_aug_matrix": EYE[None]}, r"img_aug_matrix must be \(3, 4, 4\), got \(1, 4, 4\)"),
        ({"lidar_aug_matrix": EYE[None]}, r"lidar_aug_matrix must be \(4, 4\), got \(1, 4, 4\)"),
        ({"lidar_aug_matrix": torch.zeros(4, 4)}, "lidar_aug_matrix must be finite and invertible"),
        ({"lidar_aug_matrix": EYE * math.nan}, "lidar_aug_matrix must be finite and invertible"),
        ({"img_aug_matrix": torch.zeros(3, 4, 4, device="meta")}, "must be on cpu, got meta"),
        ({"image_size": (32,)}, r"image_size must be a height and a width in .*, got \[32\]"),
        ({"image_size": (0, 88)}, r"image_size must be a height and a width in .*, got \[0, 88\]"),
    ],
)
def test_refuses(change: dict, message: str) -> None:
    arguments = {**dict(zip(NAMES, scene(4), strict=True)), "image_size": SIZE, **change}
    with pytest.raises(ValueError, match=message):
        rasterize_depth(**arguments)


@pytest.mark.skipif(_native.load() is not None, reason=str(_native.load()))
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(4, 2), r"points_lidar_m must be \(P, 3 or more\), got \[4, 2\]"),
        (0, torch.zeros(4), r"points_lidar_m must be \(P, 3 or more\), got \[4\]"),
        (1, torch.eye(4), r"lidar2img and img_aug_matrix must be \(N, 4, 4\), got \[4, 4\]"),
        (2, EYE[None], r"lidar2img and img_aug_matrix must be .* and \[1, 4, 4\]"),
        (3, torch.zeros(2), r"lidar_shift_m must be \(3,\) .*, got \[2\]"),
        (4, torch.eye(2), r"lidar_unturn \(3, 3\), got \[3\] and \[2, 2\]"),
        (5, 0, "height and width must be 1 and more, got 0 and 88"),
    ],
)
def test_the_kernel_trusts_no_shape(place: int, value: object, message: str) -> None:
    points, lidar2img, img_aug, _ = scene(4)
    arguments = [points, lidar2img, img_aug, torch.zeros(3), torch.eye(3), *SIZE]
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        torch.ops.anybev.rasterize_depth(*arguments)
