"""Files that appear whole or not at all."""

import json
from pathlib import Path

import pytest

from anybev.files import named_in, whole_file, write_json


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "file.bin"
    with whole_file(target, durable=True) as stream:
        stream.write(b"old")
    with pytest.raises(TypeError, match="bytes-like"), whole_file(target) as stream:
        stream.writelines([b"half", "no bytes"])  # type: ignore[list-item]
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_the_old_file_stays_readable_while_the_new_one_is_written(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    with whole_file(target) as stream:
        stream.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_json_is_strict_and_whole(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"a": float("nan")})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(target, {"a": {1}})
    assert json.loads(target.read_text()) == {"a": 1}


def test_a_pointer_is_followed_also_when_its_folder_was_moved(tmp_path: Path) -> None:
    pointer, target = tmp_path / "last", tmp_path / "a.pth"
    pointer.write_text("/moved/from/here/a.pth\n")
    assert named_in(pointer) == (Path("/moved/from/here/a.pth"), None)
    target.touch()
    assert named_in(pointer)[1] == target
    pointer.write_text("")
    assert named_in(pointer)[1] is None
