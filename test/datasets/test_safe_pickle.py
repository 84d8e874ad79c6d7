import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from anybev.datasets.safe_pickle import UnsafePickleError, load_pickle


class _Runs:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def _value():
    return {
        "numbers": [1, 2.5, True, None, 1 << 80, 2j],
        "text": "é",
        "bytes": b"\x00\xff",
        "no_bytes": b"",
        "tuple": (1, (2,)),
        "set": {1, 2},
        "frozen": frozenset([3]),
        "ordered": OrderedDict(a=1),
        "scalars": [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("x")],
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">i4"),
        "words": np.array(["a", "bcd"]),
        "empty": np.zeros((0, 9)),
    }


@pytest.mark.parametrize("protocol", range(6))
def test_plain_containers_and_numpy_values_come_back(tmp_path, protocol):
    file = tmp_path / "a.pkl"
    file.write_bytes(pickle.dumps(_value(), protocol))
    read = load_pickle(file)
    for key, value in _value().items():
        assert type(read[key]) is type(value)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(read[key], value)
            assert read[key].dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
            assert read[key].flags.writeable
        else:
            assert read[key] == value
    assert [type(v) for v in read["scalars"]] == [type(v) for v in _value()["scalars"]]


def test_a_pickle_that_runs_code_is_refused_by_file_and_name(tmp_path):
    file, marker = tmp_path / "evil.pkl", tmp_path / "ran"
    file.write_bytes(pickle.dumps({"data_list": [_Runs(marker)]}))
    with pytest.raises(UnsafePickleError, match=r"evil\.pkl is refused: .*got posix\.mkdir"):
        load_pickle(file)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__", "open"])
def test_builtin_functions_are_refused(name):
    stream = io.BytesIO(f"cbuiltins\n{name}\n.".encode())
    with pytest.raises(UnsafePickleError, match=rf"<stream> is refused: .*got builtins\.{name}"):
        load_pickle(stream)


@pytest.mark.parametrize(
    "value",
    [np.array([None, {}], dtype=object), np.zeros(2, dtype=[("a", "f8")]), np.zeros(2, "V4")],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_objects_and_records_are_refused(value, protocol):
    with pytest.raises(UnsafePickleError, match="dtype must be a plain number or text"):
        load_pickle(io.BytesIO(pickle.dumps(value, protocol)))


def test_array_allocations_are_refused():
    # _reconstruct(ndarray, (2**40,), b'b') would ask for a terabyte.
    code = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L1099511627776L\ntVb\ntR."
    with pytest.raises(UnsafePickleError, match="must start empty"):
        load_pickle(io.BytesIO(code))


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (b"cnumpy._core.multiarray\nscalar\n(I1\nI2\ntR.", "scalar must be a dtype"),
        (
            b"cnumpy._core.numeric\n_frombuffer\n(Vab\nI2\n(I1\ntVC\ntR.",
            "must be bytes and",
        ),
        (b"c_codecs\nencode\n(Vab\nVrot13\ntR.", "encoded as latin1, got 'rot13'"),
        (b"Pstorage\n.", "no external references, got 'storage'"),
    ],
)
def test_crafted_streams_are_refused(code, match):
    with pytest.raises(UnsafePickleError, match=match):
        load_pickle(io.BytesIO(code))


@pytest.mark.parametrize(
    "state",
    [
        ("<", None, ("a",), {"a": 0}, -1, -1, 0),
        ("|", None, None, None, -5, 1, 63),
        ("<", ("f8", (3,)), None, None, 24, 1, 0),
    ],
)
def test_a_dtype_cannot_be_given_false_flags(state):
    class Evil:
        def __reduce__(self):
            return np.dtype, ("S8", False, True), (3, *state)

    with pytest.raises(ValueError, match=r"plain number or text|not understood"):
        load_pickle(io.BytesIO(pickle.dumps([Evil()], 2)))


def test_a_dtype_cannot_claim_to_hold_objects():
    class Pointer:
        def __reduce__(self):
            return np.dtype, ("f8", False, True), (3, "|", None, None, None, 8, 8, 63)

    (dtype,) = load_pickle(io.BytesIO(pickle.dumps([Pointer()], 2)))
    assert dtype == np.float64
    assert not dtype.hasobject


def test_cyclic_containers_come_back():
    value = {"array": np.arange(2)}
    value["self"] = [value]
    read = load_pickle(io.BytesIO(pickle.dumps(value, 2)))
    assert read["self"][0] is read
    assert type(read["array"]) is np.ndarray


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1] * 99)[:-5]])
def test_damaged_files_are_named(tmp_path, content):
    file = tmp_path / "half.pkl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"half\.pkl must be a whole pickle file, got damage"):
        load_pickle(file)


def test_missing_and_oversized_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pkl must be an existing file"):
        load_pickle(tmp_path / "none.pkl")
    file = tmp_path / "big.pkl"
    file.write_bytes(b"x" * 20)
    with pytest.raises(ValueError, match=r"big\.pkl must be at most 10 bytes, got 20"):
        load_pickle(file, max_bytes=10)


def test_the_caller_can_allow_further_names_and_references():
    class StandIn:
        pass

    stream = io.BytesIO(b"cother.module\nThing\n)R.")
    assert isinstance(load_pickle(stream, allow={("other.module", "Thing"): StandIn}), StandIn)
    stream = io.BytesIO(b"Pstorage\n.")
    assert load_pickle(stream, persistent_load=lambda reference: reference * 2) == "storagestorage"
