"""The six cameras: what they see of a world, and their pictures on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anybev.datasets.synthetic import rig
from anybev.datasets.synthetic.drawing import Solids, draw_list
from anybev.datasets.synthetic.lidar import SCENERY
from anybev.datasets.synthetic.render import Raster, render
from anybev.datasets.synthetic.road import road_under
from anybev.datasets.synthetic.shading import light_values
from anybev.datasets.synthetic.world import Part, World
from anybev.files import whole_file

SKY = -4
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Picture:
    """What one camera sees.

    Attributes:
        image_rgb: (H, W, 3) uint8.
        raster: what the renderer drew.
        owners: object, or lidar.SCENERY, lidar.GROUND, of each of the raster's surfaces.
    """

    image_rgb: np.ndarray
    raster: Raster
    owners: np.ndarray

    @property
    def depth_m(self) -> np.ndarray:
        """Depths (H, W) float32 along the optical axis; inf in the sky."""
        with np.errstate(divide="ignore"):
            return np.asarray(1 / self.raster.inverse_depth)

    @property
    def owner(self) -> np.ndarray:
        """Index (H, W) int32 of the object seen, or lidar.SCENERY, lidar.GROUND, SKY."""
        return np.asarray(np.append(self.owners, np.int32(SKY))[self.raster.surface])


class Photographer:
    """Takes pictures of one world.

    Args:
        world: the scene.
        camera_scale: size of the pictures, relative to 1600 x 900.
    """

    def __init__(self, world: World, camera_scale: float = 1.0) -> None:
        rows: list[tuple[int, Part]] = [
            (i, part) for i, o in enumerate(world.objects) for part in o.parts
        ]
        rows += [(SCENERY, part) for part in world.scenery]
        self._world = world
        self._size = rig.image_size(camera_scale)
        self._scale = camera_scale
        self._owners = np.array([owner for owner, _ in rows], np.int32)
        self._parts = np.array([part[:9] for _, part in rows], np.float64).reshape(-1, 9)
        self._colors = np.array([part.color_rgb for _, part in rows], np.float64).reshape(-1, 3)
        self._road = road_under(world.ego)

    def shoot(self, camera: rig.Camera, t_s: float, seed: Sequence[int] = (0,)) -> Picture:
        """The picture that ``camera`` (unscaled) takes of the world at time ``t_s``.

        Args:
            camera: of the rig.
            t_s: seconds from the scene's first key frame.
            seed: of the sensor's noise.
        """
        camera = rig.scaled(camera, self._scale)
        width, height = self._size
        position, rotation = camera_pose(camera, self._world.ego_poses(np.array([t_s]))[0])
        rays = pixel_rays(camera, rotation)
        poses = self._world.object_poses(np.array([t_s]))[:, 0]
        poses = np.concatenate([poses, np.zeros((1, 3))])[self._owners]
        solids = Solids(self._parts, self._colors, self._owners, poses, position)
        lighting = self._world.lighting
        drawing = draw_list(solids, lighting, self._road, position, rotation, rays, (height, width))
        light = light_values(lighting, self._road.curvature, camera.focal_px)
        raster = render(drawing, rays, light, height, width, seed)
        return Picture(raster.image_rgb, raster, drawing.owners)


def camera_pose(camera: rig.Camera, ego_pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position (3,) and rotation (3, 3) of a camera in the world, for a ground pose of the ego."""
    cos, sin = math.cos(ego_pose[2]), math.sin(ego_pose[2])
    x, y, z = camera.position_m
    position = np.array([ego_pose[0] + cos * x - sin * y, ego_pose[1] + sin * x + cos * y, z])
    forward, left, up = rig.camera_rotation(camera)
    return position, np.stack([cos * forward - sin * left, sin * forward + cos * left, up])


def pixel_rays(camera: rig.Camera, rotation: np.ndarray) -> np.ndarray:
    """Direction (3, 3) of pixels as ``render`` wants it."""
    right, down, forward = rotation.T
    u, v = camera.center_px
    focal = camera.focal_px
    return np.stack([forward - (u * right + v * down) / focal, right / focal, down / focal])


def save_jpeg(image_rgb: np.ndarray, path: Path) -> None:
    """Write a picture, whole."""
    from PIL import Image

    with whole_file(path) as stream:
        Image.fromarray(image_rgb).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
