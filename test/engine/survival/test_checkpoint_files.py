"""Checkpoint files: kills while one is written, full disks, damage; what is taken up after it."""

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from anybev import files
from anybev.engine import checkpoint, newest
from anybev.engine.hooks.checkpoint import CheckpointHook
from anybev.envs import MachineError
from anybev.testing.processes import exit_status_of

STATE = {"sampler": {"done": 1}, "optimizer": {}}


def save(path: Path, step: int, values: int = 1000) -> None:
    weights = {"weight": torch.full((values,), float(step))}
    checkpoint.save(path, weights, meta={"epoch": 0, "iter": step}, state=STATE)


class Runner(SimpleNamespace):
    """As much of a runner as CheckpointHook asks for."""

    def __init__(self, work_dir: Path, values: int = 1000) -> None:
        super().__init__(work_dir=str(work_dir), iter=0, epoch=0, values=values)
        self.message_hub = SimpleNamespace(runtime_info={}, update_info=lambda *fact: None)
        self.logger = SimpleNamespace(info=lambda *text: None)

    def save_checkpoint(self, out_dir: str, name: str, **how: object) -> None:
        save(Path(out_dir) / name, self.iter + 1, self.values)


def hook(runner: Runner, keep: int, by_epoch: bool = False) -> CheckpointHook:
    made = CheckpointHook(interval=1, by_epoch=by_epoch, max_keep_ckpts=keep)
    made.before_train(runner)
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(content: object, stream: object) -> None:
    stream.write(b"PK\x03\x04 half of it")  # type: ignore[attr-defined]
    stream.flush()  # type: ignore[attr-defined]
    die()


def nth(count: int, call: Callable[..., object]) -> Callable[..., object]:
    """``call``, killed before its ``count``-th run."""
    left = [count]

    def counted(*args: object, **more: object) -> object:
        left[0] -= 1
        if not left[0]:
            die()
        return call(*args, **more)

    return counted


# Where the process dies, and which checkpoint is the newest whole one then.
STAGES = {
    "nothing written": (files, "whole_file", 1, 1),
    "half written": (checkpoint.torch, "save", 0, 1),
    "not yet on the disk": (files.os, "fsync", 1, 1),
    "not yet named": (files.os, "replace", 1, 1),
    "not yet pointed to": (files.os, "replace", 2, 1),
    "outdated one not yet gone": (Path, "unlink", 3, 2),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("keep", [1, 2])
def test_a_kill_at_any_stage_of_a_save_leaves_a_whole_checkpoint(
    stage: str, keep: int, tmp_path: Path
) -> None:
    runner = Runner(tmp_path)
    keeper = hook(runner, keep)
    keeper.after_train_iter(runner, 0)
    place, name, count, expected = STAGES[stage]
    runner.iter = 1

    def saves_and_dies() -> None:
        replaced = nth(count, getattr(place, name)) if count else half_written
        if name == "whole_file":
            checkpoint.whole_file = replaced
        else:
            setattr(place, name, replaced)
        keeper.after_train_iter(runner, 1)

    assert exit_status_of(saves_and_dies) == -signal.SIGKILL
    found = newest.newest_good(tmp_path)
    assert found is not None
    assert found.content["meta"]["iter"] == expected
    assert found.refused == ()
    again = Runner(tmp_path)
    again.message_hub.runtime_info["keep_ckpt_ids"] = [1]
    again.message_hub.get_info = lambda name: [1]
    hook(again, keep)
    assert not [name for name in names(tmp_path) if name.endswith(".part")]


def test_outdated_checkpoints_go_after_the_new_one_is_named(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    keeper = hook(runner, 2)
    for step in range(4):
        runner.iter = step
        keeper.after_train_iter(runner, step)
    assert names(tmp_path) == ["iter_3.pth", "iter_4.pth", "last_checkpoint"]
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "iter_4.pth")
    assert keeper.save_now(runner, {"epoch": 0, "iter": 4}) == tmp_path / "iter_4.pth"


def test_a_stop_inside_an_epoch_has_one_name_that_goes_with_the_next_checkpoint(
    tmp_path: Path,
) -> None:
    runner = Runner(tmp_path)
    keeper = hook(runner, 2, by_epoch=True)
    assert keeper.save_now(runner, {"epoch": 0, "iter": 1}) == tmp_path / "stopped.pth"
    found = newest.newest_good(tmp_path)
    assert found is not None
    assert found.path.name == "stopped.pth"
    keeper.after_train_epoch(runner)
    assert names(tmp_path) == ["epoch_1.pth", "last_checkpoint"]


def test_a_half_written_file_of_a_living_process_stays(tmp_path: Path) -> None:
    (tmp_path / ".old.pth.1.part").write_bytes(b"half")
    with files.whole_file(tmp_path / "new.pth") as stream:
        stream.write(b"new")
        removed = files.remove_stale_parts(tmp_path)
        assert [path.name for path in removed] == [".old.pth.1.part"]
    assert names(tmp_path) == ["new.pth"]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.find(np.full(500, 2, np.float32).tobytes())
    content[place + 1001] ^= 4
    path.write_bytes(bytes(content))


def weights_alone(path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.ones(3)}}, path)


def another_file(path: Path) -> None:
    path.write_bytes(b"not a checkpoint at all")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def without_position(path: Path) -> None:
    checkpoint.save(path, {"weight": torch.ones(3)}, meta={"epoch": 0}, state=STATE)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncated, "must be a whole file"),
        (flipped, "bits of .*data/0 that changed after it was written"),
        (weights_alone, "must hold the optimizer and the position in the epoch"),
        (another_file, "must be a whole file"),
        (emptied, "must be a whole file"),
        (without_position, "must tell its iter as a number, got None"),
    ],
)
def test_the_one_before_a_damaged_checkpoint_is_taken_and_it_is_said(
    damage: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    for step in (1, 2):
        save(tmp_path / f"iter_{step}.pth", step)
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_2.pth"))
    damage(tmp_path / "iter_2.pth")
    found = newest.newest_good(tmp_path)
    assert found is not None
    assert found.path.name == "iter_1.pth"
    (reason,) = found.refused
    assert "iter_2.pth" in reason
    with pytest.raises(ValueError, match=said):
        newest.read_resumable(tmp_path / "iter_2.pth")
    damage(tmp_path / "iter_1.pth")
    if damage is not flipped:
        with pytest.raises(ValueError, match="must hold a whole checkpoint, got 2 that cannot"):
            newest.newest_good(tmp_path)


def test_torchs_own_reader_takes_a_flipped_bit_for_a_weight(tmp_path: Path) -> None:
    path = tmp_path / "iter_2.pth"
    save(path, 2)
    flipped(path)
    weight = torch.load(path, weights_only=True)["state_dict"]["weight"]
    assert (weight != 2).sum() == 1  # why AnyBEV compares checksums itself


def test_every_flipped_bit_of_the_weights_is_found(tmp_path: Path) -> None:
    path = tmp_path / "iter_2.pth"
    save(path, 2, values=64)
    whole = path.read_bytes()
    start = whole.find(np.full(64, 2, np.float32).tobytes())
    for place in range(start, start + 256, 7):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(bytes(content))
        with pytest.raises(ValueError, match="that changed after it was written"):
            checkpoint.read(path)


def test_candidates_follow_the_pointer_then_time_wherever_the_folder_moved(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path / f"iter_{step}.pth", step)
        os.utime(tmp_path / f"iter_{step}.pth", (step, step))
    save(tmp_path / "best_NDS_iter_1.pth", 1)
    (tmp_path / "last_checkpoint").write_text("/gone/from/here/iter_2.pth\n")
    assert [path.name for path in newest.candidates(tmp_path)] == [
        "iter_2.pth",
        "iter_3.pth",
        "iter_1.pth",
    ]
    (tmp_path / "last_checkpoint").write_text("")
    assert newest.candidates(tmp_path)[0].name == "iter_3.pth"
    assert newest.candidates(tmp_path / "missing") == []
    assert newest.newest_good(tmp_path / "missing") is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(["mount", *options], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if made.returncode:
        pytest.skip(f"may not mount a small disk: {made.stderr.strip()}")
    try:
        yield folder
    finally:  # lazily: a failed test may hold a file open
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=60)


@pytest.mark.parametrize("values", [200_000, 262_144, 2_000_000])
def test_a_full_disk_is_named_and_the_checkpoint_before_stays(
    values: int, small_disk: Path
) -> None:
    save(small_disk / "iter_1.pth", 1, 10_000)
    with pytest.raises(
        MachineError,
        match=r"iter_2\.pth must find \d+\.\d MiB of space, got 'No space left on device' with "
        r"\d\.\d MiB free",
    ):
        save(small_disk / "iter_2.pth", 2, values + 60_000)
    assert names(small_disk) == ["iter_1.pth"]
    found = newest.newest_good(small_disk)
    assert found is not None
    assert found.content["meta"]["iter"] == 1


def test_a_file_size_limit_is_named(tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(MachineError, match=r"iter_2\.pth must find .* got 'File too large'"):
            save(tmp_path / "iter_2.pth", 2, 100_000)

    assert exit_status_of(limited) == 0
    assert names(tmp_path) == []


def test_a_log_that_finds_no_space_ends_in_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(MachineError, match=r"must have space for logs .* got 'No space left"),
        checkpoint.name_full_disk(tmp_path),
    ):
        raise OSError(28, "No space left on device", "scalars.json")
    with pytest.raises(OSError, match="gone"), checkpoint.name_full_disk(tmp_path):
        raise OSError(5, "gone")


def test_another_error_of_writing_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="folder"):
        checkpoint.save(tmp_path / "folder" / "m.pth", nn.Linear(1, 1))
