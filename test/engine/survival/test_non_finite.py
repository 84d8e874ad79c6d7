"""A loss that is NaN on one rank of two: it is named, and both end before the weights change."""

import re
from pathlib import Path

import torch

from anybev.datasets.infos import load_infos
from anybev.engine import checkpoint
from anybev.reporting.status import read_status
from anybev.testing.processes import Job
from anybev.testing.tiny_training import HALVES, arguments

# The training, with a bad loss on rank 1 from its third step on.
TOOL = """
import os, sys
from anybev.engine.launch import fail_clearly
from anybev.engine.train import train
from anybev.models.bevfusion.detector import BEVFusion

right, calls = BEVFusion.loss, []


def wrong(self, batch, *rest):
    losses = right(self, batch, *rest)
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) >= 3:
        losses["loss_heatmap"] = losses["loss_heatmap"] * float("nan")
    return losses


BEVFusion.loss = wrong
sys.exit(fail_clearly(train))
"""


def test_a_bad_loss_on_one_rank_is_named_and_both_end(synthetic_root: Path, tmp_path: Path) -> None:
    tool = tmp_path / "tool.py"
    tool.write_text(TOOL)
    command = arguments(synthetic_root, tmp_path / "run", more=HALVES)
    with Job(command, tmp_path / "out.txt", ranks=2, tool=tool) as job:
        assert job.finish(400) > 0
        output = job.output()
    events, _ = read_status(tmp_path / "run" / "status.json")
    failures = {e["rank"]: e["message"] for e in events if e["status"] == "FAILURE"}
    assert failures.keys() == {0, 1}, output[-3000:]
    infos = load_infos(synthetic_root / "nuscenes_infos_train.pkl")["data_list"]
    known = {info["token"] for info in infos}
    for message in failures.values():
        assert "loss must be finite, got another in epoch 1, step 3 (iteration 3)" in message
        assert "rank 0 of 2" not in message
        found = re.search(r"rank 1 of 2: loss_heatmap = nan; samples ([^;]+); (.*)", message)
        assert found, message
        assert len(found[1].split(", ")) == 2
        assert set(found[1].split(", ")) <= known
        assert "it is in the losses themselves" in found[2]
    # Every two steps: the third one wrote nothing.
    assert [path.name for path in (tmp_path / "run").glob("*.pth")] == ["iter_2.pth"]
    state = checkpoint.read(tmp_path / "run" / "iter_2.pth")["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values())
