"""Recordings for the rerun viewer; the viewer's package is optional."""

import sys
from pathlib import Path

import numpy as np
import pytest

from anybev.envs import MachineError
from anybev.reporting.report import Options
from anybev.reporting.rerun_export import decompose, write_rerun
from anybev.reporting.run import read_runs


@pytest.mark.parametrize("seed", range(4))
def test_a_projection_falls_into_camera_and_place(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rotation = np.linalg.qr(draw.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    intrinsics = np.array([[1266.0, 0, 816], [0, 1250, 491], [0, 0, 1]])
    place = draw.normal(size=3)
    lidar2img = np.eye(4)
    lidar2img[:3, :3] = intrinsics @ rotation
    lidar2img[:3, 3] = -intrinsics @ rotation @ place
    found = decompose(lidar2img)
    for value, wanted in zip(found, (intrinsics, rotation.T, place), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-9, atol=1e-9)


def test_a_singular_projection_is_refused() -> None:
    with pytest.raises(ValueError, match="lidar2img must be invertible, got a singular matrix"):
        decompose(np.zeros((4, 4)))


def test_without_the_package_the_extra_is_named(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MachineError, match=r"try pip install 'anybev\[rerun\]'"):
        write_rerun(read_runs([run_folder]), tmp_path / "x.rrd")


def test_a_recording_is_written_whole(run_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    out = tmp_path / "out" / "x.rrd"
    assert write_rerun(read_runs([run_folder]), out, Options(best=1, worst=1)) == 2
    assert out.read_bytes().startswith(b"RRF2")
    assert [path.name for path in out.parent.iterdir()] == ["x.rrd"]
    with pytest.raises(ValueError, match="--rerun must have frames to write"):
        write_rerun(read_runs([run_folder]), out, Options(best=0, worst=0))
