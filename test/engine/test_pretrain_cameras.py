"""The camera branch before it joins a lidar model."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config, ConfigDict

from anybev.datasets.sample import Batch
from anybev.device import current_backend
from anybev.device.backend import Backend
from anybev.engine import checkpoint
from anybev.engine.builder import build_detector
from anybev.engine.config import load
from anybev.engine.pretrain_cameras import CAMERA_PARTS, _Cells, pretrain_cameras
from anybev.engine.runner import Runner
from anybev.testing.tiny_config import CAMERA_CONFIG_FILE, CONFIG_FILE, tiny_camera_options


def _config(path: Path, root: Path) -> Config:
    """A tiny config, with its options read as the command line reads them."""
    chosen = {}
    for option in tiny_camera_options(root):
        key, _, value = option.partition("=")
        is_cameras = any(f".{part}." in key for part in CAMERA_PARTS)
        if path == CAMERA_CONFIG_FILE or not (is_cameras or key.endswith("final_dim")):
            chosen[key] = value if "/" in value else eval(value)
    return load(path, chosen)


def test_start_has_the_lidar_model_and_a_trained_camera_branch(
    synthetic_root: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    lidar = build_detector(_config(CONFIG_FILE, synthetic_root).model)
    checkpoint.save(tmp_path / "lidar.pth", lidar)
    config = _config(CAMERA_CONFIG_FILE, synthetic_root)
    seen: list[int] = []
    out = tmp_path / "start.pth"
    found = pretrain_cameras(
        config,
        out,
        lidar_checkpoint=tmp_path / "lidar.pth",
        steps=7,
        seed=0,
        progress=lambda n, _: seen.append(n),
    )
    assert 0 <= found["accuracy"] <= 1
    assert seen == list(range(1, 8))  # more than an epoch, which has 5 batches
    start = checkpoint.read(out)["state_dict"]
    for key, value in lidar.state_dict().items():
        assert torch.equal(start[key], value), key
    torch.manual_seed(0)
    fresh = build_detector(config.model).state_dict()
    cameras = [key for key in fresh if key.split(".")[0] in CAMERA_PARTS]
    assert set(start) == set(lidar.state_dict()) | set(cameras)
    changed = [key for key in cameras if not torch.equal(start[key], fresh[key])]
    assert {key.split(".")[0] for key in changed} == set(CAMERA_PARTS)


def test_start_without_a_lidar_model_has_the_camera_parts_alone(
    synthetic_root: Path, tmp_path: Path
) -> None:
    config = _config(CAMERA_CONFIG_FILE, synthetic_root)
    out = tmp_path / "start.pth"
    pretrain_cameras(config, out, steps=1, seed=0)
    start = checkpoint.read(out)["state_dict"]
    assert {key.split(".")[0] for key in start} == set(CAMERA_PARTS)
    lidar_parts = ["pts_middle_encoder", "pts_backbone", "pts_neck", "bbox_head"]
    checkpoint.load_into(build_detector(config.model), out, may_lack=lidar_parts)


def test_cells_are_those_of_objects_on_the_map() -> None:
    cells = _Cells(
        ConfigDict(
            point_cloud_range=[-10.0, -20.0, -5.0, 10.0, 20.0, 3.0],
            voxel_size=[0.5, 0.5, 0.2],
            out_size_factor=4,
            grid_size=[40, 80, 41],
        )
    )
    places = [[-10.0, -20.0], [9.9, 19.9], [10.0, 0.0], [-10.1, 0.0], [0.5, 1.0]]
    boxes = torch.zeros(5, 9)
    boxes[:, :2] = torch.tensor(places)
    labels = torch.tensor([3, 1, 2, 2, -1])
    empty = torch.zeros(0, 9)
    batch = Batch([], [empty, boxes], [labels[:0], labels], ["a", "b"], torch.eye(4)[None])
    where, kinds = cells.of(batch)
    assert where.tolist() == [[1, 0, 0], [1, 9, 19]]
    assert kinds.tolist() == [3, 1]


def test_config_without_cameras_is_refused(synthetic_root: Path, tmp_path: Path) -> None:
    config = _config(CONFIG_FILE, synthetic_root)
    with pytest.raises(ValueError, match="branch and a fuser, got no img_backbone"):
        pretrain_cameras(config, tmp_path / "b.pth", steps=1, seed=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_is_scaled_under_float16(
    dtype: torch.dtype, synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half(Backend):
        def fast_amp(self) -> bool:
            return True

        def autocast(
            self, enabled: bool = True, dtype: torch.dtype | None = None
        ) -> AbstractContextManager[None]:
            return nullcontext()

    half = Half(**{**vars(current_backend()), "amp_dtype": dtype})
    monkeypatch.setattr("anybev.engine.pretrain_cameras.current_backend", lambda: half)
    largest: list[float] = []
    step = torch.amp.GradScaler.step

    def watched(self: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> object:
        gradients = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        largest.append(max(float(gradient.abs().max()) for gradient in gradients))
        return step(self, optimizer)

    monkeypatch.setattr(torch.amp.GradScaler, "step", watched)
    config = _config(CAMERA_CONFIG_FILE, synthetic_root)
    pretrain_cameras(config, tmp_path / "b.pth", steps=1, seed=0)
    assert (largest[0] > 1000) == (dtype is torch.float16)


def test_no_object_to_learn_from_gives_no_accuracy(
    synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    monkeypatch.setattr(_Cells, "of", lambda *_: nothing)
    config = _config(CAMERA_CONFIG_FILE, synthetic_root)
    assert pretrain_cameras(config, tmp_path / "b.pth", steps=1, seed=0) == {"accuracy": None}


class _NoBatches(list[object]):
    @property
    def sampler(self) -> SimpleNamespace:
        return SimpleNamespace(set_epoch=lambda epoch: None)


def test_no_steps_and_no_frames_are_refused(
    synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(CAMERA_CONFIG_FILE, synthetic_root)
    with pytest.raises(ValueError, match="steps must be 1 or more, got 0"):
        pretrain_cameras(config, tmp_path / "b.pth", steps=0, seed=0)
    monkeypatch.setattr(Runner, "build_dataloader", lambda *_, **__: _NoBatches())
    with pytest.raises(ValueError, match="train_dataloader must give a batch, got none"):
        pretrain_cameras(config, tmp_path / "b.pth", steps=1, seed=0)
