"""install.sh: what it says, what it refuses, and that a dry run changes nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import anybev

ROOT = Path(anybev.__file__).resolve().parents[2]


def install(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", str(ROOT / "install.sh"), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | variables,
        timeout=300,
    )


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A folder for PATH with the shell's tools, without Python and without a compiler."""
    for tool in ("bash", "dirname", "nproc", "basename", "sha256sum", "env", "cat"):
        (tmp_path / tool).symlink_to(shutil.which(tool))  # type: ignore[arg-type]
    return tmp_path


def test_dry_run_names_every_step_and_makes_nothing(tmp_path: Path) -> None:
    result = install("--dry-run", "--backend", "cpu", "--venv", str(tmp_path / "venv"))
    assert result.returncode == 0, result.stderr
    steps = ("-m venv", "torch==2.13.0", "requirements/cpu.txt", "requirements/host.txt")
    for step in (*steps, "--editable ."):
        assert step in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "venv").exists()


def test_dry_run_takes_torch_from_the_index_of_the_users_choice(tmp_path: Path) -> None:
    flags = ("--dry-run", "--backend=cpu", f"--venv={tmp_path / 'venv'}")
    result = install(*flags, ANYBEV_TORCH_INDEX="file:///wheels")
    assert "--index-url file:///wheels torch==2.13.0" in result.stderr


def test_the_host_stack_is_left_out_on_request(tmp_path: Path) -> None:
    result = install("--dry-run", "--no-host", "--backend=cpu", f"--venv={tmp_path / 'venv'}")
    assert result.returncode == 0, result.stderr
    assert "host.txt" not in result.stderr


def test_cuda_builds_its_kernels_where_nvcc_is(tmp_path: Path) -> None:
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\n")
    flags = ("--dry-run", "--backend=cuda", f"--venv={tmp_path / 'venv'}")
    nvcc.chmod(0o755)
    result = install(*flags, CUDA_HOME=str(tmp_path / "cuda"))
    assert f"CUDA compiler: {nvcc}; building the CUDA kernels" in result.stderr
    result = install(*flags, CUDA_HOME=str(tmp_path / "nowhere"))
    assert result.returncode == 0, result.stderr
    assert "CUDA compiler: none" in result.stderr


def test_npu_takes_the_pair_that_mx_driving_allows(tmp_path: Path) -> None:
    result = install("--dry-run", "--backend", "npu", "--venv", str(tmp_path / "venv"))
    assert "torch==2.7.1 torch-npu==2.7.1 mx-driving==26.2.0.post2" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "tpu"), "error: --backend must be auto, cpu, cuda or npu, got tpu"),
        (("--seed", "x"), "error: --seed must be a whole number, got x"),
        (("--seed",), "error: --seed needs a value"),
        (("--fast",), "error: unknown argument --fast"),
    ],
)
def test_wrong_flag_ends_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = install(*arguments)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == message


def test_missing_python_says_how_to_get_it(bare_path: Path) -> None:
    result = install("--dry-run", PATH=str(bare_path), PYTHON="")
    assert result.returncode == 1
    assert "Python 3.11 or 3.12 is missing: apt-get install" in result.stderr


def test_missing_compiler_is_said_and_is_no_error(bare_path: Path, tmp_path: Path) -> None:
    python = Path(sys.executable).resolve()
    flags = ("--dry-run", "--backend", "cpu", "--venv", str(tmp_path / "venv"))
    result = install(*flags, PATH=str(bare_path), PYTHON=str(python))
    assert result.returncode == 0, result.stderr
    assert "C++ compiler: none, so every operator runs on its plain-PyTorch reference" in (
        result.stderr
    )
