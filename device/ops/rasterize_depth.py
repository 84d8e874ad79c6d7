"""Lidar points drawn into the pictures as sparse depth."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anybev.device.ops._checks import check_dtype, check_min_columns, check_same_device
from anybev.device.ops._contract import Contract

# Devices that compute in float64 and on which a look at the lidar augmentation would hold up all
# that is queued.
_UNWAITING = ("cuda",)

# Depth by which a point's pixel is divided: the far end keeps it finite, the near one throws points
# beside and behind a camera far out of its picture.
_NEAREST_M, _FARTHEST_M = 1e-5, 1e5


def _transform(matrix: Tensor, x: Tensor, y: Tensor, z: Tensor, rows: int) -> tuple[Tensor, ...]:
    """First ``rows`` rows of matrix (N, 3+, 4) @ (x, y, z, 1); each sum in the kernels' order."""
    m = matrix[:, :, :, None]
    return tuple(m[:, r, 0] * x + m[:, r, 1] * y + m[:, r, 2] * z + m[:, r, 3] for r in range(rows))


def _reference(
    points_lidar_m: Tensor,
    lidar2img: Tensor,
    img_aug_matrix: Tensor,
    lidar_shift_m: Tensor,
    lidar_unturn: Tensor,
    height: int,
    width: int,
) -> Tensor:
    cameras, count = lidar2img.shape[0], points_lidar_m.shape[0]
    x, y, z = (points_lidar_m[:, :3] - lidar_shift_m).t()
    zero = lidar_unturn.new_zeros((3, 1))
    unturn = torch.cat([lidar_unturn, zero], 1)[None]
    x, y, z = (row[0] for row in _transform(unturn, x, y, z, rows=3))
    pixel_x, pixel_y, depth_m = _transform(lidar2img, x, y, z, rows=3)
    divisor = depth_m.clamp(_NEAREST_M, _FARTHEST_M)
    u, v = _transform(img_aug_matrix, pixel_x / divisor, pixel_y / divisor, divisor, rows=2)
    # Comparisons are False for NaN. A coordinate that is not finite makes the depth so.
    hit = (u >= 0) & (u < width) & (v >= 0) & (v < height) & depth_m.isfinite()

    image = depth_m.new_zeros(cameras * height * width)
    camera, point = hit.nonzero(as_tuple=True)
    target = (camera * height + v[hit].long()) * width + u[hit].long()
    winner = torch.full(image.shape, -1, dtype=torch.int64, device=image.device)
    winner.scatter_reduce_(0, target, camera * count + point, "amax")
    drawn = (winner >= 0).nonzero().squeeze(1)
    image[drawn] = depth_m.flatten()[winner[drawn]]
    return image.view(cameras, 1, height, width)


def _fake(
    points_lidar_m: Tensor,
    lidar2img: Tensor,
    img_aug_matrix: Tensor,
    lidar_shift_m: Tensor,
    lidar_unturn: Tensor,
    height: int,
    width: int,
) -> Tensor:
    return points_lidar_m.new_empty((lidar2img.shape[0], 1, height, width))


_CONTRACT = Contract(
    "rasterize_depth",
    "(Tensor points_lidar_m, Tensor lidar2img, Tensor img_aug_matrix, Tensor lidar_shift_m, "
    "Tensor lidar_unturn, int height, int width) -> Tensor",
    reference=_reference,
    fake=_fake,
)
_CONTRACT.register_no_gradient()
_CONTRACT.register_autocast(torch.float32)


def _check_matrix(name: str, value: Tensor, device: torch.device, cameras: int | None) -> None:
    check_dtype("rasterize_depth", name, value, torch.float32)
    expected = (4, 4) if cameras is None else (cameras, 4, 4)
    if tuple(value.shape) != expected:
        shown = str(expected) if cameras is None or name != "lidar2img" else "(N, 4, 4)"
        raise ValueError(f"rasterize_depth: {name} must be {shown}, got {tuple(value.shape)}")
    check_same_device("rasterize_depth", name, value, device)


def _inverse(lidar_aug_matrix: Tensor) -> Tensor:
    """Inverse of the turning and scaling part, solved in float64 on the host and rounded once."""
    inverse: Tensor
    matrix = lidar_aug_matrix.detach()[:3, :3].cpu().double()
    inverse, info = torch.linalg.inv_ex(matrix)
    if info.any() or not inverse.isfinite().all():
        raise ValueError(
            "rasterize_depth: lidar_aug_matrix must be finite and invertible, got "
            f"{lidar_aug_matrix.tolist()}"
        )
    return inverse.float().to(lidar_aug_matrix.device)


def _inverse_on_device(lidar_aug_matrix: Tensor) -> Tensor:
    """The same by cofactors, where the matrix is; not finite for one that has no inverse."""
    m = lidar_aug_matrix.detach()[:3, :3].double()
    cofactors = torch.linalg.cross(m.roll(-1, 0), m.roll(-2, 0))
    inverse: Tensor = (cofactors / (m[0] * cofactors[0]).sum()).t().float()
    return inverse


def rasterize_depth(
    points_lidar_m: Tensor,
    lidar2img: Tensor,
    img_aug_matrix: Tensor,
    lidar_aug_matrix: Tensor,
    image_size: Sequence[int],
) -> Tensor:
    """Draw the points of one sample into each of its pictures: depth where a point falls, else 0.

    In float32 and in this order: x = L^-1 (p - t) takes the augmentation of the lidar frame back;
    (a, b, z) = lidar2img x; z' = z clamped to [1e-5, 1e5]; (u, v) = the image augmentation of
    (a / z', b / z', z'). A point hits where 0 <= v < H and 0 <= u < W, its pixel is (trunc v,
    trunc u) and its value is z, not z'. Where points share a pixel, the last one in point order
    stays (not the nearest). Points with a coordinate that is not finite are skipped.

    Args:
        points_lidar_m: (P, >=3) float32: x, y, z in metres, then anything; augmented lidar frame.
        lidar2img: (N, 4, 4) float32, lidar frame before augmentation to pixels of the recorded
            picture, times depth.
        img_aug_matrix: (N, 4, 4) float32, recorded pixels to pixels of the network's picture.
        lidar_aug_matrix: (4, 4) float32, what augmentation did to the lidar frame.
        image_size: height and width of the network's picture, pixels.

    Returns:
        (N, 1, H, W) float32, metres along each camera's axis; no gradient. The same bits from
        every CPU implementation and number of threads; the CUDA kernel does the same arithmetic in
        the same order. L^-1 is solved in float64 and rounded once: on the host by elimination, on
        CUDA by cofactors, which could differ in a last bit.

    Raises:
        TypeError: a tensor is not float32.
        ValueError: a shape, a device or the image size is out of its contract, or the lidar
            augmentation cannot be undone. CUDA does not wait for the device to learn that: there
            the whole result is NaN instead.

    Source: depth input of BEVFusion's camera branch (mmdetection3d), where "last" is what indexed
    assignment does on the CPU and undefined on CUDA.
    """
    check_dtype("rasterize_depth", "points_lidar_m", points_lidar_m, torch.float32)
    check_min_columns("rasterize_depth", "points_lidar_m", points_lidar_m, 3, rows="P")
    cameras = lidar2img.shape[0] if isinstance(lidar2img, Tensor) and lidar2img.dim() else 0
    device = points_lidar_m.device
    _check_matrix("lidar2img", lidar2img, device, cameras)
    _check_matrix("img_aug_matrix", img_aug_matrix, device, cameras)
    _check_matrix("lidar_aug_matrix", lidar_aug_matrix, device, None)
    if len(image_size) != 2 or not all(0 < n < 1 << 24 for n in image_size):
        raise ValueError(
            "rasterize_depth: image_size must be a height and a width in [1, 2^24), got "
            f"{list(image_size)}"
        )
    height, width = (int(n) for n in image_size)
    waits = device.type not in _UNWAITING
    unturn = _inverse(lidar_aug_matrix) if waits else _inverse_on_device(lidar_aug_matrix)
    shift_m = lidar_aug_matrix[:3, 3]
    image: Tensor = _CONTRACT(
        points_lidar_m, lidar2img, img_aug_matrix, shift_m, unturn, height, width
    )
    return image if waits else image.masked_fill_(~unturn.isfinite().all(), torch.nan)
