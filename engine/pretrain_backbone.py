"""Image backbones trained on pictures of synthetic scenes, the part that nuImages has for nuScenes.

A detector that starts its cameras from nothing learns what they show long after it has learned to
use the lidar. Published models start from a backbone that already tells classes apart in pictures;
this makes such a backbone where only synthetic scenes are at hand: each patch of a picture is to
say which classes it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anybev.datasets.synthetic.camera import Photographer
from anybev.datasets.synthetic.layout import build_world
from anybev.datasets.synthetic.rig import CAMERAS, image_size
from anybev.datasets.synthetic.world import CLASSES, World, key_frame_times
from anybev.device import current_backend
from anybev.engine import checkpoint
from anybev.engine.builder import build_detector

PATCH = 8
#: A patch shows a class fully once this share of it does: most objects are small in the picture.
_FULL_SHARE = 0.25
#: Patches added to each class's count, so that a class that is hardly there does not rule a step.
_SMOOTHING = 10.0


class PatchClassifier(nn.Module):
    """A backbone whose maps vote for the classes that each patch of 8 x 8 pixels shows.

    Args:
        backbone: gives maps at strides of 8, 16, ... pixels.
        channels: of those maps.
    """

    def __init__(self, backbone: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.Conv2d(width, len(CLASSES), 1) for width in channels)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pictures (N, 3, H, W) to logits (N, classes, H / 8, W / 8)."""
        maps = self.backbone(images)
        votes = [head(level) for head, level in zip(self.heads, maps, strict=True)]
        size = votes[0].shape[-2:]
        total: Tensor = votes[0]
        for vote in votes[1:]:
            total = total + nn.functional.interpolate(vote, size)
        return total


class PictureSource:
    """Pictures of worlds at random times, cut as a config's test pipeline cuts them.

    Args:
        worlds: the scenes.
        size: height and width of a picture, multiples of 8.
        resize: of the recorded 1600 x 900 pixels.
        seed: of times and mirroring.
    """

    def __init__(
        self, worlds: Sequence[World], size: tuple[int, int], resize: float, seed: int
    ) -> None:
        width, height = image_size(resize)
        if height < size[0] or width < size[1] or size[0] % PATCH or size[1] % PATCH:
            raise ValueError(
                f"PictureSource: size must be multiples of {PATCH} within {height} x {width}, "
                f"got {size[0]} x {size[1]}"
            )
        self._photographers = [Photographer(world, resize) for world in worlds]
        self._labels = [np.array([o.label for o in world.objects]) for world in worlds]
        self._top, self._left = height - size[0], (width - size[1]) // 2
        self._size = size
        self._rng = np.random.default_rng([seed, 31])

    def round(self) -> tuple[Tensor, Tensor]:
        """The six cameras of one scene at one time.

        Returns:
            Pictures (6, 3, H, W) uint8, and how much each patch shows of each class
            (6, classes, H / 8, W / 8) float32, 0..1.
        """
        scene = int(self._rng.integers(len(self._photographers)))
        t_s = float(self._rng.uniform(0, key_frame_times()[-1]))
        pictures, shares = [], []
        for camera in CAMERAS:
            noise = (int(self._rng.integers(1 << 30)),)
            picture = self._photographers[scene].shoot(camera, t_s, noise)
            image, owner = self._cut(picture.image_rgb), self._cut(picture.owner)
            if self._rng.random() < 0.5:
                image, owner = image[:, ::-1], owner[:, ::-1]
            pictures.append(np.ascontiguousarray(image).transpose(2, 0, 1))
            shares.append(self._shares(owner, self._labels[scene]))
        return torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(shares))

    def _cut(self, picture: np.ndarray) -> np.ndarray:
        height, width = self._size
        return picture[self._top : self._top + height, self._left : self._left + width]

    def _shares(self, owner: np.ndarray, labels: np.ndarray) -> np.ndarray:
        label = np.where(owner >= 0, np.append(labels, -1)[np.maximum(owner, -1)], -1)
        one_hot = label[None] == np.arange(len(CLASSES))[:, None, None]
        height, width = (n // PATCH for n in self._size)
        patches = one_hot.reshape(len(CLASSES), height, PATCH, width, PATCH)
        share = patches.mean((2, 4), dtype=np.float32) / _FULL_SHARE
        return np.asarray(np.minimum(share, np.float32(1)))


def pretrain(
    model_cfg: Mapping[str, Any],
    out: Path,
    *,
    scenes: Sequence[int],
    seed: int,
    steps: int,
    resize: float,
    learning_rate: float = 2e-3,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Train the image backbone of a detector and write its weights.

    Args:
        model_cfg: config of a BEVFusion with cameras.
        out: file for the backbone's ``init_cfg=dict(type="Pretrained", checkpoint=...)``.
        scenes: numbers of the synthetic scenes, as `build_world` takes them.
        seed: of the scenes' data set, and of training.
        steps: of two rounds of the six cameras each.
        resize: of the recorded 1600 x 900 pixels.
        learning_rate: highest of one cycle.
        progress: called with (steps done, steps in all).

    Returns:
        ``loss`` over the last tenth of the steps.

    Raises:
        ValueError: the config has no image backbone, or its sizes do not fit.
    """
    if not model_cfg.get("img_backbone"):
        raise ValueError("pretrain: model must have an img_backbone, got none; try a camera config")
    backend = current_backend()
    torch.manual_seed(seed)
    detector: Any = build_detector(model_cfg).to(backend.device())
    height, width = (int(n) for n in detector.view_transform.image_size)
    source = PictureSource([build_world(seed, n) for n in scenes], (height, width), resize, seed)
    channels = model_cfg["img_neck"]["in_channels"]
    model = PatchClassifier(detector.img_backbone, channels)
    model.to(backend.device()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    losses = []
    for step in range(steps):
        images, shares = (
            torch.cat(pair) for pair in zip(source.round(), source.round(), strict=True)
        )
        batch = detector.data_preprocessor.normalize(images.to(backend.device()))
        with backend.autocast(enabled=backend.fast_amp()):
            logits = model(batch)
        loss = _loss(logits.float(), shares.to(backend.device()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if progress:
            progress(step + 1, steps)
    checkpoint.save(out, detector.img_backbone.state_dict(), meta={"seed": seed, "steps": steps})
    last = torch.stack(losses[-max(1, steps // 10) :])
    return {"loss": float(last.mean())}


def _loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Binary cross-entropy of each class over how much of it is shown, mean over classes.

    A bicycle counts as much as a bus, which fills a hundred times as many patches.
    """
    each = nn.functional.binary_cross_entropy_with_logits(logits, shares, reduction="none")
    shown = shares.sum((0, 2, 3))
    return (each.sum((0, 2, 3)) / (shown + _SMOOTHING)).mean()
