"""The house: links, guards, one file per operator in every tree, silent imports."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import anybev
from anybev import envs
from anybev.device.ops import _native
from anybev.device.report import operator_table

ROOT = Path(anybev.__file__).resolve().parents[2]
STAGES = [
    "benchmark",
    "configs",
    "datasets",
    "device",
    "engine",
    "evaluation",
    "models",
    "patches",
    "reporting",
]
GUARDED = [stage for stage in STAGES if stage != "configs"]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_a_link_to_the_top_level_folder(stage: str) -> None:
    link = ROOT / "src" / "anybev" / stage
    assert link.is_symlink()
    assert link.resolve() == ROOT / stage


@pytest.mark.parametrize("stage", GUARDED)
def test_bare_import_of_a_stage_raises(stage: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {stage}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert result.returncode != 0
    assert f"import anybev.{stage}" in result.stderr


def test_no_stage_was_imported_under_its_bare_name() -> None:
    ours = {stage: sys.modules[stage] for stage in GUARDED if stage in sys.modules}
    assert not [s for s, m in ours.items() if str(ROOT) in str(getattr(m, "__file__", ""))]


def test_import_is_silent_and_touches_no_device() -> None:
    code = (
        "import anybev, anybev.cli, anybev.device, sys, torch\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'mmengine' not in sys.modules and 'mmdet3d' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("operator", sorted(operator_table()))
def test_operator_has_its_file_in_every_tree(operator: str) -> None:
    expected = (
        f"device/ops/{operator}.py",
        f"csrc/ops/cpu/{operator}_kernel.cpp",
        f"test/device/ops/test_{operator}.py",
        f"benchmark/ops/bench_{operator}.py",
        f"docs/ops/{operator}.md",
    )
    assert not [path for path in expected if not (ROOT / path).is_file()]


def test_compiled_build_has_a_kernel_for_every_declared_operator() -> None:
    why = _native.load()
    if why is not None:
        pytest.skip(why)
    table = operator_table()
    assert {name for name, row in table.items() if row["cpu"] == "native"} == _native.DECLARED[
        "cpu"
    ]


@pytest.mark.parametrize("folder", [*STAGES, "csrc", "tools", "test"])
def test_top_level_folder_says_what_it_is_for(folder: str) -> None:
    assert 0 < len((ROOT / folder / "README.md").read_text().splitlines()) <= 60


def test_every_variable_and_page_is_documented() -> None:
    named = set(re.findall(r"\bANYBEV_[A-Z_]+[A-Z]", (ROOT / "docs/environment.md").read_text()))
    read = [ROOT / "src/anybev/envs.py", *ROOT.glob("*.sh"), *(ROOT / "test").glob("*.sh")]
    text = "\n".join(path.read_text() for path in read)
    assert set(re.findall(r"\bANYBEV_[A-Z_]+[A-Z]", text)) == named
    index = (ROOT / "docs/README.md").read_text()
    assert [p.name for p in (ROOT / "docs").glob("*.md") if f"({p.name})" not in index] == [
        "README.md"
    ]


@pytest.mark.parametrize(
    "page", sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")])
)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_environment_variables_are_read_in_one_module() -> None:
    reads = re.compile(r"""(environ(\.get\(|\[)|getenv\()\s*["']ANYBEV_""")
    product = [*GUARDED, "tools", "src/anybev"]
    files = {path.resolve() for folder in product for path in (ROOT / folder).rglob("*.py")}
    found = [str(path.relative_to(ROOT)) for path in files if reads.search(path.read_text())]
    assert found == ["src/anybev/envs.py"]


@pytest.mark.parametrize(
    ("variable", "value", "read", "message"),
    [
        ("ANYBEV_BACKEND", "tpu", envs.backend, "must be one of cpu, cuda, npu, got 'tpu'"),
        ("ANYBEV_OPS", "sparse_conv", envs.forced_references, "must be a list of <operator>="),
        ("ANYBEV_REQUIRE_NATIVE", "yes", envs.require_native, "must be 0 or 1, got 'yes'"),
    ],
)
def test_environment_variable_refuses_other_values(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, read: object, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        read()  # type: ignore[operator]


def test_setup_stops_when_a_link_became_a_file(tmp_path: Path) -> None:
    (tmp_path / "src" / "anybev").mkdir(parents=True)
    (tmp_path / "setup.py").write_text((ROOT / "setup.py").read_text())
    (tmp_path / "src" / "anybev" / "device").write_text("../../device")
    result = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode != 0
    assert "must be a link to ../../" in result.stderr


def test_stages_import() -> None:
    for stage in GUARDED:
        importlib.import_module(f"anybev.{stage}")
