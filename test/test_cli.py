import pytest
from click.testing import CliRunner

from anybev.cli import main
from anybev.engine.infer import Result


def test_help_lists_the_commands() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    assert all(command in text for command in ("env", "synth", "bench", "infer", "validate-data"))


@pytest.mark.parametrize("command", ["env", "infer", "validate-data"])
def test_help_of_a_command_is_no_error(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert "Error" not in result.output


def test_bad_operator_name_ends_in_one_line() -> None:
    result = CliRunner().invoke(main, ["bench", "ops", "--only", "sparse_cnv"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: bench ops: --only must be one of ")
    assert "box_iou_rotated" in result.output


def test_a_wrong_type_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise TypeError("bench ops: only must be a text, got int")

    monkeypatch.setattr("anybev.benchmark.ops.run.run", run)
    result = CliRunner().invoke(main, ["bench", "ops"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: bench ops: only must be a text, got int")


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_TRACEBACK", "1")
    with pytest.raises(ValueError, match="--only must be one of"):
        CliRunner().invoke(main, ["bench", "ops", "--only", "x"], catch_exceptions=False)


def test_synth_refuses_to_hold_out_every_scene() -> None:
    arguments = ["synth", "nuscenes", "--out", "x", "--scenes", "2", "--val-scenes", "2"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "--val-scenes must be less than --scenes, got 2" in result.output


def test_synth_refuses_a_folder_with_other_files(tmp_path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "photo.jpg").write_bytes(b"x")
    result = CliRunner().invoke(main, ["synth", "nuscenes", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")


def test_notes_of_infer_cannot_rewrite_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Result({}, [], "no box", ["a\x1b[31m.png"])
    monkeypatch.setattr("anybev.engine.infer.infer", lambda request: result)
    shown = CliRunner().invoke(main, ["infer", "config.py", "model.pth"])
    assert "note: a?[31m.png" in shown.output
