"""Settings of the npu: set where nothing is, the same in Python and in a shell."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import anybev
from anybev.cli import main
from anybev.device import Capability, get_backend
from anybev.device.npu import settings
from anybev.device.npu.settings import NUMERICS, VARIABLES

SCRIPT = Path(settings.__file__)
EXPECTED = {
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "TASK_QUEUE_ENABLE": "2",
    "COMBINED_ENABLE": "1",
    "CPU_AFFINITY_CONF": "2",
    "ACLNN_CACHE_LIMIT": "100000",
    "ACL_OP_INIT_MODE": "0",
    "HCCL_WHITELIST_DISABLE": "1",
    "HCCL_CONNECT_TIMEOUT": "1200",
    "ASCEND_GLOBAL_LOG_LEVEL": "3",
    "ASCEND_GLOBAL_EVENT_ENABLE": "0",
    "ASCEND_SLOG_PRINT_TO_STDOUT": "0",
}


def test_what_is_unset_is_set() -> None:
    environment: dict[str, str] = {}
    settings.apply(environment)
    assert environment == EXPECTED


def test_what_the_user_has_set_stays() -> None:
    environment = {"TASK_QUEUE_ENABLE": "1", "OTHER": "x"}
    settings.apply(environment)
    assert environment == {**EXPECTED, "TASK_QUEUE_ENABLE": "1", "OTHER": "x"}


def test_the_process_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EXPECTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    settings.apply()
    assert {name: os.environ[name] for name in EXPECTED} == EXPECTED


def test_an_older_python_reads_the_script() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 7))
    assert settings.apply.__annotations__["environment"] == "MutableMapping[str, str] | None"


def test_each_says_why_and_whence() -> None:
    every = (*VARIABLES, *NUMERICS)
    assert len({s.name for s in every}) == len(every)
    assert all(s.why.endswith((".", ").")) and s.source.startswith("DrivingSDK") for s in every)


def test_a_shell_evaluates_to_the_same() -> None:
    code = f'eval "$({sys.executable} {SCRIPT} --shell)" && env -0'
    environment = {"PATH": "/usr/bin:/bin", "HCCL_CONNECT_TIMEOUT": "60"}
    done = subprocess.run(
        ["bash", "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    found = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    assert {k: found[k] for k in EXPECTED} == {**EXPECTED, "HCCL_CONNECT_TIMEOUT": "60"}


def test_the_script_needs_nothing_installed() -> None:
    command = [sys.executable, "-I", "-S", str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == len(VARIABLES) + len(NUMERICS)


def test_numerics_reach_the_backend() -> None:
    assert {s.name: settings.enabled(s) for s in NUMERICS} == {
        "jit_compile": False,
        "allow_internal_format": True,
        "norm_rows_in_float32": True,
        "sparse_features_in_float16": True,
    }
    assert Capability.NORM_ROWS_IN_FLOAT32 in get_backend("npu").capabilities


def test_env_shows_them() -> None:
    shown = json.loads(CliRunner().invoke(main, ["env", "--json"]).stdout)["settings"]
    assert shown["cpu"] == []
    names = [row["name"] for row in shown["npu"]]
    assert names == [s.name for s in (*VARIABLES, *NUMERICS)]
    assert set(shown["npu"][0]) == {"name", "kind", "default", "set", "why", "source"}


def test_only_the_npu_has_an_optimizer_of_its_own() -> None:
    for name in ("cpu", "cuda"):
        assert get_backend(name).fused_optimizer("AdamW") is None
        assert get_backend(name).settings() == []


def test_launchers_take_the_settings_from_the_data() -> None:
    script = Path(anybev.__file__).resolve().parents[2] / "test" / "env_npu.sh"
    assert not [name for name in EXPECTED if name in script.read_text()]
