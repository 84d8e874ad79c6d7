"""Point files in every format, against arrays that were written by hand."""

import struct
from pathlib import Path

import numpy as np
import pytest

from anybev.datasets.point_files import read_columns

CLOUD = np.array(
    [[1.5, -2.0, 0.25, 10.0], [30.0, 4.0, -1.0, 200.0], [-7.0, 8.0, 2.0, 0.0]], np.float32
)


def _pcd(storage: str, body: bytes, points: int = 3, fields: str = "x y z intensity") -> bytes:
    count = len(fields.split())
    head = (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE{' 4' * count}\nTYPE{' F' * count}\n"
        f"COUNT{' 1' * count}\nWIDTH {points}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {points}\nDATA {storage}\n"
    )
    return head.encode() + body


def _ply(kind: str, body: bytes, prefix: str = "") -> bytes:
    properties = "".join(f"property float {name}\n" for name in ("x", "y", "z", "intensity"))
    head = f"ply\nformat {kind} 1.0\n{prefix}element vertex 3\n{properties}end_header\n"
    return head.encode() + body


def _text(cloud: np.ndarray) -> bytes:
    return "\n".join(" ".join(str(v) for v in row) for row in cloud).encode()


def _lzf(raw: bytes) -> bytes:
    """Literal runs only, then a reference that repeats the last byte."""
    packed = b""
    for i in range(0, len(raw), 32):
        piece = raw[i : i + 32]
        packed += bytes([len(piece) - 1]) + piece
    return packed


def _compressed(cloud: np.ndarray) -> bytes:
    raw = cloud.T.tobytes()
    packed = _lzf(raw)
    return struct.pack("<II", len(packed), len(raw)) + packed


def _write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _npy(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "a.npy", array, allow_pickle=True)
    return folder / "a.npy"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.bin", CLOUD.tobytes()),
        ("a.pcd", _pcd("ascii", _text(CLOUD))),
        ("a.pcd", _pcd("binary", CLOUD.tobytes())),
        ("a.pcd", _pcd("binary_compressed", _compressed(CLOUD))),
        ("a.PLY", _ply("ascii", _text(CLOUD))),
        ("a.ply", _ply("binary_little_endian", CLOUD.tobytes())),
        ("a.ply", _ply("binary_big_endian", CLOUD.astype(">f4").tobytes())),
    ],
)
def test_every_format_gives_the_same_columns(tmp_path, name: str, content: bytes) -> None:
    columns = read_columns(_write(tmp_path, name, content))
    assert list(columns) == ["x", "y", "z", "intensity"]
    np.testing.assert_array_equal(np.stack(list(columns.values()), 1), CLOUD)
    assert {column.dtype for column in columns.values()} == {np.dtype(np.float32)}


def test_npy_of_any_number_type(tmp_path) -> None:
    for dtype in (np.float64, np.float32, np.int16):
        columns = read_columns(_npy(tmp_path, CLOUD.astype(dtype)[::-1]))
        expected = CLOUD.astype(dtype)[::-1, 0].astype(np.float32)
        np.testing.assert_array_equal(columns["x"], expected)


def test_fields_of_other_kinds_and_counts(tmp_path) -> None:
    dtype = np.dtype([("x", "<f8"), ("n", "<u2", 3), ("y", "<f4"), ("z", "<i2")])
    rows = np.zeros(2, dtype)
    rows["x"], rows["y"], rows["z"] = [1, 2], [3, 4], [5, 6]
    head = (
        "FIELDS x n y z\nSIZE 8 2 4 2\nTYPE F U F I\nCOUNT 1 3 1 1\nWIDTH 2\nHEIGHT 1\nPOINTS 2\n"
        "DATA binary\n"
    )
    columns = read_columns(_write(tmp_path, "a.pcd", head.encode() + rows.tobytes()))
    assert [columns[n].tolist() for n in "xyz"] == [[1, 2], [3, 4], [5, 6]]


def test_packed_references_may_overlap(tmp_path) -> None:
    cloud = np.zeros((50, 4), np.float32)
    raw = cloud.T.tobytes()
    # One literal zero, then references one byte back: the longest is 264 bytes.
    packed, left = b"\x00\x00", len(raw) - 1
    while left:
        length = min(left, 264)
        if length < 3:
            packed += bytes([length - 1]) + bytes(length)
        elif length < 9:
            packed += bytes([(length - 2) << 5, 0])
        else:
            packed += bytes([7 << 5, length - 9, 0])
        left -= length
    content = _pcd("binary_compressed", struct.pack("<II", len(packed), len(raw)) + packed, 50)
    assert not read_columns(_write(tmp_path, "a.pcd", content))["x"].any()


def test_rows_of_4_and_5_are_told_apart(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for width in (4, 5):
        cloud = rng.uniform(-50, 50, (20, width)).astype(np.float32)
        cloud[:, 3:] = np.abs(cloud[:, 3:])
        columns = read_columns(_write(tmp_path, "a.bin", cloud.tobytes()))
        np.testing.assert_array_equal(columns["intensity"], cloud[:, 3])


def test_names_of_columns(tmp_path) -> None:
    path = _write(tmp_path, "a.bin", np.arange(12, dtype=np.float32).tobytes())
    columns = read_columns(path, dims=("y", "X", "z", "intensity", "age", "_"))
    assert columns["x"].tolist() == [1, 7]
    assert columns["age"].tolist() == [4, 10]
    with pytest.raises(ValueError, match=r"dims must name the 4 columns of .*, got 3: x,y,z"):
        read_columns(path, load_dim=4, dims=("x", "y", "z"))
    with pytest.raises(ValueError, match="has rows of 6 numbers, so dims must name them"):
        read_columns(path, load_dim=6)
    with pytest.raises(ValueError, match="columns must differ, got x"):
        read_columns(path, dims=("x", "x", "z"))
    with pytest.raises(ValueError, match="must have columns x, y, z, got x, y, depth"):
        read_columns(path, dims=("x", "y", "depth"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.las", b"x", r"must end in one of .bin, .npy, .pcd, .ply, got '.las'"),
        ("a.bin", b"", "must hold at least one point, got an empty file"),
        ("a.bin", b"1234567", "must say how long its rows are, got no --load-dim and neither"),
        ("a.bin", np.ones(40, "<f4").tobytes(), "and either would do"),
        ("a.npy", b"\x93NUMPY\x01\x00", "must be a whole .npy file"),
        ("a.npy", b"\x93NUMPY\x01\x00\x12\x00{'descr': '<f4', (\n", "must be a whole .npy file"),
        ("a.pcd", b"VERSION 0.7\n", "must start with a header that ends in 'DATA'"),
        ("a.pcd", _pcd("zip", b""), "DATA must be ascii, binary or binary_compressed, got 'zip'"),
        ("a.pcd", b"FIELDS x y\nDATA ascii\n", "must have a whole PCD header"),
        ("a.pcd", _pcd("binary", CLOUD.tobytes()[:-4]), "must hold 3 points of 16 bytes"),
        ("a.pcd", _pcd("ascii", b"1 2 3 4\n5 6"), "must hold 3 rows of 4 numbers"),
        ("a.pcd", _pcd("ascii", b"1 2 3 4 a b c d 9 9 9 9"), "must hold numbers"),
        ("a.pcd", _pcd("binary", b"", points=0), "must hold at least one point, got none"),
        ("a.pcd", _pcd("binary", b"", points=10**9), "must hold at most 2000000 points"),
        ("a.pcd", _pcd("binary", b"", points=-5), "must hold at most 2000000 points, got -5"),
        ("a.pcd", _pcd("binary", bytes(36), fields="a b c"), "must have columns x, y, z, got a"),
        ("a.pcd", _pcd("binary_compressed", bytes(8)), "must hold 48 bytes of points"),
        (
            "a.pcd",
            _pcd("binary_compressed", struct.pack("<II", 2, 48) + b"\x20\x05"),
            "must be packed whole, got: reference before the start",
        ),
        (
            "a.pcd",
            _pcd("binary_compressed", struct.pack("<II", 2, 48) + b"\x00\x05"),
            "must unpack to 48 bytes, got 1",
        ),
        ("a.ply", _ply("ascii", b"", "element face 1\n"), "element face before vertex"),
        ("a.ply", _ply("utf8", b""), "must have a whole PLY header"),
        ("a.ply", b"element vertex 1\nend_header\n", "no ply at its start"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, name, content, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_columns(_write(tmp_path, name, content))


def test_a_wrong_row_length_is_noticed(tmp_path) -> None:
    rng = np.random.default_rng(0)
    cloud = rng.uniform(-50, 50, (20, 5)).astype(np.float32)
    cloud[:, 3:] = np.abs(cloud[:, 3:])
    path = _write(tmp_path, "a.bin", cloud.tobytes())
    with pytest.raises(ValueError, match=r"intensities of 0 or more, got others; try another"):
        read_columns(path, load_dim=4)
    with pytest.raises(ValueError, match=r"whole rows of 7 float32 \(28 bytes\), got 400 bytes"):
        read_columns(path, load_dim=7)
    with pytest.raises(ValueError, match=r"load_dim must be in 3\.\.64, got 2"):
        read_columns(path, load_dim=2)


@pytest.mark.parametrize(
    "array", [np.zeros(5), np.zeros((5, 2)), np.zeros((2, 3), complex), np.array([{}, {}])]
)
def test_arrays_that_are_no_points_are_refused(tmp_path, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be (numbers of shape|a whole .npy file)"):
        read_columns(_npy(tmp_path, array))


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.bin must be an existing file"):
        read_columns(tmp_path / "none.bin")
