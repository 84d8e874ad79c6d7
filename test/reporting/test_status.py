"""Atomic JSON."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anybev import files
from anybev.reporting.status import write_json


def test_numbers_of_every_kind_become_json(tmp_path):
    content = {
        "a": np.float32(0.5),
        "b": torch.tensor(3),
        "c": [float("nan"), float("inf"), (1, None, True)],
        4: Path("x/y"),
    }
    write_json(tmp_path / "sub" / "status.json", content)
    assert json.loads((tmp_path / "sub" / "status.json").read_text()) == {
        "a": 0.5,
        "b": 3,
        "c": [None, None, [1, None, True]],
        "4": "x/y",
    }


def test_what_json_has_not_is_refused_and_the_old_file_stays(tmp_path):
    write_json(tmp_path / "s.json", {"epoch": 1})
    with pytest.raises(TypeError, match="must be numbers, text, lists or dicts, got set"):
        write_json(tmp_path / "s.json", {"epoch": {1}})
    assert json.loads((tmp_path / "s.json").read_text()) == {"epoch": 1}


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    write_json(tmp_path / "s.json", {"epoch": 1})

    def stop(old, new):
        raise OSError("killed")

    monkeypatch.setattr(files.os, "replace", stop)
    with pytest.raises(OSError, match="killed"):
        write_json(tmp_path / "s.json", {"epoch": 2})
    assert json.loads((tmp_path / "s.json").read_text()) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]
