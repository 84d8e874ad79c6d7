"""Six camera pictures from file to network input, beside the same steps in Pillow alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL
from PIL import Image

from anybev import envs
from anybev.benchmark.ops.harness import OURS, Context, Row, Side
from anybev.datasets.images import ImageChange, read_image, resample
from anybev.datasets.transforms.images import ImageAug3D

NAME = "image_path"
PILLOW = f"Pillow {PIL.__version__}"

_FINAL_DIM = (256, 704)
_RECORDED = (900, 1600)
_COUNT = 6


def rows(ctx: Context) -> Iterator[Row]:
    """Decoding, resize and crop, and the whole, with the draws of BEVFusion's configs.

    This is the host's work whatever the device: there are rows for the CPU alone.

    Raises:
        RuntimeError: a pixel differs from Pillow's.
    """
    if not ctx.on_cpu:
        return
    with TemporaryDirectory() as folder:
        paths, origin = _pictures(Path(folder))
        notes = {OURS: f"ms for {_COUNT} pictures: {origin}; pixels equal to Pillow's"}
        for case, changes in (("test", _changes(train=False)), ("train", _changes(train=True))):
            for step, sides in _sides(paths, changes):
                if case == "train" and step == "decode":
                    continue
                _check_equal(f"{case} {step}", sides)
                yield from ctx.compare(
                    NAME,
                    case,
                    sides,
                    direction=step,
                    shape={"from": [_COUNT, *_RECORDED, 3], "to": [_COUNT, *_FINAL_DIM, 3]},
                    dtype="uint8",
                    notes=notes,
                )


def _sides(paths: list[Path], changes: list[ImageChange]) -> Iterator[tuple[str, dict[str, Side]]]:
    """Steps by name, each for both sides; everything is called on one thread."""
    # Each side gets its decoded pictures in the form that its decoder leaves them in.
    arrays = [read_image(path, decoder="fast") for path in paths]
    pictures = [_open(path) for path in paths]
    straight = [ImageChange(c.factor, c.resized, c.crop) for c in changes]

    def ours(parts: list[np.ndarray], steps: list[ImageChange]) -> list[np.ndarray]:
        return [resample(p, c, "fast") for p, c in zip(parts, steps, strict=True)]

    def theirs(parts: list[Image.Image], steps: list[ImageChange]) -> list[Image.Image]:
        return [_pillow(p, c) for p, c in zip(parts, steps, strict=True)]

    def read() -> list[np.ndarray]:
        return [read_image(path, decoder="fast") for path in paths]

    def opened() -> list[Image.Image]:
        return [_open(path) for path in paths]

    yield "decode", {OURS: read, PILLOW: opened}
    yield (
        "resize+crop",
        {OURS: lambda: ours(arrays, straight), PILLOW: lambda: theirs(pictures, straight)},
    )
    yield (
        "whole",
        {
            OURS: lambda: ours(read(), changes),
            PILLOW: lambda: [np.asarray(p) for p in theirs(opened(), changes)],
        },
    )


def _open(path: Path) -> Image.Image:
    picture = Image.open(path)
    picture.load()
    return picture


def _pillow(picture: Image.Image, change: ImageChange) -> Image.Image:
    picture = picture.resize(change.resized, Image.Resampling.BICUBIC).crop(change.crop)
    if change.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture.rotate(change.rotation_deg) if change.rotation_deg else picture


def _check_equal(what: str, sides: dict[str, Callable[[], object]]) -> None:
    ours, theirs = (list(side()) for side in sides.values())  # type: ignore[call-overload]
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if not np.array_equal(a, np.asarray(b)):
            raise RuntimeError(
                f"{NAME}: {what}: pixels of picture {i} must be Pillow's, got others"
            )


def _changes(*, train: bool) -> list[ImageChange]:
    resize, turn = ((0.38, 0.55), (-5.4, 5.4)) if train else ((0.48, 0.48), (0.0, 0.0))
    augment = ImageAug3D(_FINAL_DIM, resize, (0.0, 0.0), turn, train, train)
    rng = np.random.default_rng(0)
    return [augment.draw(_RECORDED, rng) for _ in range(_COUNT)]


def _pictures(folder: Path) -> tuple[list[Path], str]:
    """Real pictures when sample data is present, else drawn ones; both labelled."""
    real = sorted((envs.test_data() / "data" / "nuscenes_frame").glob("*__CAM_*.jpg"))
    if len(real) == _COUNT:
        return real, "real nuScenes JPEG, 1600 x 900"
    paths = [folder / f"{i}.jpg" for i in range(_COUNT)]
    y, x = np.mgrid[: _RECORDED[0], : _RECORDED[1]]
    for i, path in enumerate(paths):
        waves = 128 + 60 * np.sin(x[..., None] / [17, 31, 53] + y[..., None] / (29 + i))
        noise = np.random.default_rng(i).normal(0, 4, waves.shape)
        Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8)).save(path, quality=90)
    return paths, "drawn JPEG, 1600 x 900"
