"""Reads pictures; what is wrong with a file is named."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

#: ``pillow`` decodes with Pillow; ``fast`` takes OpenCV's decoder where it gives the same pixels. A
#: file damaged in the middle may pass the latter and not the former.
Decoder = Literal["pillow", "fast"]

#: A nuScenes picture has 1.4 million pixels; one 40 times that is no camera's.
MAX_PIXELS = 60_000_000
_MAX_BYTES_PER_PIXEL = 4
_FORMATS = ("JPEG", "PNG")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
_JPEG_END = b"\xff\xd9"
_ORIENTATION = 0x112
# What Pillow's readers raise on damaged data, beside OSError.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


class ImageHeader(NamedTuple):
    """What a file says of its picture before it is decoded.

    Attributes:
        width, height: as recorded.
        format: JPEG or PNG.
        orientation: of EXIF: 1 as recorded (or unreadable), 2 to 8 mirrored or turned.
    """

    width: int
    height: int
    format: str
    orientation: int = 1


def check_decoder(name: str, decoder: str) -> Decoder:
    """``decoder`` if it is one.

    Raises:
        ValueError: it is not.
    """
    if decoder not in ("pillow", "fast"):
        raise ValueError(f"{name}: decoder must be pillow or fast, got {decoder!r}")
    return decoder  # type: ignore[return-value]


def read_header(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, what: str = "image"
) -> ImageHeader:
    """Read how large a JPEG or PNG file's picture is, as recorded.

    Args:
        path: the file.
        max_pixels: a larger picture is refused.
        what: start of messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: ``read_image`` would refuse it without decoding.
    """
    path = _existing(path, max_pixels, what)
    what = f"{what}: {path}"
    with _naming_damage(what, path.stat().st_size), _open(path, max_pixels, what) as picture:
        return ImageHeader(*picture.size, str(picture.format), _orientation(picture))


def read_image(
    path: str | Path,
    *,
    decoder: Decoder = "pillow",
    max_pixels: int = MAX_PIXELS,
    upright: bool = True,
    what: str = "image",
) -> np.ndarray:
    """Read a JPEG or PNG file.

    Args:
        path: the file.
        decoder: see ``Decoder``; both give the same pixels.
        max_pixels: a larger picture is refused before it is decoded.
        upright: turn the picture as its EXIF orientation says.
        what: start of messages.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture, too large, truncated or damaged.
    """
    path = _existing(path, max_pixels, what)
    return decode_image(
        path.read_bytes(),
        decoder=decoder,
        max_pixels=max_pixels,
        upright=upright,
        what=f"{what}: {path}",
    )


def decode_image(
    data: bytes,
    *,
    decoder: Decoder = "pillow",
    max_pixels: int = MAX_PIXELS,
    upright: bool = True,
    what: str = "image",
) -> np.ndarray:
    """Decode the content of a JPEG or PNG file.

    Args:
        data: the file's bytes.
        decoder: see ``Decoder``; both give the same pixels.
        max_pixels: a larger picture is refused before it is decoded.
        upright: turn the picture as its EXIF orientation says.
        what: start of messages.

    Returns:
        (H, W, 3) uint8, RGB, writable.

    Raises:
        ValueError: not a picture, too large, truncated or damaged.
    """
    with _naming_damage(what, len(data)), _open(BytesIO(data), max_pixels, what) as picture:
        if upright and picture.getexif().get(_ORIENTATION, 1) != 1:
            picture.load()
            return _pillow(ImageOps.exif_transpose(picture))
        if decoder == "fast" and _is_plain_jpeg(picture, data):
            pixels = _opencv(data)
            if pixels is not None:
                return pixels
        return _pillow(picture)


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation, from the header alone."""
    try:
        # A PNG's own getexif decodes the whole picture for what may follow its pixels.
        found = Image.Image.getexif(picture).get(_ORIENTATION, 1)
    except _DAMAGE:  # nothing that can be read asks for a turn; the pixels may be fine
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _existing(path: str | Path, max_pixels: int, what: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{what}: {path} must be an existing file, got none")
    size = path.stat().st_size
    if size > max_pixels * _MAX_BYTES_PER_PIXEL:
        raise ValueError(
            f"{what}: {path} must hold at most {max_pixels} pixels, got a file of {size} bytes"
        )
    return path


@contextmanager
def _naming_damage(what: str, size: int) -> Iterator[None]:
    """Turn what Pillow raises on a file of ``size`` bytes into errors that name it."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{what} must be a JPEG or PNG picture, got {size} bytes of something else"
        ) from error
    except _Refused:
        raise
    except _DAMAGE as error:
        raise ValueError(f"{what} must be a whole picture, got a damaged one: {error}") from error


class _Refused(ValueError):
    """A sound picture that does not qualify; its message is complete."""


def _open(source: Path | BytesIO, max_pixels: int, what: str) -> Image.Image:
    """The picture with its header read, once its size and its kind are known to be fine."""
    # Pillow has a limit of its own, above ours: its warning must not reach the user first.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            picture = Image.open(source, formats=_FORMATS)
        except Image.DecompressionBombError as error:
            raise _Refused(
                f"{what} must hold at most {max_pixels} pixels, got more: {error}"
            ) from error
    width, height = picture.size
    if width * height > max_pixels:
        picture.close()
        raise _Refused(f"{what} must hold at most {max_pixels} pixels, got {width} x {height}")
    if picture.mode not in _MODES:
        picture.close()
        raise _Refused(f"{what} must have 8 bits a channel, got mode {picture.mode}")
    return picture


def _pillow(picture: Image.Image) -> np.ndarray:
    picture.load()
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    return np.array(picture)


def _is_plain_jpeg(picture: Image.Image, data: bytes) -> bool:
    """Whether OpenCV gives Pillow's pixels, and Pillow would find nothing to complain about."""
    return (
        picture.format == "JPEG"
        and picture.mode in ("RGB", "L")
        # OpenCV fills up a truncated picture without a word.
        and data.endswith(_JPEG_END)
    )


def _opencv(data: bytes) -> np.ndarray | None:
    import cv2  # slow to import, and only this path needs it

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    decoded: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return decoded
