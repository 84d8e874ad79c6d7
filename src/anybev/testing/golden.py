"""Golden packs: recorded inputs and outputs of the reference implementation.

A pack is an ``.npz`` with the exact inputs of one frame under ``input/``, and stages of a model
under ``<model>/<stage>/``: sampled values (``pos``, ``val``, ``shape``, ``stats``) or all of them
(``full``), each with its tolerance (``tol``). Weights are not in it: both sides fill the model by
the rule in `deterministic_weights`.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

Arrays = dict[str, np.ndarray]

# First match multiplies the He standard deviation: metres, intensities and cell numbers are scaled
# down, logits stay unsaturated.
_GAINS = (
    (r"^pts_middle_encoder\.conv_input\.0\.weight$", 0.08),
    (r"^view_transform\.dtransform\.0\.weight$", 0.1),
    (r"position_embedding_head\.0\.weight$", 0.02),
    (r"relative_position_bias_table$", 0.3),
    (r"in_proj_weight$", 0.5),
    (r"^bbox_head\.heatmap_head\.1\.weight$", 0.5),
    (r"^bbox_head\.prediction_heads\.\d+\.\w+\.1\.weight$", 0.4),
)
_KEPT = frozenset(f"view_transform.{name}" for name in ("dx", "bx", "nx", "frustum"))
_SEEDS_TRIED = 1 << 18
_DRAWS = 1000


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) ^ seed))


def _fan_in(key: str, shape: tuple[int, ...]) -> int:
    if key.endswith("relative_position_bias_table"):
        return 2  # the standard deviation is the gain itself
    if key == "pts_neck.deblocks.1.0.weight":
        return shape[0]  # transposed convolution, one input cell for each output cell
    return int(np.prod(shape[1:]))


def deterministic_weight(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray | None:
    """Float64 values of one state-dict entry, a function of its name, shape and ``seed``.

    Returns:
        None where the model's own value stays.
    """
    if key in _KEPT or key.endswith("relative_position_index"):
        return None
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape)
    draw = _generator(key, seed)
    if key.endswith("running_var"):
        return draw.uniform(0.5, 1.5, shape)
    if key.endswith(("running_mean", "bias")):
        return draw.normal(0.0, 0.05, shape)
    if len(shape) == 1:
        return 1.0 + draw.normal(0.0, 0.1, shape)
    gain = next((g for pattern, g in _GAINS if re.search(pattern, key)), 1.0)
    return draw.normal(0.0, gain * np.sqrt(2.0 / _fan_in(key, shape)), shape)


@dataclass(frozen=True)
class PackCameras:
    """Pictures of N cameras.

    Attributes:
        images: (N, H, W, 3) uint8 RGB, resized and cropped.
        cam2img, lidar2img, cam2lidar, img_aug_matrix: (N, 4, 4) float64, as in ``CameraBatch``.
    """

    images: np.ndarray
    cam2img: np.ndarray
    lidar2img: np.ndarray
    cam2lidar: np.ndarray
    img_aug_matrix: np.ndarray


@dataclass(frozen=True)
class PackInputs:
    """What the recorded model was given.

    Attributes:
        points_lidar_m: (P, 5) float32, in order.
        gt_boxes: (G, 9) float32.
        gt_labels: (G,) int64.
        lidar_aug_matrix: (4, 4) float64; points and boxes are already augmented by it.
        cameras: None where the pack has no pictures.
    """

    points_lidar_m: np.ndarray
    gt_boxes: np.ndarray
    gt_labels: np.ndarray
    lidar_aug_matrix: np.ndarray
    cameras: PackCameras | None = None


class GoldenPack:
    """A pack in memory.

    Args:
        arrays: its members.
        name: for messages.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str = "pack") -> None:
        self.arrays = dict(arrays)
        self.name = name

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a pack; nothing in it is unpickled.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no pack.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                return cls({key: archive[key] for key in archive.files}, path.name)
        except (EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: must be a golden pack (.npz), got {error}") from error

    def models(self) -> list[str]:
        """Models the pack has stages of."""
        roots = {key.split("/", 1)[0] for key in self.arrays}
        return sorted(roots & {"lidar_cam", "lidar_only"})

    def array(self, key: str) -> np.ndarray:
        """One member.

        Raises:
            ValueError: the pack has none of this name.
        """
        if key not in self.arrays:
            raise ValueError(f"{self.name}: a golden pack must hold {key}, got none")
        return self.arrays[key]

    def get(self, stage: str, field: str = "full") -> np.ndarray:
        """Member ``<stage>/<field>``."""
        return self.array(f"{stage}/{field}")

    def has(self, stage: str, field: str = "full") -> bool:
        """Whether there is a member ``<stage>/<field>``."""
        return f"{stage}/{field}" in self.arrays

    def stages(self, model: str) -> list[str]:
        """Every recorded stage of a model, as ``<model>/<stage>``."""
        found = (key.rsplit("/", 1) for key in self.arrays if key.startswith(f"{model}/"))
        return sorted({stage for stage, field in found if field in ("shape", "full")})

    @cached_property
    def seed(self) -> int:
        """Seed of the weights, recovered from the positions at which stages were sampled.

        Raises:
            ValueError: no seed below 2^18 draws them.
        """
        stages = [key[: -len("/pos")] for key in sorted(self.arrays) if key.endswith("/pos")]
        # Inputs and targets are sampled with seed 0 in every pack.
        stages = [s for s in stages if "/train." not in s and "/input." not in s]
        if not stages:
            raise ValueError(
                f"{self.name}: a sampled stage must tell the seed, got none; try --seed"
            )
        stage = stages[0]
        size = int(np.prod(self.get(stage, "shape")))
        sampled = set(self.get(stage, "pos").tolist())
        for seed in range(_SEEDS_TRIED):
            if int(_generator(stage, seed).integers(0, size)) in sampled:
                drawn = _generator(stage, seed).integers(0, size, _DRAWS)
                if sampled.issuperset(drawn.tolist()):
                    return seed
        raise ValueError(f"{self.name}: seed must be below {_SEEDS_TRIED}, got none; try --seed")

    def inputs(self) -> PackInputs:
        """The exact inputs.

        Raises:
            ValueError: the rebuilt points differ from the recorded ones.
        """
        key, ages = self.array("input/points_key"), self.array("input/points_dt")
        bits = np.unpackbits(self.array("input/points_repeat"), count=len(key))
        repeated = key[bits.astype(bool)]
        copies = [key] + [repeated] * (len(ages) - 1)
        points = np.concatenate(
            [
                np.column_stack([copy, np.full(len(copy), age, np.float32)])
                for copy, age in zip(copies, ages, strict=True)
            ]
        )
        points = np.ascontiguousarray(points, np.float32)
        checksum, recorded = zlib.crc32(points.tobytes()), int(self.array("input/points_crc32")[0])
        if checksum != recorded:
            raise ValueError(
                f"{self.name}: points must have checksum {recorded}, got {checksum}; try another "
                "copy of the file"
            )
        return PackInputs(
            points_lidar_m=points,
            gt_boxes=self.array("input/gt_boxes").astype(np.float32),
            gt_labels=self.array("input/gt_labels").astype(np.int64),
            lidar_aug_matrix=self.array("input/lidar_aug_matrix"),
            cameras=self._cameras(),
        )

    def _cameras(self) -> PackCameras | None:
        if "input/images_dx" not in self.arrays:
            return None
        # Pictures are stored as differences along a row, modulo 256.
        images = np.cumsum(self.array("input/images_dx"), axis=2, dtype=np.uint8)
        names = ("cam2img", "lidar2img", "cam2lidar", "img_aug_matrix")
        return PackCameras(images, **{name: self.array(f"input/{name}") for name in names})

    def depth_image(self, model: str) -> np.ndarray:
        """The whole recorded depth image (N, 1, H, W) float32, metres; 0 where no point fell.

        Raises:
            ValueError: the pack has none.
        """
        stage = f"{model}/cam.depth_image"
        image = np.zeros(self.get(stage, "shape"), np.float32)
        image.reshape(-1)[self.get(stage, "nz_pos")] = self.get(stage, "nz_val")
        return image


def fill(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Any]:
    """Weights of every key that the rule covers; the others keep the model's value."""
    drawn = ((key, deterministic_weight(key, shape, seed)) for key, shape in shapes.items())
    return {key: value for key, value in drawn if value is not None}
