"""mmdetection3d's own configs through ``tools/train.py`` and ``tools/test.py``, as a user does."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anybev.reporting.job_status import job_status
from anybev.testing.host_models import MODELS, arguments
from anybev.testing.processes import TOOLS, run_tool

Samples = Callable[[str], Path]
# After four pictures its depths lie beyond the range that counts, and the devkit refuses a result
# without any box: it is evaluated up to there.
UNSCORED = ("fcos3d",)


def _train(name: str, root: Path, work_dir: Path, *flags: object, **more: Any) -> list[float]:
    """Losses of one epoch, in order."""
    model = MODELS[name]
    options = model.options(root, frames=4) | {k.replace("__", "."): v for k, v in more.items()}
    run_tool(
        "train.py",
        model.config,
        "--work-dir",
        work_dir,
        *flags,
        "--cfg-options",
        *arguments(options),
        seconds=900,
    )
    (scalars,) = sorted(work_dir.glob("*/vis_data/scalars.json"))[-1:]
    rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def _evaluate(name: str, root: Path, checkpoint: Path, work_dir: Path) -> dict[str, float]:
    model = MODELS[name]
    options = arguments(model.options(root))
    done = run_tool(
        "test.py",
        model.config,
        checkpoint,
        "--work-dir",
        work_dir,
        "--cfg-options",
        *options,
        seconds=900,
    )
    printed = json.loads(done.stdout.splitlines()[-1])
    metrics: dict[str, float] = json.loads((work_dir / "test_metrics.json").read_text())
    assert printed == metrics
    return metrics


@pytest.fixture
def installed(host: object) -> None:
    """The host is installed, as its tests in this process need it too."""


def test_votenet_trains_and_is_evaluated(installed: None, samples: Samples, tmp_path: Path) -> None:
    root = samples("scannet")
    losses = _train("votenet-scannet", root, tmp_path, train_dataloader__dataset__times=20)
    assert len(losses) == 20
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < sum(losses[:5])
    status = job_status(tmp_path)
    assert status.state == "finished"
    measured = json.loads((tmp_path / "metrics.json").read_text())
    assert measured["train"]["steps"] == 20
    scores = _evaluate("votenet-scannet", root, tmp_path / "epoch_1.pth", tmp_path / "test")
    assert scores["mAP_0.25"] == pytest.approx(measured["mAP_0.25"], nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_model_trains_resumes_and_is_evaluated(
    name: str, installed: None, samples: Samples, tmp_path: Path
) -> None:
    root = samples(MODELS[name].data)
    unscored = {"train_cfg__val_begin": 9} if name in UNSCORED else {}
    losses = _train(name, root, tmp_path, **unscored)
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    more = _train(name, root, tmp_path, "--resume", train_cfg__max_epochs=2, **unscored)
    assert all(math.isfinite(loss) for loss in more)
    assert (tmp_path / "last_checkpoint").read_text().endswith("epoch_2.pth")
    if name in UNSCORED:
        with pytest.raises(AssertionError, match="Invalid box type: None"):
            _evaluate(name, root, tmp_path / "epoch_2.pth", tmp_path / "test")
    else:
        assert _evaluate(name, root, tmp_path / "epoch_2.pth", tmp_path / "test")


@pytest.mark.slow
def test_mixed_precision_and_two_processes(
    installed: None, samples: Samples, tmp_path: Path
) -> None:
    root = samples("nuscenes")
    losses = _train(
        "centerpoint-pillar", root, tmp_path / "amp", "--amp", train_cfg__val_interval=9
    )
    assert all(math.isfinite(loss) for loss in losses)
    model = MODELS["centerpoint-pillar"]
    options = model.options(root, frames=4) | {"train_cfg.val_interval": 9}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    job = [
        TOOLS / "train.py",
        model.config,
        "--launcher",
        "pytorch",
        "--work-dir",
        tmp_path / "two",
    ]
    command = map(str, [*launch, *job, "--cfg-options", *arguments(options)])
    subprocess.run(
        list(command), check=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert (tmp_path / "two" / "epoch_1.pth").is_file()


@pytest.mark.slow
def test_hosts_own_train_py_runs_through_the_patches(
    installed: None, samples: Samples, tmp_path: Path
) -> None:
    import mmdet3d

    model = MODELS["second"]
    mim = Path(mmdet3d.__file__).parent / ".mim"
    config = mim / "configs" / model.config.partition("::")[2]
    options = arguments(model.options(samples("kitti"), frames=2))
    command = [sys.executable, "-m", "anybev.patches", mim / "tools" / "train.py", config]
    command += ["--work-dir", tmp_path, "--cfg-options", *options]
    subprocess.run(list(map(str, command)), check=True, timeout=900)
    weights = torch.load(tmp_path / "epoch_1.pth", weights_only=False)["state_dict"]
    assert all(torch.isfinite(value).all() for value in weights.values())
