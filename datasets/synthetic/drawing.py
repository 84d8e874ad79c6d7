"""From the solids of a world to the surfaces of one picture (``render.DrawList``).

Everything is in world axes about the camera. A plane n.x = h seen along direction d has the
inverse depth n.d / h, which is affine in the pixel. A face of a box is seen where its plane is the
farthest of those that face the camera and nearer than all others: bounds on the column in a row.
"""

from __future__ import annotations

import numpy as np

from anybev.datasets.synthetic.lidar import GROUND as GROUND_OWNER
from anybev.datasets.synthetic.lidar import SCENERY
from anybev.datasets.synthetic.render import BOUNDS, FACADE, GROUND, PLAIN, ROUND, DrawList
from anybev.datasets.synthetic.road import Road
from anybev.datasets.synthetic.shading import brightness, sun_direction
from anybev.datasets.synthetic.world import BOX, Lighting

# Nearest depth at which corners are projected, and the farthest that is drawn.
_NEAR_M, _FAR_M = 0.1, 5000.0
_TINY = 1e-9
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (0, 1)], np.float64)
# Pairs of corners that an edge of a box joins, both ways.
_EDGES = np.array([(i, i ^ bit) for i in range(8) for bit in (1, 2, 4)])
_FACADE_HEIGHT_M = 3.2
# Size of a facade's window with the wall around it.
_BAY_M, _STOREY_M = 2.8, 3.0
_SHADOW_REACH_M = 60.0


class Solids:
    """Parts of a world placed about a camera.

    Args:
        parts: (M, 9) ``Part`` rows without the colour.
        colors: (M, 3), 0..1.
        owners: (M,) object, or ``lidar.SCENERY``.
        poses: (M, 3) ground pose of each part's owner.
        camera_m: (3,) position of the camera in the world.
    """

    def __init__(
        self,
        parts: np.ndarray,
        colors: np.ndarray,
        owners: np.ndarray,
        poses: np.ndarray,
        camera_m: np.ndarray,
    ) -> None:
        cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
        yaw = poses[:, 2] + parts[:, 3]
        self.x = poses[:, 0] + cos * parts[:, 1] - sin * parts[:, 2] - camera_m[0]
        self.y = poses[:, 1] + sin * parts[:, 1] + cos * parts[:, 2] - camera_m[1]
        self.cos, self.sin = np.cos(yaw), np.sin(yaw)
        self.z0, self.z1 = parts[:, 4] - camera_m[2], parts[:, 5] - camera_m[2]
        self.a, self.b = parts[:, 6], parts[:, 7]
        self.box = parts[:, 0] == BOX
        self.colors, self.owners = colors, owners

    def take(self, index: np.ndarray) -> Solids:
        """Some of them."""
        some = object.__new__(Solids)
        for name, value in vars(self).items():
            setattr(some, name, value[index])
        return some

    def spheres(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres (M, 3) and radii (M,) of balls around them."""
        half = (self.z1 - self.z0) / 2
        wide = np.maximum(self.a, self.b)
        level = np.where(self.box, np.hypot(self.a, self.b), 1.5 * wide)
        center = np.stack([self.x, self.y, self.z0 + half], -1)
        return center, np.hypot(level, half)

    def corners(self) -> np.ndarray:
        """Corners (M, 8, 3) of the upright boxes around them."""
        wide = np.maximum(self.a, self.b)
        along = _CORNERS[:, 0] * np.where(self.box, self.a, wide)[:, None]
        across = _CORNERS[:, 1] * np.where(self.box, self.b, wide)[:, None]
        cos, sin = self.cos[:, None], self.sin[:, None]
        x = self.x[:, None] + along * cos - across * sin
        y = self.y[:, None] + along * sin + across * cos
        z = self.z0[:, None] + _CORNERS[:, 2] * (self.z1 - self.z0)[:, None]
        return np.stack([x, y, z], -1)


def affine(vectors: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Products (..., 3) of vectors with the pixel's direction, as coefficients of 1, u, v."""
    return np.asarray((vectors[..., None, :] * rays).sum(-1))


def screen_windows(
    corners: np.ndarray, rotation: np.ndarray, rays: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Pixels (M, 4) int32 that boxes with corners (M, 8, 3) may touch; empty outside the picture.

    Columns: first row, row after the last, first column, column after the last.
    """
    local = (corners[..., None] * rotation).sum(-2)
    depth = local[..., 2]
    window = np.zeros((len(corners), 4))
    front = depth.min(-1) >= _NEAR_M
    window[front] = _spread(local[front], rays)
    for i in np.flatnonzero(~front & (depth.max(-1) >= _NEAR_M)):
        window[i] = _spread(_cut_near(local[i])[None], rays)[0]
    limit = np.array([height, height, width, width])
    return np.asarray(np.clip(window, 0, limit).astype(np.int32))


def _spread(local: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Unclipped windows (M, 4) of hulls of points (M, K, 3) in camera axes."""
    focal = 1 / np.sqrt((rays[1] ** 2).sum())
    center = -(rays[0] * rays[1:]).sum(-1) * focal * focal
    u, v = (focal * local[..., k] / local[..., 2] + center[k] for k in range(2))
    low = [np.floor(x.min(-1) - 0.5) for x in (v, u)]
    high = [np.ceil(x.max(-1) + 0.5) for x in (v, u)]
    return np.stack([low[0], high[0], low[1], high[1]], -1)


def _cut_near(local: np.ndarray) -> np.ndarray:
    """Corners (K, 3) of the part of a box (8, 3) that lies before the camera."""
    start, end = local[_EDGES[:, 0]], local[_EDGES[:, 1]]
    crossing = (start[:, 2] < _NEAR_M) != (end[:, 2] < _NEAR_M)
    start, end = start[crossing], end[crossing]
    share = (_NEAR_M - start[:, 2:]) / (end[:, 2:] - start[:, 2:])
    return np.concatenate([local[local[:, 2] >= _NEAR_M], start + share * (end - start)])


def draw_list(
    solids: Solids,
    lighting: Lighting,
    road: Road,
    camera_m: np.ndarray,
    rotation: np.ndarray,
    rays: np.ndarray,
    size: tuple[int, int],
) -> DrawList:
    """Surfaces that a picture shows.

    Args:
        solids: everything that stands on the ground.
        lighting: of the scene.
        road: what is painted on the ground.
        camera_m: (3,) position of the camera in the world.
        rotation: (3, 3) camera to world axes.
        rays: see ``render``.
        size: height and width in pixels.
    """
    center, radius = solids.spheres()
    ground = _ground(lighting, road, camera_m, rays, size[0])
    sun = sun_direction(lighting)
    # A ball's shadow on level ground is an ellipse about the shadow of its centre.
    feet = center - ((center[:, 2] + camera_m[2]) / sun[2])[:, None] * sun
    casting = _may_show(feet, radius / sun[2], rays, size)
    casting &= np.hypot(solids.x, solids.y) < _SHADOW_REACH_M
    shadows = _shadows(solids.take(casting), lighting, ground, camera_m, rotation, rays, size)
    solids = solids.take(_may_show(center, radius, rays, size))
    windows = screen_windows(solids.corners(), rotation, rays, *size)
    visible = (windows[:, 0] < windows[:, 1]) & (windows[:, 2] < windows[:, 3])
    boxes, cones = visible & solids.box, visible & ~solids.box
    faces = _faces(solids.take(boxes), windows[boxes], lighting, camera_m, rays)
    flat = [np.concatenate(columns) for columns in zip(ground, shadows, faces, strict=True)]
    planes, bounds, rows, paints, owners = flat
    shapes, round_paints = _cones(solids.take(cones), lighting)
    return DrawList(
        planes,
        bounds,
        rows,
        shapes,
        windows[cones],
        np.concatenate([paints, round_paints]).astype(np.float32),
        np.concatenate([owners, solids.owners[cones]]).astype(np.int32),
    )


def _may_show(
    center: np.ndarray, radius: np.ndarray, rays: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Which balls (M,) are not wholly beyond the left or right edge of the picture."""
    height, width = size
    shown = np.ones(len(center), bool)
    top, down = rays[0], rays[2] * height
    for edge, side in ((top, 1.0), (top + rays[1] * width, -1.0)):
        normal = np.cross(down, edge) * side
        normal /= np.sqrt((normal**2).sum())
        shown &= (center * normal).sum(-1) > -radius
    return shown


_Flat = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _as_bounds(edges: np.ndarray) -> np.ndarray:
    """Bounds (..., 3) of the column from half-planes e0 + e1 u + e2 v >= 0."""
    lean = edges[..., 1]
    lean = np.where(np.abs(lean) < 1e-12, 1e-12, lean)
    return np.stack([np.sign(lean), -edges[..., 0] / lean, -edges[..., 2] / lean], -1)


def _padded(edges: np.ndarray) -> np.ndarray:
    """Half-planes (F, 8, 3), the missing ones true everywhere."""
    full = np.zeros((len(edges), BOUNDS, 3))
    full[:, :, 0], full[:, :, 1] = 1.0, 1e-12
    full[:, : edges.shape[1]] = edges
    return full


def _ground(
    lighting: Lighting, road: Road, camera_m: np.ndarray, rays: np.ndarray, height: int
) -> _Flat:
    plane = affine(np.array([[0.0, 0.0, -1.0 / camera_m[2]]]), rays)
    edge = plane - np.array([1 / _FAR_M, 0.0, 0.0])
    cos, sin = np.cos(road.yaw_rad), np.sin(road.yaw_rad)
    axes = np.array([[cos, sin, 0.0], [-sin, cos, 0.0]])
    start = (axes * (camera_m - [road.x_m, road.y_m, 0.0])).sum(-1)
    paint = np.zeros((1, 14))
    light = brightness(lighting, np.array([0.0, 0.0, 1.0]))
    paint[0, :8] = [GROUND, *(255.0 * light * np.array(lighting.tint_rgb)), 0.3, 9.0, *start]
    paint[0, 8:] = affine(axes, rays).reshape(-1)
    rows = np.array([[0, height]], np.int32)
    owner = np.array([GROUND_OWNER], np.int32)
    return plane, _as_bounds(_padded(edge[:, None])), rows, paint, owner


def _shadows(
    solids: Solids,
    lighting: Lighting,
    ground: _Flat,
    camera_m: np.ndarray,
    rotation: np.ndarray,
    rays: np.ndarray,
    size: tuple[int, int],
) -> _Flat:
    """The ground again, darker, where solids keep the sun off it."""
    plane, _, _, paint, owner = ground
    sun = sun_direction(lighting)
    corners = solids.corners()
    fall = (corners[..., 2] + camera_m[2]) / sun[2]
    feet = corners - fall[..., None] * sun
    windows = screen_windows(feet, rotation, rays, *size)
    visible = (windows[:, 0] < windows[:, 1]) & (windows[:, 2] < windows[:, 3])
    feet, windows = feet[visible], windows[visible]
    lines = _hull_lines(feet[..., :2])
    # A line a x + b y + c on the ground, with x = direction / inverse depth.
    edges = affine(np.concatenate([lines[..., :2], np.zeros((*lines.shape[:2], 1))], -1), rays)
    edges = edges + lines[..., 2:] * plane[0]
    far = np.broadcast_to(plane - np.array([1 / _FAR_M, 0.0, 0.0]), (len(feet), 1, 3))
    count = len(feet)
    dark = np.repeat(paint, count, 0)
    dark[:, 1:4] *= np.sqrt(lighting.ambient) / brightness(lighting, np.array([0.0, 0.0, 1.0]))
    return (
        np.repeat(plane, count, 0),
        _as_bounds(_padded(np.concatenate([edges, far], 1))),
        windows[:, :2],
        dark,
        np.repeat(owner, count),
    )


def _hull_lines(points: np.ndarray) -> np.ndarray:
    """Lines (M, 6, 3) around the hulls of (M, 8, 2) shadow corners: a x + b y + c >= 0 inside.

    The hull of a box's shadow has six sides: one of each pair of corners that an edge joins.
    """
    start, end = points[:, _EDGES[:, 0]], points[:, _EDGES[:, 1]]
    along = end - start
    normal = np.stack([-along[..., 1], along[..., 0]], -1)
    offset = -(normal * start).sum(-1)
    side = (normal[:, :, None] * points[:, None]).sum(-1) + offset[..., None]
    scale = np.sqrt((along**2).sum(-1))
    outside = (side.min(-1) < -1e-7 * np.maximum(scale, 1)) | (scale < 1e-7)
    # Parallel edges coincide at times: order by "on the hull" and keep the first six.
    first = np.argsort(outside, axis=1, kind="stable")[:, :6]
    lines = np.concatenate([normal, offset[..., None]], -1)
    picked = np.take_along_axis(lines, first[..., None], 1)
    idle = np.take_along_axis(outside, first, 1)
    picked[idle] = [0.0, 0.0, 1.0]
    return picked


def _faces(
    solids: Solids, windows: np.ndarray, lighting: Lighting, camera_m: np.ndarray, rays: np.ndarray
) -> _Flat:
    count = len(solids.x)
    zero, one = np.zeros(count), np.ones(count)
    axes = np.stack(
        [
            np.stack([solids.cos, solids.sin, zero], -1),
            np.stack([-solids.sin, solids.cos, zero], -1),
            np.stack([zero, zero, one], -1),
        ],
        1,
    )
    center = np.stack([solids.x, solids.y, (solids.z0 + solids.z1) / 2], -1)
    half = np.stack([solids.a, solids.b, (solids.z1 - solids.z0) / 2], -1)
    middle = (axes * center[:, None]).sum(-1)
    normals = np.concatenate([axes, -axes], 1)
    height = np.concatenate([middle + half, half - middle], 1)
    height = np.where(np.abs(height) < _TINY, _TINY, height)
    inverse = affine(normals / height[..., None], rays)
    # One entry for each face that looks towards the camera.
    solid, face = np.nonzero(height < 0)
    mine = inverse[solid, face]
    towards = np.where(height[solid] < 0, -1.0, 1.0)
    edges = towards[..., None] * (mine[:, None] - inverse[solid])
    edges[np.arange(len(face)), face] = mine - np.array([1 / _FAR_M, 0.0, 0.0])
    axis = face % 3
    along = axes[solid, np.where(axis == 0, 1, 0)]
    across = axes[solid, np.where(axis == 2, 1, 2)]
    facade = (solids.owners[solid] == SCENERY) & (axis != 2)
    facade &= 2 * half[solid, 2] > _FACADE_HEIGHT_M
    paint = np.zeros((len(face), 14))
    paint[:, 0] = np.where(facade, FACADE, PLAIN)
    light = brightness(lighting, normals[solid, face])
    tint = np.array(lighting.tint_rgb)
    paint[:, 1:4] = 255.0 * light[:, None] * solids.colors[solid] * tint
    paint[:, 4] = np.where(solids.owners[solid] == SCENERY, 0.3, 0.08)
    paint[:, 5] = 5.0
    ground = center[solid] - np.stack([zero, zero, solids.z0], -1)[solid] * [0, 0, 1]
    ground[:, 2] = -camera_m[2]
    paint[:, 6] = -(along * ground).sum(-1)
    paint[:, 7] = -(across * ground).sum(-1)
    paint[:, 8:11], paint[:, 11:14] = affine(along, rays), affine(across, rays)
    wide = 2 * half[solid, np.where(axis == 0, 1, 0)][facade]
    high = 2 * half[solid, 2][facade]
    paint[facade, 6] += wide / 2
    # A facade's coordinates count windows: a whole number in each direction.
    bays = np.maximum(np.round(wide / _BAY_M), 1) / wide
    storeys = np.maximum(np.round(high / _STOREY_M), 1) / high
    paint[np.ix_(facade, [6, 8, 9, 10])] *= bays[:, None]
    paint[np.ix_(facade, [7, 11, 12, 13])] *= storeys[:, None]
    paint[facade, 5] *= _BAY_M
    return mine, _as_bounds(_padded(edges)), windows[solid, :2], paint, solids.owners[solid]


def _cones(solids: Solids, lighting: Lighting) -> tuple[np.ndarray, np.ndarray]:
    slope = (solids.b - solids.a) / (solids.z1 - solids.z0)
    base = solids.a - slope * solids.z0
    shapes = np.stack([solids.x, solids.y, solids.z0, solids.z1, base, slope], -1)
    paint = np.zeros((len(slope), 14))
    paint[:, 0] = ROUND
    paint[:, 1:4] = 255.0 * solids.colors * np.array(lighting.tint_rgb)
    scenery = solids.owners == SCENERY
    paint[:, 4] = np.where(scenery & (np.maximum(solids.a, solids.b) > 0.5), 0.6, 0.08)
    paint[:, 5] = 0.5
    return shapes, paint
