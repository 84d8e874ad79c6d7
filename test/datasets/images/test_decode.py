"""Reading of pictures: both decoders, and everything that is refused."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from anybev.datasets.images import decode, decode_image, read_header, read_image

DECODERS = ["pillow", "fast"]


def _encoded(image, mode="RGB", kind="JPEG", **options):
    stream = BytesIO()
    Image.fromarray(image).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def _png(width, height):
    """A file that says it is a picture of this size, with next to nothing in it."""

    def chunk(name, data):
        tail = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + tail

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"quality": 30, "subsampling": 0},
        {"quality": 75, "subsampling": 1},
        {"progressive": True},
        {"restart_marker_blocks": 3},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"kind": "PNG"},
        {"kind": "PNG", "mode": "L"},
        {"kind": "PNG", "mode": "P"},
        {"kind": "PNG", "mode": "1"},
    ],
)
def test_pixels_are_pillows(picture, decoder, options):
    data = _encoded(picture(61, 83), **options)
    got = decode_image(data, decoder=decoder)
    np.testing.assert_array_equal(got, np.asarray(Image.open(BytesIO(data)).convert("RGB")))
    assert got.shape == (61, 83, 3)
    assert got.flags.writeable


def test_real_pictures_are_the_same_by_both_decoders(test_data):
    for path in sorted((test_data / "data" / "nuscenes_frame").glob("*__CAM_*.jpg"))[:2]:
        got = read_image(path, decoder="fast")
        np.testing.assert_array_equal(got, read_image(path))
        np.testing.assert_array_equal(got, np.asarray(Image.open(path)))


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_picture_is_turned_upright_unless_told_otherwise(picture, decoder):
    image = picture(40, 60)
    exif = Image.Exif()
    for orientation, expected in ((6, (60, 40)), (1, (40, 60))):
        exif[0x112] = orientation
        data = _encoded(image, exif=exif.tobytes())
        assert decode_image(data, decoder=decoder).shape[:2] == expected
        assert decode_image(data, decoder=decoder, upright=False).shape[:2] == (40, 60)


def test_transparency_raises_no_warning(picture):
    data = _encoded(picture(20, 30), mode="P", kind="PNG", transparency=bytes(range(256)))
    assert decode_image(data).shape == (20, 30, 3)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (lambda jpeg: b"", "must be a JPEG or PNG picture, got 0 bytes of something else"),
        (lambda jpeg: b"<svg/>" * 9, "must be a JPEG or PNG picture, got 54 bytes"),
        (lambda jpeg: jpeg[:300], "must be a whole picture|must be a JPEG or PNG"),
        (
            lambda jpeg: jpeg[: len(jpeg) // 2],
            "must be a whole picture, got a damaged one: .*trunc",
        ),
        (lambda jpeg: jpeg[:-200], "must be a whole picture, got a damaged one: .*truncated"),
        (lambda jpeg: _png(40, 30), "must be a whole picture, got a damaged one"),
        (lambda jpeg: _png(9000, 8000), r"must hold at most 60000000 pixels, got 9000 x 8000"),
        (lambda jpeg: _png(10**5, 10**5), "must hold at most 60000000 pixels, got"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, picture, decoder, content, match):
    path = tmp_path / "front.jpg"
    path.write_bytes(content(_encoded(picture(90, 160))))
    with pytest.raises(ValueError, match=rf"^image of CAM_FRONT: .*front\.jpg ({match})"):
        read_image(path, decoder=decoder, what="image of CAM_FRONT")


def test_sixteen_bits_are_refused(tmp_path):
    path = tmp_path / "depth.png"
    Image.fromarray(np.full((9, 9), 4000, np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"depth\.png must have 8 bits a channel, got mode I;16"):
        read_image(path)


def test_sizes_are_capped(tmp_path, picture):
    path = tmp_path / "a.jpg"
    path.write_bytes(_encoded(picture(30, 40)))
    assert read_image(path, max_pixels=1200).shape == (30, 40, 3)
    with pytest.raises(ValueError, match=r"a\.jpg must hold at most 1199 pixels, got 40 x 30"):
        read_image(path, max_pixels=1199)
    with pytest.raises(ValueError, match=r"at most 9 pixels, got a file of \d+ bytes"):
        read_image(path, max_pixels=9)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image: .*none\.jpg must be an existing file"):
        read_image(tmp_path / "none.jpg")


def test_pillow_names_the_fault_that_opencv_keeps_to_itself(picture, monkeypatch):
    monkeypatch.setattr(decode, "_opencv", lambda data: None)
    image = picture(20, 30)
    assert decode_image(_encoded(image), decoder="fast").shape == image.shape


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_headers_tell_the_orientation(tmp_path, kind: str) -> None:
    exif = Image.Exif()
    for orientation in (1, 3, 6):
        exif[0x112] = orientation
        Image.new("RGB", (30, 20)).save(tmp_path / "a", kind, exif=exif)
        assert read_header(tmp_path / "a") == (30, 20, kind, orientation)
    Image.new("RGB", (30, 20)).save(tmp_path / "a", kind, exif=b"Exif\0\0damaged")
    assert read_header(tmp_path / "a").orientation == 1


def test_headers_tell_the_size_without_decoding(tmp_path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png(30, 20))  # nothing that could be decoded
    assert read_header(path) == (30, 20, "PNG", 1)
    with pytest.raises(ValueError, match="must hold at most 599 pixels, got 30 x 20"):
        read_header(path, max_pixels=599)
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png must be a JPEG or PNG picture, got 10 bytes"):
        read_header(path)
    with pytest.raises(FileNotFoundError, match="must be an existing file"):
        read_header(tmp_path / "b.png")
