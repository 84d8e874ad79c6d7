"""Pictures: reading them, and resizing, cropping and turning them as Pillow does."""

from anybev.datasets.images.decode import MAX_PIXELS, Decoder, decode_image, read_image
from anybev.datasets.images.resample import ImageChange, Resampler, resample

__all__ = [
    "MAX_PIXELS",
    "Decoder",
    "ImageChange",
    "Resampler",
    "decode_image",
    "read_image",
    "resample",
]
