"""The named scripts: what they hand on, whatever form the flags have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import anybev
from anybev.device.npu.settings import VARIABLES
from anybev.engine.job.options import JobOptions, from_arguments

ROOT = Path(anybev.__file__).resolve().parents[2]
ONE_NODE = [f"train_{k}_8p_base_{p}" for k in ("full", "performance") for p in ("fp32", "fp16")]
NODES = [f"nnodes_{name.replace('8p', '16p')}" for name in ONE_NODE]
SCRIPTS = [ROOT / "test" / f"{name}.sh" for name in ONE_NODE + NODES]
MASTER = "--master-addr=10.0.0.1"
VALUES = [["2", "4", "3"], ["--batch-size=2", "--num-npu=4", "--epochs=3"]]
VALUES += [["--batch-size", "2", "--num-npu", "4", "--epochs", "3"], ["2", "4", "--epochs=3"]]


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that prints its arguments and some variables, and ends with status 7.

    Of a device's settings it runs the script, as any interpreter.
    """
    program = tmp_path_factory.mktemp("bin") / "python"
    program.write_text(
        f'#!/bin/bash\n[[ $1 != *settings.py ]] || exec {sys.executable} "$@"\n'
        'printf "%s\\n" "$@"\nenv >&2\npwd >&2\nexit 7\n'
    )
    program.chmod(0o755)
    return program


def call(script: Path, echo: Path, *flags: str, **more: str) -> subprocess.CompletedProcess[str]:
    known = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "MASTER_ADDR")}
    known |= {"PYTHON": str(echo), "ANYBEV_BACKEND": "cpu"} | more
    command = ["bash", str(script), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=known, timeout=120)


def read(result: subprocess.CompletedProcess[str]) -> JobOptions:
    words = result.stdout.splitlines()
    assert words[:2] == ["-m", "anybev.engine.job"]
    return from_arguments(words[2:])


@pytest.mark.parametrize("values", VALUES, ids=["positions", "equals", "spaces", "mixed"])
@pytest.mark.parametrize("name", ONE_NODE + NODES)
def test_script_hands_on_case_and_flags(name: str, values: list[str], echo: Path) -> None:
    more = [MASTER] if name.startswith("nnodes") else []
    options = read(call(ROOT / "test" / f"{name}.sh", echo, *values, *more))
    assert options.case == name
    assert (options.kind in name, options.precision in name) == (True, True)
    assert (options.batch_size, options.nproc, options.epochs) == (2, 4, 3)
    assert options.nnodes == (2 if more else 1)
    assert (ROOT / options.config).is_file()


def test_exit_status_is_the_interpreters_and_the_folder_the_repositorys(
    echo: Path, tmp_path: Path
) -> None:
    result = call(SCRIPTS[0], echo)
    assert result.returncode == 7
    assert result.stderr.splitlines()[-1] == str(ROOT)


@pytest.mark.parametrize(("backend", "variable"), [("npu", "NPU"), ("cuda", "CUDA")])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_environment_of_the_backend_is_set_for_both_precisions(
    script: Path, backend: str, variable: str, echo: Path
) -> None:
    said = call(script, echo, ANYBEV_BACKEND=backend).stderr.splitlines()
    assert f"PYTORCH_{variable}_ALLOC_CONF=expandable_segments:True" in said
    assert "ANYBEV_REQUIRE_NATIVE=1" in said
    assert not [line for line in said if line.startswith(("HCCL_IF_IP", "TORCH_FORCE_NO"))]


def test_what_the_user_has_set_stays(echo: Path) -> None:
    said = call(SCRIPTS[0], echo, ANYBEV_BACKEND="npu", TASK_QUEUE_ENABLE="1").stderr
    assert "TASK_QUEUE_ENABLE=1" in said.splitlines()


def test_every_setting_of_the_npu_reaches_the_training(echo: Path) -> None:
    said = call(SCRIPTS[0], echo, ANYBEV_BACKEND="npu").stderr.splitlines()
    assert {f"{s.name}={os.environ.get(s.name, s.value)}" for s in VARIABLES} <= set(said)


def test_environment_files_only_export() -> None:
    printed = "npu_settings"  # by the script that holds the npu's settings as data
    for name in ("env_npu.sh", "env_cuda.sh"):
        lines = (ROOT / "test" / name).read_text().splitlines()
        known = ("#", "export ", f"{printed}=", f'eval "${printed}"')
        assert all(line.startswith(known) or not line for line in lines)


def test_named_scripts_are_short() -> None:
    assert len(SCRIPTS) == 8
    assert all(len(path.read_text().splitlines()) <= 15 for path in SCRIPTS)


def test_dist_train_takes_mmdetection3ds_arguments(echo: Path) -> None:
    flags = ("c.py", "4", "--amp", "--work-dir", "w")
    options = read(call(ROOT / "tools" / "dist_train.sh", echo, *flags, PORT="300"))
    assert (options.nproc, options.port, options.work_dir) == (4, 300, Path("w"))
    assert (options.precision, options.train_flags) == ("fp16", ())
    assert options.case is None
    nodes = ("c.py", "4", "2", "1", "300", "10.0.0.1", "--amp")
    options = read(call(ROOT / "tools" / "nnodes_dist_train.sh", echo, *nodes))
    assert (options.nnodes, options.node_rank, options.master_addr) == (2, 1, "10.0.0.1")
    assert (options.port, options.precision) == (300, "fp16")


@pytest.mark.parametrize("script", [SCRIPTS[0], ROOT / "tools" / "dist_train.sh"])
def test_python_that_is_not_there_is_said(script: Path, echo: Path) -> None:
    result = call(script, echo, "c.py", "1", PYTHON="no-such-python")
    assert result.returncode == 2
    assert "PYTHON must name an interpreter, got no-such-python" in result.stderr


@pytest.mark.parametrize("name", ["dist_train.sh", "nnodes_dist_train.sh"])
def test_dist_train_says_how_it_is_used(name: str, echo: Path) -> None:
    result = call(ROOT / "tools" / name, echo, "c.py")
    assert result.returncode == 2
    assert "CONFIG PROCESSES" in result.stderr
