"""Synthetic scenes and the small config: a job that any machine can try."""

import fcntl
from pathlib import Path

import anybev
from anybev import demo

CONFIG = Path(anybev.__file__).parent / demo.SMALL_CONFIGS["lidar-cam"]
ROOT = Path("data/demo_job")
SEED = 0
SCENES, VAL_SCENES = 2, 1  # 40 frames to train on: 5 steps an epoch of 8 processes
# Eight processes share the cores: they read the few scenes themselves.
_SETTINGS = {
    "num_workers": "0",
    "persistent_workers": "False",
}


def write_data(root: Path) -> None:
    """The scenes, written unless they are there; nodes that share a disk take turns."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_name(f".{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        demo.write_data(root, SEED, SCENES, VAL_SCENES)


def config_options() -> list[str]:
    """``KEY=VALUE`` that the few scenes and the many processes need."""
    loaders = ("train_dataloader", "val_dataloader", "test_dataloader")
    options = [f"{at}.{key}={value}" for at in loaders for key, value in _SETTINGS.items()]
    return [*options, "default_hooks.logger.interval=1"]
