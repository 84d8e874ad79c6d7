"""Timing of the real frame: phases, and the other side's figures."""

import json
from pathlib import Path

import pytest
import torch

from anybev.benchmark.train import real_frame
from anybev.engine.builder import build_detector
from anybev.testing.golden import GoldenPack
from anybev.testing.tiny_cameras import tiny_camera_batch, tiny_camera_cfg


def test_every_phase_is_timed_and_the_warm_up_left_out() -> None:
    detector = build_detector(tiny_camera_cfg())
    clock = real_frame.Clock(detector)
    for _ in range(2):
        clock.timed("total", lambda: detector(tiny_camera_batch()))
    assert set(clock.seconds) == {*real_frame._PHASES, "total"}
    assert {len(seconds) for seconds in clock.seconds.values()} == {2}
    clock.seconds = {"total": [9.0, 1.0, 3.0, 2.0], "once": [4.0]}
    assert clock.medians() == {"total": 2.0, "once": 4.0}


def test_the_other_side_stands_beside_ours(tmp_path: Path) -> None:
    results = {"lidar_cam.predict": {"median_s": {"total": 2.0}, "max_rss_gb": 1.0}}
    other = {"lidar_cam.predict": {"median_s": {"total": 6.0}, "max_rss_gb": 3.0}}
    (tmp_path / "other.json").write_text(json.dumps({"runs": other}))
    assert "baseline" not in real_frame.report(results, None)
    row = real_frame.report(results, tmp_path / "other.json")["baseline"]["lidar_cam.predict"]
    assert row["time_ratio"] == 3
    assert row["memory_ratio"] == 3


def test_the_frame_is_the_recorded_one(test_data: Path) -> None:
    pack = GoldenPack.load(test_data / "golden" / "pack_a.npz").inputs()
    folder = test_data / "data" / "nuscenes_frame"
    frame = real_frame.load_frame(folder, real_frame.load_config("lidar_cam"))
    assert torch.equal(frame.points_lidar_m[0], torch.from_numpy(pack.points_lidar_m))
    images = frame.cameras.images[0].permute(0, 2, 3, 1)
    assert torch.equal(images, torch.from_numpy(pack.cameras.images))
    for name in ("cam2img", "lidar2img", "cam2lidar", "img_aug_matrix"):
        wanted = torch.from_numpy(getattr(pack.cameras, name)).float()
        torch.testing.assert_close(getattr(frame.cameras, name)[0], wanted)
    alone = real_frame.load_frame(folder, real_frame.load_config("lidar_only"))
    assert alone.cameras is None


@pytest.mark.slow
def test_both_modes_are_measured(test_data: Path, tmp_path: Path) -> None:
    real_frame.main(["--runs", "1", "--model", "lidar_only", "--out", str(tmp_path / "out.json")])
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert set(runs) == {"lidar_only.predict", "lidar_only.train"}
    assert all(run["median_s"]["total"] > 0 for run in runs.values())
    assert "backward" in runs["lidar_only.train"]["median_s"]
