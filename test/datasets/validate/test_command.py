"""``anybev validate-data``: table, JSON, exit status."""

import json

import pytest
from click.testing import CliRunner

from anybev.cli import main


def _run(*arguments: object):
    return CliRunner().invoke(main, ["validate-data", *map(str, arguments)])


def test_status_0_when_nothing_is_wrong(data, tmp_path) -> None:
    result = _run(data.root, "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "nothing found in v1.0-trainval, nuscenes_infos_train.pkl" in result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["errors"], report["warnings"], report["depth"]) == (0, 0, "default")
    assert all(check["findings"] == 0 for check in report["checks"])


def test_status_1_for_errors_and_0_for_warnings(data) -> None:
    data.without_infos().edit("scene", lambda rows: rows[0].update(name="my\x1b[2Jdrive"))
    result = _run(data.root, "--fast")
    assert result.exit_code == 0
    assert "0 errors, 1 warnings" in result.output
    assert "\x1b" not in result.output
    data.replace("samples/LIDAR_TOP", b"")
    result = _run(data.root, "--fast", "--version", "v1.0-trainval")
    assert result.exit_code == 1
    line = next(line for line in result.output.splitlines() if line.startswith("files.points"))
    assert line.split()[1:3] == ["error", "4"]
    assert "has 0 bytes" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--version", "v1.0-mini"], "must be the folder of the tables"),
        (["--ann-file", "none.pkl"], "none.pkl must be an info file"),
        (["--fast", "--full"], "--fast and --full exclude each other"),
    ],
)
def test_status_2_when_it_cannot_check(data, arguments, message: str) -> None:
    result = _run(data.root, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_traceback_on_request(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBEV_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="must hold tables"):
        CliRunner().invoke(main, ["validate-data", str(tmp_path)], catch_exceptions=False)
