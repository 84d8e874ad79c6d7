"""Atomic JSON, and events in whole lines."""

import json
import os
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from anybev import files
from anybev.reporting.status import append_status, read_status, write_json


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


def test_an_event_says_who_and_when(tmp_path):
    path = tmp_path / "run" / "status.json"
    append_status(path, status="STARTED", kind="train", message="two\nlines ")
    kpi = {"loss": np.float32(0.5), "NDS": float("nan")}
    append_status(
        path,
        status="RUNNING",
        kind="train",
        message="",
        epoch=1,
        step=2,
        steps=9,
        eta_s=3.5,
        kpi=kpi,
        rank=1,
        world_size=2,
        pid=7,
    )
    lines = path.read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first["message"] == "two lines"
    assert (first["host"], first["pid"]) == (socket.gethostname(), os.getpid())
    assert datetime.fromisoformat(first["time"]).tzinfo is not None
    assert (first["epoch"], first["eta_s"], first["rank"], first["world_size"]) == (0, None, 0, 1)
    assert second["kpi"] == {"loss": 0.5, "NDS": None}
    assert (second["step"], second["steps"], second["rank"], second["pid"]) == (2, 9, 1, 7)
    assert read_status(path) == ([first, second], [])


@pytest.mark.parametrize(("name", "value"), [("status", "DONE"), ("kind", "demo")])
def test_unknown_words_of_an_event_are_refused(tmp_path, name, value):
    words = {"status": "RUNNING", "kind": "train", "message": ""} | {name: value}
    with pytest.raises(ValueError, match=f"status: {name} must be one of .*, got '{value}'"):
        append_status(tmp_path / "status.json", **words)
    assert not (tmp_path / "status.json").exists()


def test_half_a_line_is_left_out_and_the_next_event_stays_whole(tmp_path):
    path = tmp_path / "status.json"
    append_status(path, status="STARTED", kind="train", message="a")
    with path.open("a") as stream:
        stream.write('{"time": "2026')
    events, notes = read_status(path)
    assert [event["message"] for event in events] == ["a"]
    assert notes == ["status.json, line 2 is no whole event and was left out"]
    append_status(path, status="SUCCESS", kind="train", message="b")
    events, notes = read_status(path)
    assert [event["message"] for event in events] == ["a", "b"]
    assert len(notes) == 1


@pytest.mark.parametrize("content", [b"[1]\n", b"\xff\xfe\n", b'{"status": "ODD"}\n', b"[" * 9999])
def test_what_is_no_event_is_left_out(tmp_path, content):
    (tmp_path / "status.json").write_bytes(content)
    events, notes = read_status(tmp_path / "status.json")
    assert (events, len(notes)) == ([], 1)


_APPEND = """
import sys
from anybev.reporting.status import append_status
for _ in range(20):
    append_status(sys.argv[1], status="RUNNING", kind="train", message="m" * 1500)
"""


def test_processes_that_append_together_keep_their_lines_apart(tmp_path):
    path = tmp_path / "status.json"
    writers = [subprocess.Popen([sys.executable, "-c", _APPEND, str(path)]) for _ in range(3)]
    assert [writer.wait(timeout=180) for writer in writers] == [0, 0, 0]
    events, notes = read_status(path)
    assert (len(events), notes) == (60, [])
    assert {len(event["message"]) for event in events} == {1500}


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "write", lambda descriptor, content: len(content) - 1)
    with pytest.raises(OSError, match=r"No space left on device: '.*status\.json'"):
        append_status(tmp_path / "status.json", status="STARTED", kind="train", message="")


def test_a_line_has_no_line_break(tmp_path):
    with pytest.raises(ValueError, match="line must have no line break"):
        files.append_line(tmp_path / "log", "a\nb")
