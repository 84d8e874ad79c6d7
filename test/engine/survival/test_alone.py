"""A run of one process that is told to stop, and goes on bit for bit."""

import re
import signal
from pathlib import Path

from anybev.engine import checkpoint
from anybev.testing.processes import Job
from anybev.testing.tiny_training import arguments, assert_same_training, slow_tool

# By epochs, as the configs have it: the stop's own file has a name of its own.
BY_EPOCH = {
    "default_hooks__checkpoint__by_epoch": "True",
    "default_hooks__checkpoint__interval": "1",
}


def test_sigterm_saves_the_step_and_the_resumed_run_is_bit_equal(
    synthetic_root: Path, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    with Job(arguments(synthetic_root, whole, more=BY_EPOCH), whole / "out.txt") as job:
        assert job.finish(300) == 0, job.output()[-2000:]
    command, tool = arguments(synthetic_root, stopped, more=BY_EPOCH), slow_tool(tmp_path)
    with Job(command, stopped / "out.txt", tool=tool) as job:
        job.wait_for_step(2)
        job.send(signal.SIGTERM)
        assert job.finish(120) == 128 + signal.SIGTERM, job.output()[-2000:]
        assert "SIGTERM: this step is finished and saved" in job.output()
    saved = Path((stopped / "last_checkpoint").read_text())
    assert saved.name == "stopped.pth"
    meta = checkpoint.read(saved)["meta"]
    step = meta["iter"]
    assert meta["lr_ratio"] == 1
    assert 2 <= step < 5
    (stopped / ".epoch_9.pth.1.part").write_bytes(b"half")
    resume = arguments(synthetic_root, stopped, "--resume", more=BY_EPOCH)
    with Job(resume, stopped / "resumed.txt") as job:
        assert job.finish(300) == 0, job.output()[-2000:]
        assert f"resumed {saved}: epoch 1, iteration {step}" in job.output()
        assert re.search(r"learning rate: [\d.e-]+, of the checkpoint", job.output())
        assert "removed" in job.output()
    assert_same_training(whole / "epoch_2.pth", stopped / "epoch_2.pth")
    assert sorted(path.name for path in stopped.glob("*.pth")) == ["epoch_1.pth", "epoch_2.pth"]
