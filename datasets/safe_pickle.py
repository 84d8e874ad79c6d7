"""Reads pickles that strangers wrote: plain containers and numpy values, nothing that runs code.

A pickle is a program; the standard loader calls whatever it names. Info files and published
checkpoints travel between people, so only names of a short list are resolved here and every other
one stops the load with an error that says which.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal

import numpy as np

#: Info files of the whole nuScenes train split stay under 1 GB.
MAX_BYTES = 8 << 30

# Numbers and text: an object, or a record with object fields, would read raw bytes as pointers.
_PLAIN_DTYPE = re.compile(r"(\?|b1|[iu][1248]|f[248]|f16|c8|c16|c32|[SU]\d{0,9})")

# What a damaged stream can raise inside the unpickler, apart from our own refusal.
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    ValueError,
)


class UnsafePickleError(ValueError):
    """The pickle names something outside the allowed list, or builds an array of objects."""


class _Dtype:
    """Stands in for a dtype while loading: numpy's own ``__setstate__`` believes any flags."""

    __slots__ = ("_order", "_spec")

    def __init__(self, spec: str, align: bool = False, copy: bool = True) -> None:
        plain = spec.lstrip("<>=|") if isinstance(spec, str) else ""
        if not _PLAIN_DTYPE.fullmatch(plain):
            raise UnsafePickleError(f"numpy dtype must be a plain number or text, got {spec!r}")
        self._spec = plain
        self._order: Literal["<", ">", "="] = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, base, names, fields, size, *_ = state
        if (base, names, fields) != (None, None, None) or order not in "<>=|":
            raise UnsafePickleError(
                f"numpy dtype must be a plain number or text, got {state!r:.60}"
            )
        self._order = order
        if self._spec[0] in "SU":
            self._spec = f"{self._spec[0]}{int(size) // (4 if self._spec[0] == 'U' else 1)}"

    def real(self) -> np.dtype[Any]:
        return np.dtype(self._spec).newbyteorder(self._order)


class _Array(np.ndarray):
    """Stands in for an array until its state has been checked; ``_plain`` takes it out again."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, (bytes, str)):
            raise UnsafePickleError("numpy array must be a dtype, a shape and bytes")
        if isinstance(content, str):  # a byte string that Python 2 wrote
            content = content.encode("latin1")
        checked: Any = (1, tuple(shape), dtype.real(), bool(fortran), content)
        super().__setstate__(checked)


def _reconstruct(kind: object, shape: tuple[int, ...], typecode: bytes | str) -> np.ndarray:
    if kind is not _Array or tuple(shape) != (0,):
        raise UnsafePickleError(f"numpy array must start empty, got shape {shape!r}")
    return _Array((0,), np.int8)


def _scalar(dtype: _Dtype, value: bytes | str) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(value, (bytes, str)):
        raise UnsafePickleError("numpy scalar must be a dtype and its bytes")
    raw = value.encode("latin1") if isinstance(value, str) else value
    return np.frombuffer(raw, dtype.real(), count=1)[0]


def _frombuffer(
    buffer: bytes | bytearray, dtype: _Dtype, shape: tuple[int, ...], order: str
) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(buffer, (bytes, bytearray)):
        raise UnsafePickleError("numpy array must be bytes and their dtype")
    flat = np.frombuffer(bytearray(buffer), dtype.real())
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"byte strings must be encoded as latin1, got {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""  # how old protocols spell an empty byte string; bytes(n) would allocate


def _allowed() -> dict[tuple[str, str], Any]:
    names: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encode,
        ("builtins", "bytes"): _no_bytes,
        ("__builtin__", "bytes"): _no_bytes,
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _Array,
    }
    for kind in (set, frozenset, list, dict, tuple, complex):
        names["builtins", kind.__name__] = names["__builtin__", kind.__name__] = kind
    for core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2 spell it differently
        names[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        names[f"{core}.multiarray", "scalar"] = _scalar
        names[f"{core}.numeric", "_frombuffer"] = _frombuffer
    return names


ALLOWED: Mapping[tuple[str, str], Any] = MappingProxyType(_allowed())


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that resolves the names of ``ALLOWED`` and ``allow`` only.

    Args:
        file: binary stream.
        allow: further ``(module, name) -> object`` that the caller vouches for; the object given
            is what the pickle gets, so it can be a harmless stand-in.
        persistent_load: how ``persistent_id`` references are resolved (torch storages).
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        allow: Mapping[tuple[str, str], Any] = MappingProxyType({}),
        persistent_load: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._names = {**ALLOWED, **allow}
        self._persistent_load = persistent_load

    def find_class(self, module: str, name: str) -> Any:
        """The object behind ``module.name``.

        Raises:
            UnsafePickleError: the name is not on the list.
        """
        try:
            return self._names[module, name]
        except KeyError:
            raise UnsafePickleError(
                f"names in it must be plain containers or numpy values, got {module}.{name}"
            ) from None

    def persistent_load(self, reference: Any) -> Any:
        """The object behind a persistent reference.

        Raises:
            UnsafePickleError: the caller gave no way to resolve one.
        """
        if self._persistent_load is None:
            raise UnsafePickleError(f"it must hold no external references, got {reference!r:.60}")
        return self._persistent_load(reference)


def load_pickle(
    path_or_file: str | Path | BinaryIO,
    *,
    allow: Mapping[tuple[str, str], Any] = MappingProxyType({}),
    persistent_load: Callable[[Any], Any] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Any:
    """Read one pickle without running anything it names.

    Args:
        path_or_file: path, or an open binary stream.
        allow: see ``RestrictedUnpickler``.
        persistent_load: see ``RestrictedUnpickler``.
        max_bytes: a larger file is refused before it is read (streams are not measured).

    Raises:
        FileNotFoundError: no such file.
        UnsafePickleError: a name outside the list; the message has the file and the name.
        ValueError: the file is too large, truncated or no pickle.
    """
    if isinstance(path_or_file, (str, Path)):
        path = Path(path_or_file)
        if not path.is_file():
            raise FileNotFoundError(
                f"pickle: {path} must be an existing file, got none; try tools/create_data.py, "
                "which writes info files and databases"
            )
        if path.stat().st_size > max_bytes:
            raise ValueError(
                f"pickle: {path} must be at most {max_bytes} bytes, got {path.stat().st_size}"
            )
        with path.open("rb") as file:
            return _load(file, str(path), allow, persistent_load)
    name = str(getattr(path_or_file, "name", "<stream>"))
    return _load(path_or_file, name, allow, persistent_load)


def _load(
    file: BinaryIO | io.BytesIO,
    name: str,
    allow: Mapping[tuple[str, str], Any],
    persistent_load: Callable[[Any], Any] | None,
) -> Any:
    unpickler = RestrictedUnpickler(file, allow=allow, persistent_load=persistent_load)
    try:
        return _plain(unpickler.load(), set())
    except UnsafePickleError as error:
        raise UnsafePickleError(f"pickle: {name} is refused: {error}") from None
    except _DAMAGE as error:
        raise ValueError(
            f"pickle: {name} must be a whole pickle file, got damage "
            f"({type(error).__name__}: {error})"
        ) from error


def _plain(value: Any, seen: set[int]) -> Any:
    """``value`` with the arrays' stand-ins replaced, in place where the container allows it."""
    if isinstance(value, _Array):
        return value.view(np.ndarray)
    if isinstance(value, _Dtype):
        return value.real()
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple([_plain(item, seen) for item in value])
    if not isinstance(value, (dict, list)) or id(value) in seen:
        return value
    seen.add(id(value))
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(entries):
        if isinstance(item, (dict, list, tuple, _Array, _Dtype)):
            value[key] = _plain(item, seen)
    return value
