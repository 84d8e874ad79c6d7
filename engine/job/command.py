"""The command and the environment of one node's share, as a pure function of its options."""

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

import anybev
from anybev import envs
from anybev.device import Capability
from anybev.device.backend import Backend
from anybev.engine.job import demo, nodes
from anybev.engine.job.options import JobOptions

#: What DrivingSDK's launchers start from, looked for in ANYBEV_WEIGHTS and in ``pretrained/``.
LIDAR_CHECKPOINT = "bevfusion_lidar_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d-2628f933.pth"
SWIN_WEIGHTS = "swint-nuimages-pretrained.pth"
_SWIN_KEY = "model.img_backbone.init_cfg"
_OF_DATA = (
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "val_evaluator",
    "test_evaluator",
)
# Of the cluster or of another launcher around this one: torchrun sets its own.
_NOT_HANDED_ON = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Command:
    """What is started.

    Attributes:
        words: program and arguments.
        variables: set for it on top of this process's environment.
    """

    words: tuple[str, ...]
    variables: Mapping[str, str]

    def __str__(self) -> str:
        """As a line for a shell."""
        settings = [f"{name}={value}" for name, value in self.variables.items()]
        return shlex.join(["env", *settings, *self.words])

    def environment(self) -> dict[str, str]:
        """The whole environment of the process."""
        kept = {key: value for key, value in os.environ.items() if key not in _NOT_HANDED_ON}
        return kept | dict(self.variables)


def weights_file(name: str) -> Path:
    """Where a file of weights is, or, when it is nowhere, where it belongs."""
    places = (envs.weights_dir() / name, Path("pretrained") / name)
    return next((place for place in places if place.is_file()), places[0])


def trains_in(options: JobOptions, backend: Backend) -> str:
    """``fp32``, ``fp16`` or ``bf16``: what the precision that was asked for becomes here."""
    if options.precision == "fp16" and Capability.GRAD_SCALER not in backend.capabilities:
        return "bf16"
    return options.precision


def config_options(options: JobOptions, config: Config) -> list[str]:
    """``KEY=VALUE`` that make a config this job's; the user's own come last and win.

    Args:
        options: of the job.
        config: as its file says.
    """
    found = _size_options(options, config)
    if options.data_root:
        found += _data_options(config, str(options.data_root))
    found += _weights_options(options, config)
    if options.demo:
        found += demo.config_options()
    return [*found, *options.cfg_options]


def _size_options(options: JobOptions, config: Config) -> list[str]:
    found = []
    if options.batch_size:
        found.append(f"train_dataloader.batch_size={options.batch_size}")
        if "batch_size" in config.train_dataloader.get("sampler", {}):
            found.append(f"train_dataloader.sampler.batch_size={options.batch_size}")
    if options.epochs:
        found.append(f"train_cfg.max_epochs={options.epochs}")
        if options.epochs % config.train_cfg.get("val_interval", 1):  # the last epoch is scored
            found.append(f"train_cfg.val_interval={options.epochs}")
        # A cosine may be cut short, as by DrivingSDK's scripts; one cycle has to fit.
        found += [
            f"param_scheduler.{index}.total_steps={options.epochs}"
            for index, scheduler in enumerate(config.get("param_scheduler", ()))
            if scheduler.get("by_epoch", True) and "total_steps" in scheduler
        ]
    if options.auto_scale_lr and "base_batch_size" not in config.get("auto_scale_lr", {}):
        found.append(f"auto_scale_lr.base_batch_size={config.train_dataloader.batch_size}")
    return found


def innermost(dataloader: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data set of a loader without those that wrap it."""
    dataset: Mapping[str, Any] = dataloader["dataset"]
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    return dataset


def _data_options(config: Config, root: str) -> list[str]:
    """Every path of the config under its old data root, under the new one."""
    old = str(config.get("data_root") or innermost(config.train_dataloader)["data_root"])
    old = old.rstrip("/")

    def moved(node: Any, path: str) -> Iterator[str]:
        if isinstance(node, Mapping):
            for key, value in node.items():
                yield from moved(value, f"{path}.{key}")
        elif isinstance(node, list | tuple):
            for index, value in enumerate(node):
                yield from moved(value, f"{path}.{index}")
        elif isinstance(node, str) and (node == old or node.startswith(old + "/")):
            yield f"{path}={root.rstrip('/')}{node.removeprefix(old)}"

    return [option for name in _OF_DATA for option in moved(config.get(name), name)]


def _weights_options(options: JobOptions, config: Config) -> list[str]:
    named = options.case is not None and not options.demo
    load_from, swin = options.load_from, options.swin
    if load_from is None and named and "load_from_may_lack" in config and not config.load_from:
        load_from = str(weights_file(LIDAR_CHECKPOINT))
    if swin is None and named and config.model.get("img_backbone", {}).get("init_cfg"):
        swin = str(weights_file(SWIN_WEIGHTS))
    found = []
    if load_from is not None:
        found.append(f"load_from={'None' if load_from == 'none' else load_from}")
    if swin is not None and swin != "none":
        found += [f"{_SWIN_KEY}.type=Pretrained", f"{_SWIN_KEY}.checkpoint={swin}"]
    elif swin == "none":
        found.append(f"{_SWIN_KEY}=None")
    return found


def build(options: JobOptions, config: Config, backend: Backend) -> Command:
    """The command of one node's share.

    Args:
        options: of the job.
        config: as its file says.
        backend: that it trains on.
    """
    tool = Path(anybev.__file__).resolve().parents[2] / "tools" / "train.py"
    words = [*nodes.torchrun_command(options), str(tool), str(options.config)]
    words += ["--launcher", "pytorch"]
    given = {flag.partition("=")[0] for flag in options.train_flags}
    if options.work_dir and "--work-dir" not in given:
        words += ["--work-dir", str(options.work_dir)]
    if options.precision == "fp16":
        words.append("--amp")
    if options.auto_scale_lr:
        words.append("--auto-scale-lr")
    if options.resume:
        words += ["--resume", *([] if options.resume == "auto" else [options.resume])]
    settings = config_options(options, config)
    if settings:
        words += ["--cfg-options", *settings]
    return Command((*words, *options.train_flags), variables(options, backend))


def variables(options: JobOptions, backend: Backend) -> dict[str, str]:
    """Set for the job's processes; what the user has set stays."""
    wanted = {
        "PYTHONUNBUFFERED": "1",  # the log is for reading while it grows
        "ANYBEV_REQUIRE_NATIVE": "1",  # a slow fallback would be measured as if it were normal
    }
    if Capability.INDEXED not in backend.capabilities:
        cores = len(os.sched_getaffinity(0))
        wanted["OMP_NUM_THREADS"] = str(max(1, cores // options.nproc))
    return {name: os.environ.get(name) or value for name, value in wanted.items()}
