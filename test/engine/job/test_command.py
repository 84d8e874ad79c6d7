"""The command of a job, from its options and its config."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

import anybev
from anybev.device import get_backend
from anybev.device.backend import Backend
from anybev.engine import config as configs
from anybev.engine.job import command, demo
from anybev.engine.job.options import JobOptions

ROOT = Path(anybev.__file__).resolve().parents[2]
BEVFUSION = ROOT / "configs" / "bevfusion"
PUBLISHED = BEVFUSION / "bevfusion_lidar-cam_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
LIDAR = BEVFUSION / "bevfusion_lidar_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py"


@pytest.fixture(scope="module")
def published() -> Config:
    return configs.load(PUBLISHED)


@pytest.fixture(scope="module")
def lidar() -> Config:
    return configs.load(LIDAR)


@pytest.fixture
def cpu() -> Backend:
    return get_backend("cpu")


def job(**more: Any) -> JobOptions:
    known: dict[str, Any] = {"config": PUBLISHED, "case": "train_full_8p_base_fp16"}
    known |= {"batch_size": 2, "epochs": 3, "work_dir": Path("w")}
    return JobOptions(**(known | more))


def settings(options: JobOptions, config: Config) -> dict[str, str]:
    pairs = (option.partition("=") for option in command.config_options(options, config))
    return {key: value for key, _, value in pairs}


def test_batch_and_epochs_reach_loader_sampler_and_loop(published: Config) -> None:
    found = settings(job(), published)
    assert found["train_dataloader.batch_size"] == "2"
    assert found["train_dataloader.sampler.batch_size"] == "2"
    assert found["train_cfg.max_epochs"] == "3"
    assert "train_cfg.val_interval" not in found


def test_last_epoch_is_scored(lidar: Config) -> None:
    assert settings(job(config=LIDAR, epochs=6), lidar)["train_cfg.val_interval"] == "6"
    assert "train_cfg.val_interval" not in settings(job(config=LIDAR, epochs=10), lidar)


def test_one_cycle_is_as_long_as_the_training() -> None:
    found = settings(job(epochs=1, demo=True), configs.load(demo.CONFIG))
    assert found["param_scheduler.0.total_steps"] == "1"
    assert found["train_dataloader.num_workers"] == "0"


def test_data_root_moves_every_path(lidar: Config) -> None:
    found = settings(job(config=LIDAR, data_root=Path("/mnt/nus/")), lidar)
    inner = "train_dataloader.dataset.dataset"
    assert found[f"{inner}.data_root"].rstrip("/") == "/mnt/nus"
    sampler = f"{inner}.pipeline.3.db_sampler.info_path"
    assert found[sampler] == "/mnt/nus/nuscenes_dbinfos_train.pkl"
    assert found["val_evaluator.ann_file"] == "/mnt/nus/nuscenes_infos_val.pkl"
    merged = Config(lidar.to_dict())
    merged.merge_from_dict(dict(found))
    named = [str(merged[key].to_dict()) for key in ("train_dataloader", "test_evaluator")]
    assert not [text for text in named if "'data/nuscenes" in text]


def test_weights_are_looked_for_where_users_of_drivingsdk_have_them(
    published: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYBEV_WEIGHTS", "w")
    assert settings(job(), published)["load_from"] == f"w/{command.LIDAR_CHECKPOINT}"
    Path("pretrained").mkdir()
    Path("pretrained", command.SWIN_WEIGHTS).touch()
    swin = "model.img_backbone.init_cfg.checkpoint"
    assert settings(job(), published)[swin] == f"pretrained/{command.SWIN_WEIGHTS}"


def test_other_weights_are_a_flag(published: Config) -> None:
    found = settings(job(load_from="a.pth", swin="b.pth"), published)
    assert found["load_from"] == "a.pth"
    assert found["model.img_backbone.init_cfg.checkpoint"] == "b.pth"
    found = settings(job(load_from="none", swin="none"), published)
    assert found["load_from"] == "None"
    assert found["model.img_backbone.init_cfg"] == "None"


def test_job_without_a_case_adds_no_weights(published: Config, lidar: Config) -> None:
    assert settings(job(case=None, batch_size=None, epochs=None), published) == {}
    assert "load_from" not in settings(job(config=LIDAR), lidar)


def test_command_is_torchrun_and_the_training(published: Config, cpu: Backend) -> None:
    options = job(precision="fp16", nproc=2, resume="auto", auto_scale_lr=True)
    options = JobOptions(**(vars(options) | {"cfg_options": ("randomness.seed=3",)}))
    built = command.build(options, published, cpu)
    words = built.words
    assert {"--nproc-per-node=2", "--nnodes=1", "--amp", "--auto-scale-lr"} <= set(words)
    assert words[words.index("--resume") + 1] == "--cfg-options"
    assert words[words.index("--work-dir") + 1] == "w"
    assert words[-1] == "randomness.seed=3"
    assert shlex.split(str(built))[-len(words) :] == list(words)


def test_flags_of_the_training_come_last(published: Config, cpu: Backend) -> None:
    flags = ("--work-dir", "v", "--cfg-options", "a=b")
    words = command.build(job(train_flags=flags), published, cpu).words
    assert words[-4:] == flags
    assert words.count("--work-dir") == 1


def test_checkpoint_to_resume_is_named(published: Config, cpu: Backend) -> None:
    words = command.build(job(resume="a.pth"), published, cpu).words
    assert words[words.index("--resume") + 1] == "a.pth"


def test_base_batch_size_is_the_configs_own_when_it_names_none() -> None:
    config = configs.load(demo.CONFIG)
    assert settings(job(auto_scale_lr=True), config)["auto_scale_lr.base_batch_size"] == "2"


def test_fp16_becomes_bf16_where_losses_are_not_scaled(cpu: Backend) -> None:
    assert command.trains_in(job(precision="fp16"), cpu) == "bf16"
    assert command.trains_in(job(precision="fp16"), get_backend("npu")) == "fp16"
    assert command.trains_in(job(), cpu) == "fp32"


def test_cores_are_shared_and_the_clusters_variables_stay_behind(
    cpu: Backend, published: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    built = command.build(job(nproc=64), published, cpu)
    assert built.variables["OMP_NUM_THREADS"] == "1"
    assert built.variables["ANYBEV_REQUIRE_NATIVE"] == "1"
    assert "WORLD_SIZE" not in built.environment()
    monkeypatch.setenv("ANYBEV_REQUIRE_NATIVE", "0")
    assert command.build(job(), published, cpu).variables["ANYBEV_REQUIRE_NATIVE"] == "0"
    assert "OMP_NUM_THREADS" not in command.variables(job(), get_backend("cuda"))
