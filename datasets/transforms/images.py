"""Camera pictures: loading, augmentation of each camera by itself, grid masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from anybev.datasets.images.decode import MAX_PIXELS, Decoder, check_decoder, read_image
from anybev.datasets.images.resample import ImageChange, Resampler, check_resampler, resample
from anybev.datasets.points import check_backend
from anybev.datasets.sample import CameraView, Sample


class BEVLoadMultiViewImageFromFiles:
    """Reads the frame's pictures, in the order of ``frame.cameras``.

    Pictures stay uint8, RGB, as recorded; the model normalises them.

    Args:
        to_float32: accepted as in mmdetection3d; pictures stay uint8 either way.
        color_type: ``color`` turns a picture as its EXIF orientation says, ``unchanged`` does not.
        backend_args: None; files are read from disk.
        num_views: how many cameras a frame must have; None takes any number.
        num_ref_frames: earlier frames are not loaded: 0 or less.
        test_mode: accepted as in mmdetection3d; nothing here is random.
        set_default_scale: accepted as in mmdetection3d; nothing depends on it.
        decoder: ``pillow``, or ``fast``: the same pixels by OpenCV's decoder.
        max_pixels: a larger picture is refused.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: Literal["color", "unchanged"] = "unchanged",
        backend_args: None = None,
        num_views: int | None = None,
        num_ref_frames: int = -1,
        test_mode: bool = False,
        set_default_scale: bool = True,
        *,
        decoder: Decoder = "pillow",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        name = "BEVLoadMultiViewImageFromFiles"
        check_backend(name, backend_args)
        if color_type not in ("color", "unchanged"):
            raise ValueError(f"{name}: color_type must be color or unchanged, got {color_type!r}")
        if num_views is not None and num_views < 1:
            raise ValueError(f"{name}: num_views must be None or at least 1, got {num_views}")
        if num_ref_frames > 0:
            raise ValueError(f"{name}: num_ref_frames must be 0 or less, got {num_ref_frames}")
        self.decoder: Decoder = check_decoder(name, decoder)
        self.num_views, self.max_pixels = num_views, max_pixels
        self.upright = color_type == "color"

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Fill ``cameras``.

        Raises:
            FileNotFoundError: a picture is missing.
            ValueError: the frame has no cameras or too few; a picture cannot be used.
        """
        cameras = sample.frame.cameras if sample.frame else ()
        if not cameras:
            raise ValueError(
                "BEVLoadMultiViewImageFromFiles: sample must carry a frame with cameras, got none; "
                "try modality=dict(use_lidar=True, use_camera=True) of the data set"
            )
        if self.num_views not in (None, len(cameras)):
            raise ValueError(
                f"BEVLoadMultiViewImageFromFiles: the frame must have num_views={self.num_views} "
                f"cameras, got {len(cameras)}: {', '.join(c.channel for c in cameras)}"
            )
        sample.cameras = []
        for camera in cameras:
            what = f"image of {camera.channel}"
            image = read_image(
                camera.path,
                decoder=self.decoder,
                max_pixels=self.max_pixels,
                upright=self.upright,
                what=what,
            )
            if camera.size is not None and camera.size != image.shape[:2]:
                raise ValueError(
                    f"{what}: {camera.path} must be {_size(camera.size)} as the info file says, "
                    f"got {_size(image.shape[:2])}"
                )
            view = CameraView(camera.channel, image, camera.cam2img, camera.lidar2cam)
            sample.cameras.append(view)
        return sample


class ImageAug3D:
    """Resizes, crops, mirrors and turns each camera's picture by a draw of its own.

    What was done is in ``img_aug_matrix``. Outside training nothing is random: the middle of
    ``resize_lim`` and ``bot_pct_lim``, the crop centred left to right, no mirror, no turn.

    Args:
        final_dim: (H, W) of the result.
        resize_lim: (low, high) of the factor.
        bot_pct_lim: (low, high) of the part of the resized picture that is cut off at the bottom.
        rot_lim: (low, high) of the turn, degrees.
        rand_flip: mirror left-right with probability one half.
        is_train: draw at random.
        resampler: ``pillow``, or ``fast``: the same pixels by compiled kernels.
    """

    def __init__(
        self,
        final_dim: Sequence[int],
        resize_lim: Sequence[float],
        bot_pct_lim: Sequence[float],
        rot_lim: Sequence[float],
        rand_flip: bool,
        is_train: bool,
        *,
        resampler: Resampler = "pillow",
    ) -> None:
        if np.shape(final_dim) != (2,) or any(n != int(n) or n < 1 for n in final_dim):
            raise ValueError(
                f"ImageAug3D: final_dim must be (height, width) in pixels, got {final_dim}"
            )
        for argument, limits, low, high in (
            ("resize_lim", resize_lim, 0.0, np.inf),
            ("bot_pct_lim", bot_pct_lim, 0.0, 1.0),
            ("rot_lim", rot_lim, -360.0, 360.0),
        ):
            if np.shape(limits) != (2,) or not low <= limits[0] <= limits[1] <= high:
                raise ValueError(
                    f"ImageAug3D: {argument} must be (low, high) within {low:g}..{high:g}, "
                    f"got {limits}"
                )
        self.final_dim = int(final_dim[0]), int(final_dim[1])
        self.resize_lim, self.bot_pct_lim = _pair(resize_lim), _pair(bot_pct_lim)
        self.rot_lim = _pair(rot_lim)
        self.rand_flip, self.is_train = rand_flip, is_train
        self.resampler: Resampler = check_resampler("ImageAug3D", resampler)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Change every picture.

        Raises:
            ValueError: a picture is so small that nothing is left of it.
        """
        for view in sample.cameras:
            change = self.draw(view.image.shape[:2], rng)
            if min(change.resized) < 1:
                raise ValueError(
                    f"ImageAug3D: image of {view.channel} must keep a pixel when resized by "
                    f"{change.factor:g}, got {_size(view.image.shape[:2])}"
                )
            view.image = resample(view.image, change, self.resampler)
            view.img_aug_matrix = change.matrix() @ view.img_aug_matrix
        return sample

    def draw(self, size: tuple[int, ...], rng: np.random.Generator) -> ImageChange:
        """What to do with a picture of ``size`` (H, W)."""
        final_height, final_width = self.final_dim
        factor = self._number(self.resize_lim, rng)
        cut = self._number(self.bot_pct_lim, rng)
        width, height = int(size[1] * factor), int(size[0] * factor)
        top = int((1 - cut) * height) - final_height
        spare = max(0, width - final_width)
        left = int(rng.uniform(0, spare)) if self.is_train else spare // 2
        flip = bool(self.is_train and self.rand_flip and rng.integers(2))
        rotation_deg = float(rng.uniform(*self.rot_lim)) if self.is_train else 0.0
        crop = left, top, left + final_width, top + final_height
        return ImageChange(factor, (width, height), crop, flip, rotation_deg)

    def _number(self, limits: tuple[float, float], rng: np.random.Generator) -> float:
        return float(rng.uniform(*limits) if self.is_train else np.mean(limits))


class GridMask:
    """Blackens a grid of bars or squares in all pictures of a sample (Chen et al. 2020).

    Args:
        use_h: rows of bars.
        use_w: columns of bars; with both, what lies on neither stays.
        max_epoch: the probability grows up to this epoch.
        rotate: the grid is turned by 0 up to this many degrees, exclusive.
        offset: noise in the bars; not supported, pictures are uint8.
        ratio: width of a bar in its period; 1 draws it.
        mode: 1 keeps the bars and blackens the rest.
        prob: of masking a sample; 0 does nothing.
        fixed_prob: ``prob`` at every epoch; else it grows linearly from 0 at epoch 0 to ``prob`` at
            ``max_epoch``.
    """

    def __init__(
        self,
        use_h: bool,
        use_w: bool,
        max_epoch: int,
        rotate: int = 1,
        offset: bool = False,
        ratio: float = 0.5,
        mode: Literal[0, 1] = 0,
        prob: float = 1.0,
        fixed_prob: bool = False,
    ) -> None:
        for argument, value, contract, fine in (
            ("max_epoch", max_epoch, "at least 1", max_epoch >= 1),
            ("rotate", rotate, "at least 1", rotate >= 1),
            ("offset", offset, "False (pictures are uint8)", not offset),
            ("ratio", ratio, "in 0..1", 0 <= ratio <= 1),
            ("mode", mode, "0 or 1", mode in (0, 1)),
            ("prob", prob, "in 0..1", 0 <= prob <= 1),
        ):
            if not fine:
                raise ValueError(f"GridMask: {argument} must be {contract}, got {value}")
        self.use_h, self.use_w, self.rotate = use_h, use_w, rotate
        self.ratio, self.mode = ratio, mode
        self.max_epoch, self.prob, self.fixed_prob = max_epoch, prob, fixed_prob

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Mask every picture alike.

        Raises:
            ValueError: the pictures differ in size or are too small for a grid.
        """
        growth = 1.0 if self.fixed_prob else sample.key.epoch / self.max_epoch
        if not sample.cameras or rng.random() >= self.prob * growth:
            return sample
        shapes = {view.image.shape[:2] for view in sample.cameras}
        if len(shapes) > 1 or min(min(shapes)) < 3:
            raise ValueError(
                "GridMask: images must be of one size, at least 3 x 3, got "
                f"{', '.join(_size(s) for s in sorted(shapes))}"
            )
        keep = self._mask(shapes.pop(), rng)
        for view in sample.cameras:
            view.image = view.image * keep[:, :, None]
        return sample

    def _mask(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """(H, W) uint8, 1 where pixels stay."""
        height, width = shape
        # Half as large again, so that a turned grid still covers the picture.
        rows, columns = int(1.5 * height), int(1.5 * width)
        period = int(rng.integers(2, min(height, width)))
        if self.ratio == 1:
            bar = int(rng.integers(1, period))
        else:
            bar = min(max(int(period * self.ratio + 0.5), 1), period - 1)
        mask = np.ones((rows, columns), np.uint8)
        first_row, first_column = int(rng.integers(period)), int(rng.integers(period))
        if self.use_h:
            mask[_bars(rows, period, first_row, bar), :] = 0
        if self.use_w:
            mask[:, _bars(columns, period, first_column, bar)] = 0
        angle_deg = int(rng.integers(self.rotate))
        if angle_deg:
            mask = np.asarray(Image.fromarray(mask).rotate(angle_deg))
        top, left = (rows - height) // 2, (columns - width) // 2
        mask = mask[top : top + height, left : left + width]
        return 1 - mask if self.mode == 1 else mask


def _bars(length: int, period: int, first: int, bar: int) -> np.ndarray:
    """(length,) bool: on one of the ``length // period`` bars that begin at ``first``."""
    position = np.arange(length) - first
    return (position >= 0) & (position % period < bar) & (position // period < length // period)


def _pair(limits: Sequence[float]) -> tuple[float, float]:
    return float(limits[0]), float(limits[1])


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"
