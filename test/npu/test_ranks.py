"""Two processes, each on a simulated npu of its own, over gloo and the simulated HCCL."""

import copy
import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from anybev.engine import checkpoint
from anybev.engine.check.operators import all_on_reference, operators_on
from anybev.testing import npu_step, npu_worker, simnpu
from anybev.testing.processes import TOOLS, Job
from anybev.testing.tiny_training import arguments
from anybev.testing.tolerances import tolerances

RUNNER = Path(simnpu.__file__).parent / "__main__.py"
THREE_STEPS = {
    "train_dataloader__dataset__ann_file": "short.pkl",
    "train_dataloader__batch_size": "1",
    "train_dataloader__sampler__batch_size": "1",
    "train_cfg__max_epochs": "1",
    "param_scheduler__0__total_steps": "1",
}


@pytest.mark.usefixtures("no_float64", "one_thread")
def test_gradients_are_the_mean_of_the_ranks(tmp_path: Path) -> None:
    with Job([tmp_path], tmp_path / "log", ranks=2, tool=Path(npu_worker.__file__)) as job:
        assert job.finish(180) == 0, job.output()[-4000:]
    found = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2)]
    assert [(f["backend"], f["device"]) for f in found] == [
        ("cpu:gloo,npu:hccl", 0),
        ("cpu:gloo,npu:hccl", 1),
    ]
    gradients = []
    detector, _ = npu_step.model_and_batch("lidar")
    for rank, share in enumerate(npu_worker.shares()):
        model = npu_worker.Objective(copy.deepcopy(detector))
        torch.manual_seed(rank)
        with operators_on(all_on_reference()):
            model(share).backward()
        named = model.detector.named_parameters()
        gradients.append({name: p.grad for name, p in named if p.grad is not None})
    for name, value in found[0]["gradients"].items():
        assert torch.equal(value, found[1]["gradients"][name]), name
        expected = (gradients[0][name] + gradients[1][name]) / 2
        torch.testing.assert_close(value, expected, **tolerances(torch.float32, "data_parallel"))
    for each in found:
        assert all(torch.equal(v, torch.full((2,), 3.0)) for v in each["sums"].values())
        assert each["granted"] == ""
        assert "No backend type associated with device type cpu" in each["refused"]


def test_the_tool_trains_in_two_processes(short_root: Path, tmp_path: Path) -> None:
    work_dir = tmp_path / "run"
    chosen = arguments(short_root, work_dir, more=THREE_STEPS)
    command = [TOOLS / "train.py", *chosen]
    with Job(command, tmp_path / "log", ranks=2, tool=RUNNER) as job:
        assert job.finish(240) == 0, job.output()[-4000:]
    (facts,) = work_dir.glob("*/environment.json")
    assert json.loads(facts.read_text())["world_size"] == 2
    assert json.loads(facts.read_text())["backend"] == "npu"
    saved = checkpoint.read(work_dir / "iter_2.pth")
    assert [state["backend"] for state in saved["state"]["rng"]] == ["npu", "npu"]
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_a_tensor_on_the_wrong_device_is_named() -> None:
    create = dist.Backend._plugins["HCCL"].creator_fn
    group = create(dist.HashStore(), 0, 1, timedelta(seconds=10))
    with pytest.raises(RuntimeError, match="hccl: tensors must be on npu, got one on cpu"):
        group.allreduce([torch.ones(2)])
