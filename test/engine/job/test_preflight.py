"""What would stop a job is found before it starts."""

import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.config import Config

from anybev.device import get_backend
from anybev.device.backend import Backend, Probe, ProbeState
from anybev.device.npu import adapters
from anybev.device.ops import _native
from anybev.engine import config as configs
from anybev.engine.job import command, leftovers, preflight
from anybev.engine.job.options import JobOptions
from anybev.testing.tiny_config import CONFIG_FILE


@pytest.fixture(scope="module")
def config() -> Config:
    path = CONFIG_FILE.parent / (
        "bevfusion_lidar-cam_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
    )
    return configs.load(path)


@pytest.fixture
def cpu() -> Backend:
    return get_backend("cpu")


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> JobOptions:
    """A job that lacks nothing."""
    monkeypatch.delenv("HCCL_IF_IP", raising=False)
    monkeypatch.setattr(leftovers, "find", lambda *_: [])
    monkeypatch.setattr(_native, "load", lambda: None)
    monkeypatch.setattr(adapters, "installed", lambda: True)
    (tmp_path / "v1.0-trainval").mkdir()
    names = ("nuscenes_infos_train.pkl", "nuscenes_infos_val.pkl", "lidar.pth", "swin.pth")
    for name in names:
        (tmp_path / name).touch()
    weights = {"load_from": str(tmp_path / "lidar.pth"), "swin": str(tmp_path / "swin.pth")}
    name = "train_full_8p_base_fp16"
    return JobOptions(
        config=CONFIG_FILE,
        case=name,
        data_root=tmp_path,
        work_dir=tmp_path / "w",
        port=port,
        **weights,
    )


def test_job_that_lacks_nothing_may_start(ready: JobOptions, config: Config, cpu: Backend) -> None:
    found = preflight.check(ready, config, cpu)
    assert found.problems == ()
    assert found.options == ready
    assert "8 process(es) on the cpu over gloo" in found.notes[0]


def test_fp16_on_the_cpu_is_said(ready: JobOptions, config: Config, cpu: Backend) -> None:
    found = preflight.check(replace(ready, precision="fp16"), config, cpu)
    assert "fp16 becomes bf16" in found.notes[1]


def test_everything_missing_is_one_list(
    ready: JobOptions, config: Config, cpu: Backend, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    job = replace(ready, data_root=empty, load_from=str(empty / "l.pth"), swin=str(empty / "s.pth"))
    problems = preflight.check(job, config, cpu).problems
    wanted = [
        f"the folder {empty} is missing.*--data-root",
        f"{empty}/nuscenes_infos_train.pkl is missing; make it: python tools/create_data.py",
        f"{empty}/nuscenes_infos_val.pkl is missing",
        f"the tables {empty}/v1.0-trainval are missing",
        f"the checkpoint {empty}/l.pth is missing.*--load-from=FILE",
        f"{empty}/s.pth must be an existing file, got none.*--swin=FILE or --swin=none",
    ]
    assert len(problems) == len(wanted)
    for pattern, problem in zip(wanted, problems, strict=True):
        with pytest.raises(ValueError, match=pattern):
            raise ValueError(problem)


def test_object_database_is_looked_for(ready: JobOptions, cpu: Backend) -> None:
    lidar = CONFIG_FILE.parent / "bevfusion_lidar_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
    (problem,) = preflight.check(
        replace(ready, load_from=None, swin=None), configs.load(lidar), cpu
    ).problems
    assert "nuscenes_dbinfos_train.pkl is missing" in problem


def test_checkpoint_to_resume_must_be_there(
    ready: JobOptions, config: Config, cpu: Backend
) -> None:
    (problem,) = preflight.check(replace(ready, resume="gone.pth"), config, cpu).problems
    assert "the checkpoint gone.pth of --resume is missing" in problem
    second = replace(ready, resume="gone.pth", nnodes=2, node_rank=1, master_addr="127.0.0.1")
    assert preflight.check(second, config, cpu).problems == ()


def test_path_that_the_command_line_would_cut_is_refused(
    ready: JobOptions, config: Config, cpu: Backend
) -> None:
    (problem,) = preflight.check(replace(ready, load_from="my,file.pth"), config, cpu).problems
    assert "--load-from must be a path without commas, brackets and quotes" in problem


def test_weights_may_lie_in_a_folder_with_a_blank(
    ready: JobOptions,
    config: Config,
    cpu: Backend,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "my weights"
    folder.mkdir()
    (folder / command.LIDAR_CHECKPOINT).touch()
    monkeypatch.setenv("ANYBEV_WEIGHTS", str(folder))
    named = replace(ready, load_from=None)
    assert preflight.check(named, config, cpu).problems == ()
    assert preflight.effective(named, config).load_from == str(folder / command.LIDAR_CHECKPOINT)
    monkeypatch.setenv("ANYBEV_WEIGHTS", "a,b")
    (problem,) = preflight.check(named, config, cpu).problems
    assert "ANYBEV_WEIGHTS must be a path without commas" in problem


def test_config_is_the_one_that_the_training_reads(
    ready: JobOptions, config: Config, cpu: Backend
) -> None:
    none = ("val_evaluator=None", "val_cfg=None", "val_dataloader=None")
    blind = replace(ready, cfg_options=(*none, "train_cfg.max_epochs=3"))
    assert preflight.check(blind, config, cpu).problems == ()
    assert preflight.effective(blind, config).train_cfg.max_epochs == 3


def test_port_in_use_is_passed_over_and_said(
    ready: JobOptions, config: Config, cpu: Backend
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        found = preflight.check(replace(ready, port=port), config, cpu)
        assert found.problems == ()
        assert found.options.port > port
        assert f"port {port} is in use; {found.options.port} is taken instead" in found.notes
        several = replace(ready, port=port, nnodes=2, master_addr="127.0.0.1")
        (problem,) = preflight.check(several, config, cpu).problems
        assert f"--port must be a free port of 127.0.0.1, got {port}, which is in use" in problem


def test_no_free_port_is_a_problem(
    ready: JobOptions, config: Config, cpu: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_is_free", lambda *_: False)
    (problem,) = preflight.check(replace(ready, port=500), config, cpu).problems
    assert "--port must be free, got 500, in use with the 100 next" in problem


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("no-such-host.invalid", "--master-addr must be an address or a name that this host can"),
        ("192.0.2.1", "--master-addr must be an address of this host, got 192.0.2.1"),
    ],
)
def test_wrong_master_address_is_found(
    ready: JobOptions, config: Config, cpu: Backend, address: str, message: str
) -> None:
    several = replace(ready, nnodes=2, master_addr=address)
    (problem,) = preflight.check(several, config, cpu).problems
    assert message in problem


@pytest.mark.parametrize("value", ["192.0.2.1", "eth0", "127.0.0.1%nope"])
def test_hccl_if_ip_must_be_this_hosts(
    value: str,
    ready: JobOptions,
    config: Config,
    cpu: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HCCL_IF_IP", value)
    (problem,) = preflight.check(ready, config, cpu).problems
    assert "HCCL_IF_IP must be an IP address of this host as ip[%interface]" in problem
    assert repr(value) in problem
    for right in ("127.0.0.1", "127.0.0.1%lo"):
        monkeypatch.setenv("HCCL_IF_IP", right)
        assert preflight.check(ready, config, cpu).problems == ()


def npu(devices: int) -> Any:
    """An NPU backend that sees some devices."""
    backend = get_backend("npu")
    facts = {name: getattr(backend, name) for name in vars(backend)}
    return SimpleNamespace(
        **facts, probe=lambda: Probe(ProbeState.AVAILABLE, "Ascend910B3", devices)
    )


def test_fewer_devices_than_asked_for(ready: JobOptions, config: Config) -> None:
    (problem,) = preflight.check(ready, config, npu(4)).problems
    assert "--num-npu must be at most 4, the number of npu devices of this node" in problem
    assert problem.endswith("got 8; try --num-npu=4")
    (problem,) = preflight.check(replace(ready, demo=True), config, npu(4)).problems
    assert problem.endswith("try --num-npu=4 or ANYBEV_BACKEND=cpu")
    found = preflight.check(ready, config, npu(8))
    assert (found.problems, found.notes) == ((), ())


def test_missing_kernels_are_found_unless_references_are_allowed(
    ready: JobOptions, config: Config, cpu: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANYBEV_REQUIRE_NATIVE", raising=False)
    monkeypatch.setattr(_native, "load", lambda: "no compiled kernels")
    (problem,) = preflight.check(ready, config, cpu).problems
    assert problem.startswith("no compiled kernels; ANYBEV_REQUIRE_NATIVE=0 trains on")
    monkeypatch.setenv("ANYBEV_REQUIRE_NATIVE", "0")
    assert preflight.check(ready, config, cpu).problems == ()


def test_npus_without_mx_driving_are_named(
    ready: JobOptions, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANYBEV_REQUIRE_NATIVE", raising=False)
    monkeypatch.setattr(adapters, "installed", lambda: False)
    (problem,) = preflight.check(ready, config, npu(8)).problems
    assert problem.startswith(
        "mx_driving, with its kernels, is not installed; ANYBEV_REQUIRE_NATIV"
    )


@pytest.mark.parametrize("same", [True, False])
def test_leftover_is_named(
    same: bool,
    ready: JobOptions,
    config: Config,
    cpu: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = leftovers.Leftover(1234, same, "python train.py")
    monkeypatch.setattr(leftovers, "find", lambda *_: [process])
    found = preflight.check(ready, config, cpu)
    said = found.problems if same else found.notes
    assert "process 1234 (python train.py); end it: kill 1234" in said[-1]
    assert "process 1234" in preflight.check(ready, config, npu(8)).problems[0]


def test_unneeded_weights_are_not_asked_for(
    ready: JobOptions, config: Config, cpu: Backend
) -> None:
    merged = preflight.effective(replace(ready, load_from="none", swin="none"), config)
    assert merged.load_from is None
    assert merged.model.img_backbone.init_cfg is None
    assert command.LIDAR_CHECKPOINT not in str(merged.to_dict())
