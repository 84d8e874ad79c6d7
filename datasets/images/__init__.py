"""Pictures: reading them, and resizing, cropping and turning them as Pillow does."""

from anybev.datasets.images.decode import (
    MAX_PIXELS,
    Decoder,
    ImageHeader,
    decode_image,
    read_header,
    read_image,
)
from anybev.datasets.images.resample import ImageChange, Resampler, resample

__all__ = [
    "MAX_PIXELS",
    "Decoder",
    "ImageChange",
    "ImageHeader",
    "Resampler",
    "decode_image",
    "read_header",
    "read_image",
    "resample",
]
