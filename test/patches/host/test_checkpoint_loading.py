"""Checkpoints of mmengine's runner, read without running what they name."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anybev.patches.host import patch_checkpoint_loading
from anybev.patches.host.patch_checkpoint_loading import replace


class Loader:
    """As mmengine 0.10.7 loads: with torch's defaults."""

    @classmethod
    def load_checkpoint(cls, filename: str, map_location: Any = None) -> Any:
        return torch.load(filename, map_location=map_location)


def load(filename: str, map_location: Any = None) -> Any:
    return replace(Loader.load_checkpoint.__func__)(Loader, filename, map_location)


def _checkpoint(folder: Path, **more: Any) -> Path:
    from mmengine.logging import HistoryBuffer

    content = {
        "meta": {"epoch": 3, "seed": 0, "dataset_meta": {"classes": ("car",)}, "range": slice(2)},
        "state_dict": {"weight": torch.arange(6.0).reshape(2, 3)},
        "message_hub": {
            "log_scalars": {"train/loss": HistoryBuffer([1.0, 2.0, 4.0], [1, 1, 2])},
            "runtime_info": {"best": np.float64(0.5), "n": np.int32(3), "a": np.eye(2)},
        },
        **more,
    }
    file = folder / "epoch_3.pth"
    torch.save(content, file)
    return file


def test_own_checkpoint_of_mmengine_is_read(tmp_path: Path) -> None:
    file = _checkpoint(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match=r"HistoryBuffer|getattr|slice"):
        Loader.load_checkpoint(str(file))
    content = load(str(file), map_location="cpu")
    expected = torch.load(file, weights_only=False)
    assert torch.equal(content["state_dict"]["weight"], expected["state_dict"]["weight"])
    assert content["meta"] == expected["meta"]
    history = content["message_hub"]["log_scalars"]["train/loss"]
    assert (history.mean(), history.min(), history.current()) == (7 / 4, 1.0, 4.0)
    assert history.statistics("max") == 4.0
    info = content["message_hub"]["runtime_info"]
    assert info["best"] == 0.5
    assert info["n"].dtype == np.int32
    np.testing.assert_array_equal(info["a"], np.eye(2))


class Opens:
    """Writes a file when it is loaded by a loader that runs what it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    file = _checkpoint(tmp_path, extra=Opens(tmp_path / "ran"))
    with pytest.raises(pickle.UnpicklingError, match="open"):
        load(str(file))
    assert not (tmp_path / "ran").exists()


class Looks:
    """Asks for an attribute of something else than a log history."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (getattr, (np.ndarray, "tofile"))


def test_attributes_of_other_objects_are_not_looked_up(tmp_path: Path) -> None:
    file = _checkpoint(tmp_path, extra=Looks())
    with pytest.raises((ValueError, pickle.UnpicklingError), match="are not looked up"):
        load(str(file))


def test_nothing_stays_allowed_afterwards(tmp_path: Path) -> None:
    before = list(torch.serialization.get_safe_globals())
    load(str(_checkpoint(tmp_path)))
    assert list(torch.serialization.get_safe_globals()) == before


def test_missing_file_is_upstreams_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        load(str(tmp_path / "none.pth"))


def test_maintained_mmengine_needs_no_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmengine.runner import checkpoint

    monkeypatch.setattr(checkpoint, "_safe_torch_load", print, raising=False)
    assert patch_checkpoint_loading.skip_reason() is not None
    monkeypatch.delattr(checkpoint, "_safe_torch_load")
    assert patch_checkpoint_loading.skip_reason() is None
