"""The renderer of ``csrc/host/render*.cpp`` in numpy, for machines without compiled kernels.

The same formulas in the same precision, one surface at a time; ``render`` describes the arguments.
"""

from __future__ import annotations

import numpy as np

from anybev.datasets.synthetic.render import FACADE, GROUND, DrawList, Raster

F32 = np.float32


def render_numpy(
    drawing: DrawList,
    rays: np.ndarray,
    light: np.ndarray,
    texture: np.ndarray,
    noise: np.ndarray,
    noise_at: np.ndarray,
    height: int,
    width: int,
) -> Raster:
    """Draw one picture."""
    inverse_depth = np.zeros((height, width), F32)
    surface = np.full((height, width), -1, np.int32)
    for i in range(len(drawing.planes)):
        _polygon(drawing, i, inverse_depth, surface)
    for i in range(len(drawing.cones)):
        _cone(drawing, i, rays, inverse_depth, surface)
    color = _shade(drawing, rays, light, texture, inverse_depth, surface)
    offsets = noise_at[:, None, :] + np.arange(width)[None, :, None]
    color = color + F32(light[12]) * noise[offsets] + F32(0.5)
    image = np.clip(color, F32(0), F32(255)).astype(np.uint8)
    return Raster(image, inverse_depth, surface)


def _polygon(drawing: DrawList, index: int, inverse_depth: np.ndarray, surface: np.ndarray) -> None:
    width = inverse_depth.shape[1]
    p0, p1, p2 = drawing.planes[index]
    first, last = drawing.rows[index]
    v = np.arange(first, last) + 0.5
    side, offset, slope = drawing.bounds[index].T
    limits = offset + slope * v[:, None]
    lower = np.where(side > 0, limits, 0.5).max(1, initial=0.5)
    upper = np.where(side > 0, width - 0.5, limits).min(1, initial=width - 0.5)
    begin, end = np.ceil(lower - 0.5), np.floor(upper - 0.5) + 1
    column = np.arange(width)
    inside = (column >= begin[:, None]) & (column < end[:, None])
    u = column.astype(F32) + F32(0.5)
    here = (p0 + p2 * v).astype(F32)[:, None] + F32(p1) * u
    rows = slice(first, last)
    nearer = inside & (here >= inverse_depth[rows])
    inverse_depth[rows][nearer] = here[nearer]
    surface[rows][nearer] = index


def _cone(
    drawing: DrawList, index: int, rays: np.ndarray, inverse_depth: np.ndarray, surface: np.ndarray
) -> None:
    x, y, z0, z1, base, slope = drawing.cones[index]
    top, bottom, left, right = drawing.windows[index]
    window = (slice(top, bottom), slice(left, right))
    u, v = np.arange(left, right) + 0.5, (np.arange(top, bottom) + 0.5)[:, None]
    dx, dy, dz = (rays[0, k] + rays[1, k] * u + rays[2, k] * v for k in range(3))
    lead = x * x + y * y - base * base
    nearest = np.zeros(dx.shape)
    if lead > 0:
        rise = slope * dz
        linear = x * dx + y * dy + base * rise
        root = linear * linear - lead * (dx * dx + dy * dy - rise * rise)
        side = (linear + np.sqrt(np.maximum(root, 0))) * (1 / lead)
        hit = (root >= 0) & (side > 0) & (dz >= z0 * side) & (dz <= z1 * side)
        nearest[hit] = side[hit]
    cap_z = z1 if z1 < 0 else max(z0, 0.0)
    if cap_z != 0:
        cap = dz / cap_z
        reach = (base + slope * cap_z) * cap
        hit = (cap > nearest) & ((dx - x * cap) ** 2 + (dy - y * cap) ** 2 <= reach * reach)
        nearest[hit] = cap[hit]
    here = nearest.astype(F32)
    nearer = (nearest > 0) & (here >= inverse_depth[window])
    inverse_depth[window][nearer] = here[nearer]
    surface[window][nearer] = len(drawing.planes) + index


def _shade(
    drawing: DrawList,
    rays: np.ndarray,
    light: np.ndarray,
    texture: np.ndarray,
    inverse_depth: np.ndarray,
    surface: np.ndarray,
) -> np.ndarray:
    """Colours (H, W, 3) float32 before the sensor's noise."""
    height, width = surface.shape
    horizon, zenith = light[5:8].astype(F32), light[8:11].astype(F32)
    v, u = np.mgrid[:height, :width].astype(F32) + F32(0.5)
    low, step = rays[0] + rays[2] * v[:, :1, None].astype(np.float64), rays[1].astype(F32)
    direction = low.astype(F32) + step * u[..., None]
    rise = np.clip(F32(1.6) * direction[..., 2:], F32(0), F32(1))
    color = horizon + (zenith - horizon).astype(F32) * rise
    solid = surface >= 0
    flat = solid & (surface < len(drawing.planes))
    color[flat] = _flat(
        drawing.paints[surface[flat]], u[flat], v[flat], inverse_depth[flat], light, texture
    )
    curved = solid & ~flat
    index = surface[curved]
    color[curved] = _round(
        drawing.paints[index],
        drawing.cones[index - len(drawing.planes)].astype(F32),
        direction[curved],
        inverse_depth[curved],
        light,
        texture,
    )
    depth = F32(1) / inverse_depth[solid]
    share = (depth / (depth + F32(light[11])))[:, None]
    color[solid] = color[solid] + share * (horizon - color[solid])
    return np.asarray(color)


def _flat(
    paint: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    inverse_depth: np.ndarray,
    light: np.ndarray,
    texture: np.ndarray,
) -> np.ndarray:
    kind = paint[:, 0]
    depth = F32(1) / inverse_depth
    along, across = (
        depth * (paint[:, k] + paint[:, k + 2] * v + paint[:, k + 1] * u) + paint[:, offset]
        for k, offset in ((8, 6), (11, 7))
    )
    rough = _texture_at(texture, along * paint[:, 5], across * paint[:, 5])
    gain = F32(1) + paint[:, 4] / (F32(1) + F32(0.04) * depth) * rough
    color = paint[:, 1:4].copy()
    on_ground = kind == GROUND
    color[on_ground] *= _ground(along[on_ground], across[on_ground], depth[on_ground], light)
    a, b = _fraction(along), _fraction(across)
    window = (kind == FACADE) & (a > F32(0.3)) & (a < F32(0.7))
    window &= (b > F32(0.35)) & (b < F32(0.8))
    gain[window] *= F32(0.62)
    return np.asarray(color * gain[:, None])


def _round(
    paint: np.ndarray,
    cone: np.ndarray,
    direction: np.ndarray,
    inverse_depth: np.ndarray,
    light: np.ndarray,
    texture: np.ndarray,
) -> np.ndarray:
    depth = F32(1) / inverse_depth
    nx, ny = (depth * direction[:, k] - cone[:, k] for k in range(2))
    z = depth * direction[:, 2]
    inverse = F32(1) / np.maximum(np.sqrt(nx * nx + ny * ny), F32(1e-6))
    nx, ny = nx * inverse, ny * inverse
    ambient, sun, sun_x, sun_y = light[:4].astype(F32)
    lit = np.sqrt(ambient + sun * np.maximum(nx * sun_x + ny * sun_y, F32(0)))
    rough = _texture_at(
        texture,
        (nx + F32(2) * ny) * F32(12) * paint[:, 5],
        z * F32(12) * paint[:, 5],
    )
    gain = lit * (F32(1) + paint[:, 4] / (F32(1) + F32(0.04) * depth) * rough)
    return np.asarray(paint[:, 1:4] * gain[:, None])


def _texture_at(texture: np.ndarray, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Two octaves of the noise picture, -1..1."""
    total = np.zeros(along.shape, F32)
    for scale in (F32(1), F32(0.13)):
        row = (along * scale + F32(65536)).astype(np.int32) & 255
        column = (across * scale + F32(65536)).astype(np.int32) & 255
        total += texture[row, column].astype(F32) - F32(128)
    return np.asarray(total * F32(1 / 256))


def _fraction(x: np.ndarray) -> np.ndarray:
    return np.asarray(x - ((x + F32(4096)).astype(np.int32) - 4096).astype(F32))


def _ground(x: np.ndarray, y: np.ndarray, depth: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Albedo (P, 3) of the ground at positions in the road's frame."""
    curvature, focal_px = light[13:15].astype(F32)
    travelled, aside = x, y
    if curvature != 0:
        radius, sign = F32(1) / curvature, F32(np.sign(curvature))
        aside = radius - sign * np.sqrt(x * x + (radius - y) * (radius - y))
        travelled = radius * np.arctan2(sign * x, sign * (radius - y))
    from_middle = np.abs(aside)
    blur = F32(0.02) + F32(1.5) * depth / focal_px

    def line(distance: np.ndarray, half_width: float) -> np.ndarray:
        return np.asarray(np.clip((F32(half_width) - np.abs(distance)) / blur + F32(0.5), 0, 1))

    paved = np.clip((from_middle - F32(8.4)) / blur + F32(0.5), F32(0), F32(1))
    yard = np.clip((from_middle - F32(13.6)) / blur + F32(0.5), F32(0), F32(1))
    dash = _fraction(travelled * F32(1 / 9)) < F32(0.4)
    white = line(from_middle - F32(3.5), 0.08) * dash + line(from_middle - F32(7), 0.08)
    color = np.tile(np.array([0.33, 0.33, 0.34], F32), (len(x), 1))
    for share, paint in (
        (paved, (0.56, 0.54, 0.51)),
        (yard, (0.41, 0.42, 0.33)),
        (line(from_middle - F32(8.45), 0.1), (0.66, 0.66, 0.64)),
        (white, (0.85, 0.85, 0.85)),
        (line(from_middle - F32(0.15), 0.06), (0.8, 0.65, 0.2)),
    ):
        color += share[:, None] * (np.array(paint, F32) - color)
    return np.asarray(color)
