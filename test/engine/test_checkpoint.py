"""Checkpoints: written whole and plain, read without running what they carry."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from anybev.engine import checkpoint, safe_load
from anybev.engine.checkpoint import UnsafeCheckpointError, read, save

FORMATS = pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])


class Runs:
    """Pickles to a call of ``function`` with ``arguments``."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call

    def __call__(self):
        raise AssertionError("the test itself must not run it")


def test_a_saved_checkpoint_comes_back(tmp_path):
    model = nn.Linear(3, 2)
    state = {"optimizer": {"step": torch.tensor(3.0), "lr": np.float64(0.5)}, "rng": (3, (1, 2))}
    save(tmp_path / "sub" / "epoch_1.pth", model, meta={"epoch": 1}, config="a = 1", state=state)
    loaded = read(tmp_path / "sub" / "epoch_1.pth")
    assert torch.equal(loaded["state_dict"]["weight"], model.weight)
    assert loaded["meta"]["epoch"] == 1
    assert loaded["meta"]["cfg"] == "a = 1"
    assert set(loaded["meta"]["versions"]) == {"anybev", "torch", "numpy", "python"}
    assert loaded["state"]["optimizer"]["lr"] == 0.5
    assert type(loaded["state"]["optimizer"]["lr"]) is float
    assert loaded["state"]["rng"] == (3, (1, 2))
    assert os.listdir(tmp_path / "sub") == ["epoch_1.pth"]


def test_any_weights_only_reader_takes_it(tmp_path):
    save(tmp_path / "m.pth", nn.BatchNorm1d(2), meta={"dtype": torch.float16})
    assert torch.load(tmp_path / "m.pth", weights_only=True)["meta"]["dtype"] is torch.float16


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"rng": {"numpy": np.zeros(2)}}, r"state.rng.numpy must be .* got ndarray"),
        ({"list": [1, Path("x")]}, r"state.list\[1\] must be .* got PosixPath"),
    ],
)
def test_what_is_not_plain_is_named_on_saving(tmp_path, state, place):
    with pytest.raises(TypeError, match=place):
        save(tmp_path / "m.pth", nn.Linear(1, 1), state=state)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    save(tmp_path / "m.pth", nn.Linear(1, 1))
    before = (tmp_path / "m.pth").read_bytes()

    def stop(content, stream):
        stream.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", stop)
    with pytest.raises(OSError, match="no space left"):
        save(tmp_path / "m.pth", nn.Linear(1, 1))
    assert (tmp_path / "m.pth").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.pth"]


@FORMATS
def test_checkpoints_of_mmengine_are_read_without_mmengine(tmp_path, as_zip):
    history_buffer = pytest.importorskip("mmengine.logging").HistoryBuffer
    config_dict = pytest.importorskip("mmengine.config").ConfigDict
    content = {
        "meta": {"seed": np.int64(3), "dataset_meta": config_dict(classes=("car",))},
        "state_dict": OrderedDict(weight=torch.ones(2)),
        "message_hub": {"loss": history_buffer([1.0, 2.0], [1, 1]), "lr": np.arange(3.0)},
    }
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=as_zip)
    loaded = read(tmp_path / "m.pth")
    assert torch.equal(loaded["state_dict"]["weight"], torch.ones(2))
    assert loaded["meta"]["seed"] == 3
    assert type(loaded["message_hub"]["lr"]) is np.ndarray
    np.testing.assert_array_equal(loaded["message_hub"]["lr"], [0, 1, 2])
    history = loaded["message_hub"]["loss"]
    assert isinstance(history, safe_load.Placeholder)
    assert repr(history) == "<placeholder of mmengine.logging.history_buffer.HistoryBuffer>"
    np.testing.assert_array_equal(history.state["_log_history"], [1, 2])
    assert loaded["meta"]["dataset_meta"].args == ({"classes": ("car",)},)


@FORMATS
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Runs(os.system, "exit 1"), "posix.system"),
        (Runs(eval, "1 + 1"), "builtins.eval"),
        (Runs(torch.hub.load, "someone/something", "model"), "torch.hub.load"),
        (Runs(getattr, OrderedDict, "fromkeys"), None),
    ],
    ids=["system", "eval", "hub", "getattr"],
)
def test_code_is_refused_by_name_and_not_run(tmp_path, as_zip, call, name):
    content = {"state_dict": {"weight": torch.ones(1)}, "extra": call}
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=as_zip)
    if name is None:  # a lookup alone becomes an inert placeholder
        assert isinstance(read(tmp_path / "m.pth")["extra"], safe_load.Placeholder)
        return
    with pytest.raises(UnsafeCheckpointError, match=rf"got {name}; it was not loaded"):
        read(tmp_path / "m.pth")


def test_a_plain_pickle_that_runs_code_is_refused_by_name(tmp_path):
    witness = tmp_path / "ran"
    (tmp_path / "m.pth").write_bytes(pickle.dumps(Runs(os.mkdir, str(witness))))
    with pytest.raises(UnsafeCheckpointError, match=r"got posix\.mkdir"):
        read(tmp_path / "m.pth")
    assert not witness.exists()


def test_what_a_looked_up_method_would_return_cannot_be_called(tmp_path):
    class Chain:
        def __reduce__(self):
            return Runs(getattr, "x", "upper"), ()

    torch.save({"state_dict": {}, "extra": Chain()}, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"m\.pth must be a whole file"):
        read(tmp_path / "m.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth must be an existing file, got none"):
        read(tmp_path / "nothing.pth")


@FORMATS
@pytest.mark.parametrize("keep", [0, 3, 300, -40])
def test_a_truncated_file_is_named(tmp_path, as_zip, keep):
    torch.save(
        {"weight": torch.ones(500)}, tmp_path / "m.pth", _use_new_zipfile_serialization=as_zip
    )
    whole = (tmp_path / "m.pth").read_bytes()
    (tmp_path / "m.pth").write_bytes(whole[:keep])
    with pytest.raises(
        ValueError, match=r"m\.pth must be a whole file written by torch\.save, got"
    ):
        read(tmp_path / "m.pth")


@FORMATS
def test_damage_anywhere_is_an_error_that_names_the_file(tmp_path, as_zip):
    content = {"state_dict": {"weight": torch.ones(4)}, "n": np.arange(3), "seed": np.int64(1)}
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=as_zip)
    whole = (tmp_path / "m.pth").read_bytes()
    rng, messages = np.random.default_rng(0), []
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(256)
        (tmp_path / "m.pth").write_bytes(bytes(damaged))
        try:
            read(tmp_path / "m.pth")  # some bytes do not matter
        except ValueError as error:
            messages.append(str(error))
    assert messages
    assert all("m.pth" in message for message in messages)


@pytest.mark.parametrize(
    ("member", "message"),
    [("m/constants.pkl", "a TorchScript archive"), ("m/readme", "a zip file without data.pkl")],
)
def test_other_zip_files_are_named(tmp_path, member, message):
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
        archive.writestr(member, b"")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold a dict, got list"),
        ({"epoch": 3}, "must hold weights under state_dict, got epoch"),
        ({}, "must hold weights under state_dict, got nothing"),
        ({"state_dict": {"a": torch.ones(1), "b": "x"}}, "tensors alone, got str under 'b'"),
    ],
)
def test_a_file_without_weights_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "m.pth")


def test_bare_and_nested_weights_are_found(tmp_path):
    weights = {"weight": torch.ones(2)}
    torch.save(weights, tmp_path / "bare.pth")
    torch.save({"model": weights, "epoch": 2}, tmp_path / "nested.pth")
    for name in ("bare.pth", "nested.pth"):
        loaded = read(tmp_path / name)
        assert torch.equal(loaded["state_dict"]["weight"], weights["weight"])
        assert loaded["state"] == loaded["meta"] == {}
