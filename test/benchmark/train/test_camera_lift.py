"""The cameras' worth: how it is computed, and (slow) that it is there."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from anybev.benchmark.train import camera_lift
from anybev.benchmark.train.camera_lift import CONFIGS, FAULTS, Run
from anybev.benchmark.train.camera_lift_figure import draw

MIN_LIFT = 0.15
MIN_COST = 0.02


def _row(kind: str, seed: int, ap: float, fault: str = "") -> dict[str, Any]:
    scores = {"same_shape_ap": ap, "mAP": ap / 2, "NDS": ap / 4}
    return {"kind": kind, "seed": seed, "fault": fault, **scores}


def test_summary_pairs_runs_by_seed_and_averages_over_them() -> None:
    rows = [_row("lidar", 0, 0.2), _row("lidar", 1, 0.1)]
    rows += [_row("lidar-cam", 1, 0.4), _row("lidar-cam", 0, 0.6)]
    rows += [_row("lidar-cam", seed, 0.1, name) for seed in (0, 1) for name in FAULTS]
    found = camera_lift.summary(rows)
    assert found["lifts"] == pytest.approx([0.4, 0.3])
    assert found["mean_lift"] == pytest.approx(0.35)
    for cost in found["costs"].values():
        assert cost == pytest.approx({"same_shape_ap": 0.4, "mAP": 0.2, "NDS": 0.1})


def test_both_sides_train_for_equal_steps_on_the_same_data() -> None:
    lidar, fusion = (Config.fromfile(str(path)) for path in CONFIGS.values())
    for key in ("train_cfg", "optim_wrapper", "param_scheduler", "class_names"):
        assert lidar[key] == fusion[key]
    for key in ("batch_size", "sampler"):
        assert lidar.train_dataloader[key] == fusion.train_dataloader[key]
    assert lidar.model.bbox_head == fusion.model.bbox_head
    assert lidar.model.pts_middle_encoder == fusion.model.pts_middle_encoder


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_config_has_the_fault_behind_the_loading_of_images(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "faulty.py"
    path.write_text(camera_lift._faulty_config(CONFIGS["lidar-cam"], FAULTS[name]))
    steps = [step.type for step in Config.fromfile(str(path)).test_dataloader.dataset.pipeline]
    assert steps.index("CameraFault") == steps.index("ImageAug3D") + 1


def test_curve_has_a_point_a_checkpoint_in_the_order_of_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in (160, 1000, 320):
        (tmp_path / f"iter_{steps}.pth").touch()

    def score(run: Run, checkpoint: Path, config: Path, folder: Path, *_: Any) -> dict[str, float]:
        assert config == CONFIGS["lidar"]
        assert folder.name == f"scored_{checkpoint.stem}"
        steps = int(checkpoint.stem.split("_")[1])
        return {"AP/motorcycle": steps / 1000, "AP/bicycle": steps / 500}

    monkeypatch.setattr(camera_lift, "score", score)
    final = {"AP/motorcycle": 0.5, "AP/bicycle": 0.7}
    found = camera_lift.curve(Run("lidar", 0, tmp_path), final, tmp_path, 1)
    assert found == [(160, pytest.approx(0.24)), (320, pytest.approx(0.48)), (1000, 0.6)]


def test_lidar_cam_starts_with_a_camera_branch_and_no_lidar_model(tmp_path: Path) -> None:
    lidar, joint = (Run(kind, 0, tmp_path).options for kind in CONFIGS)
    assert [option for option in joint if option not in lidar] == [
        f"load_from={tmp_path / 'start.pth'}",
        "load_from_may_lack=['pts_middle_encoder','pts_backbone','pts_neck','bbox_head']",
    ]


def test_figure_is_a_picture_of_both_sides(tmp_path: Path) -> None:
    rows = [
        {**_row(kind, seed, 0.3), "curve": [[160, 0.1], [320, 0.1 + 0.1 * seed]]}
        for kind in CONFIGS
        for seed in (0, 1)
    ]
    draw(rows, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[1:4] == b"PNG"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Summary of the whole measurement."""
    folder = tmp_path_factory.mktemp("camera_lift")
    places = ["--data-root", str(folder / "data"), "--work-dir", str(folder / "runs")]
    return camera_lift.main([*places, "--jobs", "2"])


@pytest.mark.slow
def test_cameras_lift_what_only_colour_tells_apart(found: dict[str, Any]) -> None:
    assert len(found["lifts"]) == 3
    assert found["mean_lift"] >= MIN_LIFT


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_model_that_uses_its_cameras_suffers_from_a_faulty_rig(
    name: str, found: dict[str, Any]
) -> None:
    assert found["costs"][name]["same_shape_ap"] > MIN_COST
