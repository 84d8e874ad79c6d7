"""``anybev patches`` and the real ledger on the installed mmdetection3d."""

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from anybev import patches
from anybev.cli import main
from anybev.patches import targets
from anybev.patches.ext._names import NAMES
from anybev.patches.ledger import Entry, read_ledger

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("mmdet3d") is None, reason="mmdetection3d is not installed"
    ),
    pytest.mark.filterwarnings("default"),
]
FUNCTIONS = [e for e in read_ledger() if e.kind == "function" and e.package != "projects"]


def test_the_table_names_every_patch() -> None:
    result = CliRunner().invoke(main, ["patches"], terminal_width=200)
    assert result.exit_code == 0, result.output
    for entry in read_ledger():
        assert entry.id in result.output
    assert "FAILED" not in result.output


def test_json_says_what_answers_each_name_of_the_extension() -> None:
    result = CliRunner().invoke(main, ["patches", "--json", "--ext"])
    facts = json.loads(result.output)
    assert {patch["id"] for patch in facts["patches"]} == {entry.id for entry in read_ledger()}
    assert all(patch["why"] and patch["upstream"] for patch in facts["patches"])
    assert tuple(facts["mmcv._ext"]) == NAMES
    assert len(NAMES) == 112
    assert facts["mmcv._ext"]["nms_rotated"] == "nms_rotated"
    assert facts["mmcv._ext"]["ball_query_forward"] == "composite"


def _owner(entry: Entry) -> tuple[object, str]:
    owner: object = importlib.import_module(entry.module)
    *parents, name = entry.path
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


@pytest.mark.parametrize("entry", FUNCTIONS, ids=lambda entry: entry.id)
def test_a_changed_function_fails_its_patch_by_name(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with patches.applied():
            pass  # imports the host
    if targets.skip_reason(entry):
        pytest.skip(f"not needed here: {targets.skip_reason(entry)}")

    def changed(*_: object) -> None:
        """Not what the patch was written for."""

    owner, name = _owner(entry)
    raw = vars(owner)[name]
    new = type(raw)(changed) if isinstance(raw, staticmethod | classmethod) else changed
    monkeypatch.setattr(owner, name, new)
    try:
        outcomes = patches.apply()
    except patches.PatchError as error:
        assert entry.required
        outcomes = error.outcomes
    finally:
        patches.undo()
    failed = [o for o in outcomes if o.state is patches.State.FAILED]
    assert [outcome.entry.id for outcome in failed] == [entry.id]
    assert "its source" in failed[0].reason


@pytest.mark.slow
def test_an_edited_file_of_the_host_ends_the_command(tmp_path: Path) -> None:
    """The same with a copy of mmdetection3d in which one function was edited."""
    wanted = (e for e in FUNCTIONS if e.required and e.package == "mmdet3d")
    entry = next(e for e in wanted if not targets.skip_reason(e))
    package = Path(importlib.util.find_spec("mmdet3d").submodule_search_locations[0])  # type: ignore[union-attr, index]
    shutil.copytree(package, tmp_path / "mmdet3d", ignore=shutil.ignore_patterns(".mim"))
    file = tmp_path / f"{entry.module.replace('.', '/')}.py"
    head = f"def {entry.path[-1]}("
    assert head in file.read_text()
    file.write_text(file.read_text().replace(head, f"{head}  # edited\n", 1))
    result = subprocess.run(
        [sys.executable, "-c", "from anybev.cli import main; main()", "patches"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{entry.id} ({entry.target}): FAILED: its source has changed" in result.stderr
