"""Golden packs: reading, judging, and the command."""

import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from anybev.engine.builder import build_detector
from anybev.models.bevfusion.detector import BEVFusion
from anybev.testing import parity
from anybev.testing.golden import GoldenPack, deterministic_weight
from anybev.testing.golden_check import Checker, judge
from anybev.testing.processes import load_tool
from anybev.testing.tiny import tiny_batch, tiny_model_cfg

SEED = 5
MODEL = "lidar_only"
TOLERANCE = np.array([1e-4, 0.0, 1e-4])


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("parity.py")


def _detector() -> BEVFusion:
    torch.manual_seed(0)
    detector = build_detector(tiny_model_cfg())
    parity.fill_model(detector, SEED)
    return detector


def _inputs() -> dict[str, np.ndarray]:
    batch = tiny_batch((4,))
    key = batch.points_lidar_m[0][:, :4].numpy()
    repeat, ages = np.arange(len(key)) % 3 > 0, np.array([0, 0.1, 0.25], np.float32)
    copies = [(key, 0.0), (key[repeat], ages[1]), (key[repeat], ages[2])]
    points = np.concatenate([np.insert(c, 4, age, axis=1) for c, age in copies])
    return {
        "input/points_key": key,
        "input/points_repeat": np.packbits(repeat),
        "input/points_dt": ages,
        "input/points_crc32": np.array([zlib.crc32(points.astype(np.float32).tobytes())]),
        "input/gt_boxes": batch.boxes_lidar[0].numpy(),
        "input/gt_labels": batch.labels[0].numpy().astype(np.int32),
        "input/lidar_aug_matrix": np.eye(4),
    }


def _sampled(stage: str, values: np.ndarray) -> dict[str, np.ndarray]:
    name, seed = f"lidar_only/{stage}", 0 if stage.startswith("train.") else SEED
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) ^ seed))
    position = np.unique(draw.integers(0, values.size, 1000))
    statistics = [values.mean(), values.std(), np.abs(values).max(), np.linalg.norm(values)]
    return {
        f"{name}/shape": np.array(values.shape),
        f"{name}/pos": position.astype(np.int32),
        f"{name}/val": values.ravel()[position],
        f"{name}/stats": np.array(statistics),
        f"{name}/tol": TOLERANCE,
    }


def _record() -> dict[str, np.ndarray]:
    """A pack of the tiny model's own outputs."""
    pack = GoldenPack(_inputs(), "tiny")
    full = {"head.top_class": np.zeros(0), "head.top_index": np.zeros(0)}
    full["train.gt_inds"] = np.zeros(0)
    blank = {f"lidar_only/{stage}/full": value for stage, value in full.items()}
    first = parity.run(_detector(), GoldenPack(pack.arrays | blank), MODEL)
    blank["lidar_only/train.gt_inds/full"] = first["train.gt_inds"]
    for name in ("head.top_class", "head.top_index"):
        blank[f"lidar_only/{name}/full"] = first[name]
    stages = parity.run(_detector(), GoldenPack(pack.arrays | blank), MODEL)
    arrays = dict(pack.arrays)
    for stage, value in stages.items():
        if stage in ("lidar.bev", "second0", "fpn", "head.heatmap", "train.heatmap"):
            arrays |= _sampled(stage, value)
        elif not stage.startswith(("lidar.vox", "train.grad", "assign")):
            arrays[f"lidar_only/{stage}/full"] = value
            arrays[f"lidar_only/{stage}/tol"] = TOLERANCE
    features, cells = stages["lidar.voxel_feats"].astype(float), stages["lidar.voxel_coords"]
    sums = [[len(features)], features.sum(0), (features**2).sum(0), cells[:, 1:].sum(0)]
    arrays["lidar_only/lidar.vox_sums/full"] = np.concatenate(sums)
    arrays["lidar_only/lidar.vox_head_feats/full"] = features[:8]
    arrays["lidar_only/lidar.vox_head_feats/tol"] = TOLERANCE
    arrays["lidar_only/lidar.vox_head_coords/full"] = cells[:8]
    arrays["lidar_only/train.grad_names"] = stages["train.grad_names"]
    arrays["lidar_only/train.grad_norms/full"] = stages["train.grad_norms"]
    arrays["lidar_only/train.grad_rtol"] = np.full(len(stages["train.grad_names"]), 2e-3)
    return arrays


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return _record()


@pytest.fixture
def pack_file(recorded: dict[str, np.ndarray], tmp_path: Path) -> Path:
    np.savez(tmp_path / "tiny.npz", **recorded)
    return tmp_path / "tiny.npz"


@pytest.fixture
def run_tool(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(tool, "build", lambda *_, **__: build_detector(tiny_model_cfg()))
    return lambda *flags: tool.main([str(flag) for flag in flags])


def test_a_faithful_model_passes_every_stage(
    run_tool: Callable[..., int], pack_file: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_tool("--pack", pack_file) == 0
    out = capsys.readouterr().out
    assert f"seed {SEED}" in out  # read off the sampled positions
    assert " 0 failed" in out
    for stage in ("lidar.voxel", "lidar.levels", "second0", "pred.boxes", "train.grad_norms"):
        assert stage in out


def test_other_weights_fail(
    run_tool: Callable[..., int], pack_file: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run_tool("--pack", pack_file, "--seed", SEED + 1, "--only", "second") == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "fpn" not in out


def test_saved_stages_are_named_as_the_pack_names_them(
    run_tool: Callable[..., int], pack_file: Path, tmp_path: Path
) -> None:
    assert run_tool("--pack", pack_file, "--save", tmp_path / "out.npz", "--strict") == 0
    with np.load(tmp_path / "out.npz") as saved:
        assert saved["lidar_only/fpn"].shape == (1, 32, 16, 24)


@pytest.fixture(scope="module")
def outputs(recorded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    pack = GoldenPack(recorded, "tiny")
    stages = parity.run(_detector(), pack, MODEL)
    assert all(v.ok for v in Checker(pack, "lidar_only", stages).run())
    return stages


@pytest.mark.parametrize(
    ("stage", "field", "change"),
    [
        ("second0", "val", 1e-2),
        ("fpn", "stats", 1e-2),
        ("head.center", "full", 1e-2),
        ("head.query_score", "full", 1e-2),
        ("pred.boxes", "full", 1e-2),
        ("pred.scores", "full", 1e-2),
        ("lidar.vox_sums", "full", 1.0),
        ("lidar.vox_head_feats", "full", 1e-2),
        ("lidar.vox_head_coords", "full", 1),
        ("lidar.levels", "full", 2.0),
        ("train.cost", "full", 1e-2),
        ("train.bbox_targets", "full", 1e-2),
        ("train.loss_heatmap", "full", 1.0),
        ("train.heatmap_peaks", "full", 1),
        ("train.grad_norms", "full", 1e3),
        ("head.top_index", "full", 400),
    ],
)
def test_each_stage_is_really_judged(
    recorded: dict[str, np.ndarray],
    outputs: dict[str, np.ndarray],
    stage: str,
    field: str,
    change: float,
) -> None:
    key = f"lidar_only/{stage}/{field}"
    changed = GoldenPack(recorded | {key: recorded[key] + np.asarray(change)}, "changed")
    failed = [v.stage for v in Checker(changed, "lidar_only", outputs).run() if not v.ok]
    assert any(f.startswith(stage[:9]) for f in failed), failed


def test_an_equally_cheap_matching_passes_and_a_dearer_one_fails(
    recorded: dict[str, np.ndarray],
) -> None:
    pack = GoldenPack(recorded, "tiny")
    cost, inds = recorded["lidar_only/train.cost/full"].copy(), pack.get("lidar_only/train.gt_inds")
    free = int(np.flatnonzero(inds == 0)[0])
    used = int(np.flatnonzero(inds == 1)[0])
    other = inds.copy()
    other[free], other[used] = 1, 0
    cost[free, 0] = cost[used, 0]
    equal = GoldenPack(recorded | {"lidar_only/train.cost/full": cost})
    assert Checker(equal, "lidar_only", {"train.gt_inds": other}).run()[0].ok
    cost[free, 0] += 1
    assert not Checker(equal, "lidar_only", {"train.gt_inds": other}).run()[0].ok
    other[free] = 2
    verdict = Checker(equal, "lidar_only", {"train.gt_inds": other}).run()[0]
    assert not verdict.ok
    assert "not a one-to-one matching" in verdict.note


def test_outliers_are_allowed_by_share_and_size_unless_strict() -> None:
    error = np.zeros(100)
    error[3] = 0.5
    tolerance = (0.1, 0.01, 1.0)
    assert judge("s", error, 1, tolerance).ok
    assert not judge("s", error, 1, tolerance, strict=True).ok
    assert not judge("s", error * 4, 1, tolerance).ok
    assert not judge("s", np.r_[error, 0.5, 0.5], 1, tolerance).ok
    assert not judge("s", [np.nan], 1, tolerance).ok


def test_shapes_that_differ_fail_with_both_named(recorded: dict[str, np.ndarray]) -> None:
    outputs = {"second0": np.zeros((1, 2, 3)), "head.center": np.zeros((2, 3))}
    verdicts = Checker(GoldenPack(recorded), "lidar_only", outputs).run()
    assert [v.note for v in verdicts] == [
        "shape must be (1, 16, 16, 24), got (1, 2, 3)",
        "shape must be (2, 12), got (2, 3)",
    ]


def test_weights_depend_on_name_and_seed_alone() -> None:
    key, shape = "pts_backbone.blocks.0.0.weight", (4, 3, 3, 3)
    first = deterministic_weight(key, shape, 1)
    assert np.array_equal(first, deterministic_weight(key, shape, 1))
    assert not np.array_equal(first, deterministic_weight(key, shape, 2))
    assert deterministic_weight("view_transform.frustum", (2,), 1) is None
    assert not deterministic_weight("x.num_batches_tracked", (), 1).any()
    variance = deterministic_weight("x.running_var", (1000,), 1)
    assert variance.min() >= 0.5
    assert variance.max() < 1.5


def test_what_is_no_pack_is_said_so(
    run_tool: Callable[..., int],
    recorded: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    def message(arrays: dict[str, np.ndarray] | bytes, *flags: str) -> str:
        path = tmp_path / "pack.npz"
        if isinstance(arrays, bytes):
            path.write_bytes(arrays)
        else:
            np.savez(path, **arrays)
        assert run_tool("--pack", path, *flags) == 2
        return capsys.readouterr().err

    assert "pack.npz: must be a golden pack (.npz), got" in message(b"not a pack")
    assert "--model must be one of [], got 'lidar_only'" in message({"x": np.zeros(1)})
    cam = {"lidar_cam/fused/full": np.zeros(1)}
    assert "--model must be one of ['lidar_cam'], got 'lidar_only'" in message(cam)
    broken = recorded | {"input/points_crc32": np.array([1])}
    assert "points must have checksum 1, got" in message(broken)
    fewer = {k: v for k, v in recorded.items() if k != "input/points_dt"}
    assert "a golden pack must hold input/points_dt, got none" in message(fewer)
    assert "--only must be the start of a stage, got 'cam'" in message(recorded, "--only", "cam")
    blind = {k: v for k, v in recorded.items() if not k.endswith("/pos")}
    assert "a sampled stage must tell the seed, got none; try --seed" in message(blind)
    assert run_tool("--pack", tmp_path / "none.npz") == 2
    assert "none.npz" in capsys.readouterr().err


@pytest.mark.slow
def test_full_size_model_reproduces_the_reference(tool: ModuleType, test_data: Path) -> None:
    pack = test_data / "golden" / "pack_a.npz"
    assert tool.main(["--pack", str(pack), "--model", "lidar_only"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--strict"]], ids=["", "strict"])
def test_full_size_camera_model_reproduces_the_reference(
    tool: ModuleType, test_data: Path, flags: list[str]
) -> None:
    pack = test_data / "golden" / "pack_a.npz"
    assert tool.main(["--pack", str(pack), "--model", "lidar_cam", *flags]) == 0
