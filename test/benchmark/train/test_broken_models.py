"""Deliberately broken models fail the regression gate."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anybev.benchmark.train import baseline as gate
from anybev.engine.builder import build_detector
from anybev.models.bevfusion.box_coder import TransFusionBBoxCoder
from anybev.models.bevfusion.detector import BEVFusion
from anybev.models.bevfusion.transfusion_head import TransFusionHead
from anybev.reporting.baseline import RunNumbers, read_baseline, run_numbers
from anybev.reporting.regress import compare
from anybev.reporting.run import read_run
from anybev.testing.broken_models import DROPPED_CLASS, KINDS, broken
from anybev.testing.tiny import tiny_batch, tiny_model_cfg
from anybev.testing.tiny_cameras import tiny_camera_batch, tiny_camera_cfg

# A number that each fault must fail; it may fail others too.
SHOWN_BY = {
    "yaw_sign": "mAOE",
    "cameras_zeroed": "mAP",
    "bev_shifted": "NDS",
    "class_dropped": "AP/car",
}
SEED = 0  # of the run that was broken
STORED = gate.BASELINE.with_name("gate_broken.json")


def failed(values: Mapping[str, float]) -> list[str]:
    """Scores that fail the gate."""
    baseline = read_baseline(gate.BASELINE)
    scores = {name: value for name, value in values.items() if "loss" not in name}
    run = RunNumbers(SEED, "", "", {}, scores, baseline.entries, baseline.frames)
    return [row.name for row in compare([run], baseline, scores_only=True).failed]


@pytest.mark.parametrize("kind", KINDS)
def test_stored_scores_of_a_broken_model_fail(kind: str) -> None:
    assert SHOWN_BY[kind] in failed(json.loads(STORED.read_text())[kind])


def test_stored_scores_of_the_same_model_whole_pass() -> None:
    assert failed(json.loads(STORED.read_text())["whole"]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_fault_lasts_as_long_as_its_block(kind: str) -> None:
    owners = (TransFusionBBoxCoder, BEVFusion, TransFusionHead)
    before = [dict(vars(owner)) for owner in owners]
    with broken(kind):
        assert [dict(vars(owner)) for owner in owners] != before
    assert [dict(vars(owner)) for owner in owners] == before


def test_unknown_fault_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"kind must be one of yaw_sign, .*, got 'gone'"),
        broken("gone"),
    ):
        pass


def train(folder: Path, name: str, code: str | None = None) -> RunNumbers:
    """A run of the gate's training, of other code where given."""
    with pytest.MonkeyPatch.context() as patch:
        if code:
            patch.setattr(gate, "_TRAIN", code)
        gate.train(folder / "data", folder / name, seed=SEED)
    return run_numbers(read_run(folder / name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gate")
    gate.write_scene(path / "data")
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> RunNumbers:
    return train(folder, "whole")


@pytest.mark.slow
def test_a_trained_model_fails_with_each_fault(folder: Path, whole: RunNumbers) -> None:
    out = folder / "broken.json"
    flags = ["--run", str(folder / "whole"), "--out", str(out)]
    subprocess.run(
        [sys.executable, "-m", "anybev.testing.broken_models", *flags],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=1800,
    )
    found = json.loads(out.read_text())
    assert failed(found["whole"]) == []
    for name, value in found["whole"].items():
        if name != "FPS":
            assert value == pytest.approx(whole.values[name]), name
    for kind in KINDS:
        assert SHOWN_BY[kind] in failed(found[kind]), kind


@pytest.mark.slow
def test_a_run_repeats_itself_bit_for_bit(folder: Path, whole: RunNumbers) -> None:
    again = train(folder, "again")
    kept = {name: value for name, value in whole.values.items() if name != "FPS"}
    assert {name: again.values[name] for name in kept} == kept


@pytest.mark.slow
def test_a_class_that_is_not_learned_shows_in_losses_and_scores(
    folder: Path, whole: RunNumbers
) -> None:
    code = (
        "from anybev.testing.broken_models import broken\n"
        "from anybev.engine.train import train\n"
        "with broken('class_dropped'):\n"
        "    train()\n"
    )
    run = replace(train(folder, "dropped", code), machine={})
    names = [row.name for row in compare([run], read_baseline(gate.BASELINE)).failed]
    assert "AP/car" in names
    assert any("loss" in name for name in names)


def test_faults_do_what_they_say() -> None:
    torch.manual_seed(0)
    model, batch = build_detector(tiny_camera_cfg()).eval(), tiny_camera_batch()
    with torch.no_grad():
        (found, *_) = model.predict(batch)
        with broken("yaw_sign"):
            (mirrored, *_) = model.predict(batch)
        with broken("class_dropped"):
            (fewer, *_) = model.predict(batch)
        with broken("cameras_zeroed"):
            assert not model.camera_map(batch).any()
        bev = torch.rand(1, 32, *model.bbox_head.test_cfg.map_size())
        with broken("bev_shifted"):
            shifted = model.bbox_head(bev)["dense_heatmap"]
        assert torch.equal(shifted, model.bbox_head(bev.roll(1, dims=2))["dense_heatmap"])
    assert torch.equal(mirrored.boxes_lidar[:, 6], -found.boxes_lidar[:, 6])
    assert torch.equal(mirrored.boxes_lidar[:, :6], found.boxes_lidar[:, :6])
    kept = found.labels != DROPPED_CLASS
    assert torch.equal(fewer.boxes_lidar, found.boxes_lidar[kept])


def test_a_dropped_class_is_not_learned() -> None:
    torch.manual_seed(0)
    model, batch = build_detector(tiny_model_cfg()), tiny_batch()
    ours = [torch.full_like(labels, DROPPED_CLASS) for labels in batch.labels]
    batch = replace(batch, labels=ours)
    with broken("class_dropped"):
        losses = model.loss(batch)
    assert losses["layer_-1_loss_bbox"] == 0
    assert model.loss(batch)["layer_-1_loss_bbox"] > 0
