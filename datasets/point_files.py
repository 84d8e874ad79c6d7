"""Point clouds of users in the formats they come in: .bin, .npy, .pcd and .ply.

Every reader gives named columns. Sizes are checked against the header before anything of that size
is made, and what is wrong with a file is named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError

import numpy as np

from anybev.datasets.points import FAR_OUT_M, MAX_POINTS

Columns = dict[str, np.ndarray]

SUFFIXES = (".bin", ".npy", ".pcd", ".ply")
#: What rows without names hold, by their length.
ROW_NAMES: dict[int, tuple[str, ...]] = {
    3: ("x", "y", "z"),
    4: ("x", "y", "z", "intensity"),
    5: ("x", "y", "z", "intensity", "ring"),
}
_MAX_FILE_BYTES = 1 << 30
_MAX_HEADER_BYTES = 1 << 16
_MAX_COLUMNS = 64
_PCD_TYPES = {"F": "f", "I": "i", "U": "u"}
_PLY_TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1"},
    **{"short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2"},
    **{"int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4"},
    **{"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"},
}


def read_columns(
    path: Path, *, load_dim: int | None = None, dims: Sequence[str] | None = None
) -> Columns:
    """Read a point file.

    Args:
        path: .bin (rows of float32), .npy (P, C), .pcd (ascii, binary, binary_compressed), .ply
            (ascii, binary).
        load_dim: numbers in a row of a .bin; None finds out whether they are 4 or 5.
        dims: names of the columns of a .bin or .npy; by their number when None (``ROW_NAMES``).

    Returns:
        Name in lower case -> (P,) float32; at least x, y, z, and one point.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown suffix, damage, a wrong count of columns, too large, empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"points: {path} must be an existing file, got none")
    suffix, size = path.suffix.lower(), path.stat().st_size
    if suffix not in SUFFIXES:
        raise ValueError(f"points: {path} must end in one of {', '.join(SUFFIXES)}, got {suffix!r}")
    if size > _MAX_FILE_BYTES:
        raise ValueError(f"points: {path} must be at most {_MAX_FILE_BYTES} bytes, got {size}")
    if size == 0:
        raise ValueError(f"points: {path} must hold at least one point, got an empty file")
    if suffix == ".bin":
        columns = _read_bin(path, load_dim, dims)
    elif suffix == ".npy":
        columns = _named(path, _read_npy(path), dims)
    else:
        with path.open("rb") as stream:
            reader = _read_pcd if suffix == ".pcd" else _read_ply
            columns = reader(path, stream.read())
    missing = [name for name in "xyz" if name not in columns]
    if missing:
        raise ValueError(
            f"points: {path} must have columns x, y, z, got {', '.join(columns) or 'none'}"
        )
    if not columns["x"].size:
        raise ValueError(f"points: {path} must hold at least one point, got none")
    return columns


def _check_count(path: Path, count: int) -> int:
    if not 0 <= count <= MAX_POINTS:
        raise ValueError(f"points: {path} must hold at most {MAX_POINTS} points, got {count}")
    return count


def _read_bin(path: Path, load_dim: int | None, dims: Sequence[str] | None) -> Columns:
    if load_dim is None:
        load_dim = len(dims) if dims else _guess_row(path)
    if not 3 <= load_dim <= _MAX_COLUMNS:
        raise ValueError(f"points: load_dim must be in 3..{_MAX_COLUMNS}, got {load_dim}")
    size, row = path.stat().st_size, 4 * load_dim
    if size % row:
        raise ValueError(
            f"points: {path} must hold whole rows of {load_dim} float32 ({row} bytes), got {size} "
            f"bytes ({size % row} over); try another --load-dim"
        )
    _check_count(path, size // row)
    columns = _named(path, np.fromfile(path, "<f4").reshape(-1, load_dim), dims)
    if not _plausible(columns):
        raise ValueError(
            f"points: {path} must hold rows of {load_dim} numbers with coordinates within "
            f"{FAR_OUT_M:.0f} m and intensities of 0 or more, got others; try another --load-dim "
            "or --dims"
        )
    return columns


def _guess_row(path: Path) -> int:
    """4 or 5 numbers a row: the one that leaves nothing over and makes sense of the columns."""
    size = path.stat().st_size
    fits = [n for n in (5, 4) if size % (4 * n) == 0 and size // (4 * n) <= MAX_POINTS]
    raw = np.fromfile(path, "<f4") if fits else np.empty(0, np.float32)
    good = [n for n in fits if _plausible(_named(path, raw.reshape(-1, n), None))]
    if len(good) != 1:
        state = "either would do" if good else "neither 4 nor 5 makes sense of its numbers"
        raise ValueError(
            f"points: {path} ({size} bytes) must say how long its rows are, got no --load-dim and "
            f"{state}; try --load-dim 4 (KITTI), --load-dim 5 (nuScenes) or --dims"
        )
    return good[0]


def _plausible(columns: Columns) -> bool:
    """Whether finite values look like coordinates and intensities: a wrong row mixes them."""
    xyz = np.stack([columns[name] for name in "xyz" if name in columns])
    with np.errstate(invalid="ignore"):
        far = (np.abs(xyz) > FAR_OUT_M) & np.isfinite(xyz)
        intensity = columns.get("intensity", xyz[:0])
        return not far.any() and not (intensity < 0).any()


def _named(path: Path, rows: np.ndarray, dims: Sequence[str] | None) -> Columns:
    names = tuple(dims) if dims else ROW_NAMES.get(rows.shape[1])
    if names is None:
        raise ValueError(
            f"points: {path} has rows of {rows.shape[1]} numbers, so dims must name them, got "
            "nothing; try --dims x,y,z,intensity,..."
        )
    if len(names) != rows.shape[1]:
        raise ValueError(
            f"points: dims must name the {rows.shape[1]} columns of {path}, got {len(names)}: "
            f"{','.join(names)}"
        )
    return _float_columns(path, names, [rows[:, i] for i in range(len(names))])


def _float_columns(path: Path, names: Sequence[str], values: Sequence[np.ndarray]) -> Columns:
    lower = [name.lower() for name in names]
    twice = {name for name in lower if lower.count(name) > 1 and name != "_"}
    if twice:
        raise ValueError(f"points: {path}: columns must differ, got {', '.join(sorted(twice))}")
    with np.errstate(over="ignore"):
        return {
            name: np.ascontiguousarray(value, np.float32)
            for name, value in zip(lower, values, strict=True)
        }


def _read_npy(path: Path) -> np.ndarray:
    try:
        # mmap: the header is checked against the file's size before memory is taken.
        rows = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:
        raise ValueError(f"points: {path} must be a whole .npy file, got: {error}") from error
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or not 3 <= rows.shape[1] <= _MAX_COLUMNS:
        raise ValueError(
            f"points: {path} must be numbers of shape (P, 3..{_MAX_COLUMNS}), got {rows.dtype} of "
            f"shape {rows.shape}"
        )
    _check_count(path, rows.shape[0])
    return np.array(rows)


def _header(path: Path, content: bytes, last_line: bytes) -> tuple[list[list[str]], int]:
    """Words of the header's lines, and where the data starts."""
    found = re.search(rb"^" + last_line + rb"[^\n]*\n", content[:_MAX_HEADER_BYTES], re.MULTILINE)
    if found is None:
        raise ValueError(
            f"points: {path} must start with a header that ends in {last_line.decode()!r}, got none"
        )
    text = content[: found.end()].decode("ascii", errors="replace")
    return [line.split() for line in text.splitlines() if line.strip()], found.end()


def _rows(path: Path, body: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    if len(body) < count * dtype.itemsize:
        raise ValueError(
            f"points: {path} must hold {count} points of {dtype.itemsize} bytes as its header "
            f"says, got {len(body)} bytes; fetch the file again"
        )
    return np.frombuffer(body, dtype, count)


def _ascii_rows(path: Path, body: bytes, width: int, count: int) -> np.ndarray:
    words = body.split(None, count * width)[: count * width]
    try:
        numbers = np.array(words, "S").astype(np.float64)
    except ValueError as error:
        raise ValueError(f"points: {path} must hold numbers, got: {error}") from error
    if numbers.size != count * width:
        raise ValueError(
            f"points: {path} must hold {count} rows of {width} numbers as its header says, got "
            f"{numbers.size} numbers"
        )
    return numbers.reshape(count, width)


def _read_pcd(path: Path, content: bytes) -> Columns:
    lines, start = _header(path, content, rb"DATA")
    head = {words[0]: words[1:] for words in lines if not words[0].startswith("#")}
    try:
        names = head["FIELDS"]
        sizes, counts = [int(s) for s in head["SIZE"]], [int(c) for c in head.get("COUNT", [])]
        kinds, storage = [_PCD_TYPES[k] for k in head["TYPE"]], head["DATA"][0].lower()
        count = int(head["POINTS"][0])
        counts = counts or [1] * len(names)
        layout = [
            (f"{i}", f"<{kind}{size}", (times,))
            for i, (kind, size, times) in enumerate(zip(kinds, sizes, counts, strict=True))
        ]
        if len(layout) != len(names) or min(counts) < 1 or sum(counts) > 16 * _MAX_COLUMNS:
            raise ValueError("FIELDS, SIZE, TYPE and COUNT disagree")
        dtype = np.dtype(layout)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(f"points: {path} must have a whole PCD header, got: {error}") from error
    _check_count(path, count)
    body = content[start:]
    if storage == "ascii":
        flat = _ascii_rows(path, body, sum(counts), count)
        firsts = np.cumsum([0, *counts[:-1]])
        values = [flat[:, i] for i in firsts]
    elif storage == "binary":
        rows = _rows(path, body, dtype, count)
        values = [rows[f"{i}"][:, 0] for i in range(len(names))]
    elif storage == "binary_compressed":
        values = _compressed(path, body, dtype, count)
    else:
        raise ValueError(
            f"points: {path}: DATA must be ascii, binary or binary_compressed, got {storage!r}"
        )
    return _float_columns(path, names, values)


def _compressed(path: Path, body: bytes, dtype: np.dtype, count: int) -> list[np.ndarray]:
    """Columns one after the other, packed by LZF."""
    packed, size = (int(v) for v in np.frombuffer(body[:8].ljust(8, b"\0"), "<u4"))
    if size != count * dtype.itemsize or len(body) < 8 + packed:
        raise ValueError(
            f"points: {path} must hold {count * dtype.itemsize} bytes of points as its header "
            f"says, got {size} packed into {packed}; fetch the file again"
        )
    raw = _unpack_lzf(path, body[8 : 8 + packed], size)
    values, at = [], 0
    for name in dtype.names or ():
        field = dtype[name]
        values.append(np.frombuffer(raw, field, count, at)[:, 0])
        at += count * field.itemsize
    return values


def _unpack_lzf(path: Path, packed: bytes, size: int) -> bytes:
    out, i = bytearray(), 0
    try:
        while i < len(packed) and len(out) <= size:
            control = packed[i]
            i += 1
            if control < 32:  # a run of control + 1 bytes as they are
                out += packed[i : i + control + 1]
                i += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += packed[i]
                i += 1
            back = ((control & 31) << 8) + packed[i] + 1
            i += 1
            start = len(out) - back
            if start < 0:
                raise IndexError("reference before the start")
            # The copy may overlap what it writes: repeat what is there.
            piece = out[start : start + length + 2]
            out += (piece * ((length + 2) // len(piece) + 1))[: length + 2]
    except IndexError as error:
        raise ValueError(f"points: {path} must be packed whole, got: {error}") from error
    if len(out) != size:
        raise ValueError(f"points: {path} must unpack to {size} bytes, got {len(out)}")
    return bytes(out)


def _read_ply(path: Path, content: bytes) -> Columns:
    lines, start = _header(path, content, rb"end_header")
    formats = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
    names: list[str] = []
    types: list[str] = []
    count, inside, order = -1, False, None
    try:
        if lines[0] != ["ply"]:
            raise ValueError("no ply at its start")
        for words in lines:
            if words[0] == "format":
                order = formats[words[1]]
            elif words[0] == "element":
                if words[1] != "vertex" and count < 0:
                    raise ValueError(f"element {words[1]} before vertex")
                inside = words[1] == "vertex"
                count = int(words[2]) if inside else count
            elif words[0] == "property" and inside:
                types.append(_PLY_TYPES[words[1]])
                names.append(words[2])
        if order is None or not names or len(names) > _MAX_COLUMNS:
            raise ValueError("no format, or no vertex")
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"points: {path} must have a whole PLY header, got: {error}") from error
    _check_count(path, count)
    if order == "":
        flat = _ascii_rows(path, content[start:], len(names), count)
        return _float_columns(path, names, [flat[:, i] for i in range(len(names))])
    dtype = np.dtype([(f"{i}", f"{order}{kind}") for i, kind in enumerate(types)])
    rows = _rows(path, content[start:], dtype, count)
    return _float_columns(path, names, [rows[f"{i}"] for i in range(len(names))])
