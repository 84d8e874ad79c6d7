"""``anybev report`` as a user starts it."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anybev.cli import main


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_a_table_and_a_page_beside_the_run(run_folder: Path) -> None:
    result = report(run_folder, "--best", 0, "--worst", 0)
    assert result.exit_code == 0, result.output
    assert "NDS" in result.stdout
    assert "0.5000" in result.stdout
    assert "AP pedestrian" in result.stdout
    assert "not comparable with nuScenes" in result.stdout
    assert f"wrote {run_folder / 'report.html'}" in result.stderr
    assert "<h2>Frames</h2>" not in (run_folder / "report.html").read_text()


def test_json_for_programs(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = report(
        run_folder, "--out", out, "--frames", "1, frame0", "--best=0", "--worst=0", "--json"
    )
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["runs"][0]["measures"]["NDS"] == 0.5
    assert content["files"] == [str(out)]
    text = out.read_text()
    assert text.index("chosen: frame1") < text.index("chosen: frame0")


def test_markup_in_names_stays_text(run_folder: Path) -> None:
    hostile = run_folder.rename(run_folder.parent / "[red]x\x1b[31m")
    result = report(hostile, "--best", 0, "--worst", 0)
    assert result.exit_code == 0, result.output
    assert "[red]x" in result.stdout
    assert "\x1b[31m" not in result.stdout


def test_notes_from_files_cannot_rewrite_a_terminal(run_folder: Path, ann_file: Path) -> None:
    source = run_folder / "20260101_000000/nuscenes/source.json"
    content = json.loads(source.read_text())
    source.write_text(json.dumps(content | {"ann_file": "gone\x1b[31m"}))
    result = report(run_folder, "--best", 0, "--worst", 0)
    assert result.exit_code == 0, result.output
    assert "no gone?[31m" in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "RUN must be an existing folder, got gone"),
        (["--frames", "99"], "--frames must be tokens or indices in 0..3, got '99'"),
        (["--score-thr", "3"], "--score-thr must be in 0..1, got 3.0"),
        (["--out", "."], "--out must be a file to write, got the folder ."),
        (["--data-root", "gone"], "--data-root must be the folder of a data set, got gone"),
        (["--rerun", "x.rrd"], "--rerun needs rerun-sdk, got none installed"),
    ],
)
def test_bad_input_ends_in_one_line(
    run_folder: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    first = [] if arguments == ["gone"] else [run_folder]
    result = report(*first, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr.splitlines()[-1]
    assert not (run_folder / "report.html").exists()
