"""A training short enough to be killed often: ten steps in two epochs, a checkpoint every two."""

from collections.abc import Mapping
from pathlib import Path

import torch

from anybev.engine import checkpoint
from anybev.testing.tiny_config import CONFIG_FILE, tiny_options

_SHORT = {
    "train_cfg__max_epochs": "2",
    "train_cfg__val_begin": "9",  # no evaluation
    "param_scheduler__0__total_steps": "2",
    "default_hooks__checkpoint__by_epoch": "False",
    "default_hooks__checkpoint__interval": "2",
    "default_hooks__checkpoint__max_keep_ckpts": "3",
}
#: For two ranks: the same four samples a step as one rank takes.
HALVES = {"train_dataloader__batch_size": "2", "train_dataloader__sampler__batch_size": "2"}

# Half a second longer a step, same numbers: a signal finds the run under way on a busy machine.
_SLOW_TOOL = """
import sys, time
from anybev.engine.launch import fail_clearly
from anybev.engine.train import train
from anybev.models.bevfusion.detector import BEVFusion

loss = BEVFusion.loss


def later(self, *arguments):
    time.sleep(0.5)
    return loss(self, *arguments)


BEVFusion.loss = later
sys.exit(fail_clearly(train))
"""


def arguments(
    root: Path, work_dir: Path, *flags: object, more: Mapping[str, str] | None = None
) -> list[object]:
    """Of ``tools/train.py``: the tiny config on the data in ``root``.

    Args:
        root: folder with info files in nuScenes layout.
        work_dir: of the training.
        flags: further flags.
        more: further options, dots as double underscores.
    """
    options = tiny_options(root, 0, **(_SHORT | dict(more or {})))
    return [CONFIG_FILE, "--work-dir", work_dir, *flags, "--cfg-options", *options]


def slow_tool(folder: Path) -> Path:
    """A script to run instead of ``tools/train.py`` where the training is to be interrupted."""
    path = folder / "slow_tool.py"
    path.write_text(_SLOW_TOOL)
    return path


def assert_same_training(one: Path, other: Path) -> None:
    """Assert that two checkpoints hold the same weights and optimizer, bit for bit.

    Raises:
        AssertionError: something differs; the message names it.
    """
    first, second = checkpoint.read(one), checkpoint.read(other)
    assert first["meta"]["iter"] == second["meta"]["iter"]
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for key, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][key]), key
    mine, theirs = (c["state"]["optimizer"]["state"] for c in (first, second))
    assert mine.keys() == theirs.keys()
    for parameter, moments in mine.items():
        for name, value in moments.items():
            assert torch.equal(value, theirs[parameter][name]), (parameter, name)
