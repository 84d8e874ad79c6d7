"""Recordings for the rerun viewer; the viewer's package is optional."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anybev.envs import MachineError
from anybev.reporting.report import Options, show
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
    with pytest.raises(MachineError, match=r"try \.venv/bin/pip install rerun-sdk==0\.41\.0"):
        write_rerun(read_runs([run_folder]), tmp_path / "x.rrd")


class FakeStream:
    """Keeps what is logged; ``save`` makes the file, as the real one does."""

    def __init__(self, name: str) -> None:
        self.logged: list[tuple[str, str]] = []
        self.open = True

    def save(self, path: str) -> None:
        Path(path).write_bytes(b"RRF2")

    def log(self, path: Any, what: Any, static: bool = False) -> None:
        path = path if isinstance(path, str) else "/".join(path)
        self.logged.append((path, what))

    def set_time(self, name: str, sequence: int) -> None:
        self.logged.append((name, sequence))

    def flush(self) -> None:
        pass

    def disconnect(self) -> None:
        self.open = False


class FakeRerun:
    """The module: whatever is built is its name."""

    ViewCoordinates = SimpleNamespace(RIGHT_HAND_Z_UP="up", RDF="rdf")

    def __init__(self) -> None:
        self.streams: list[FakeStream] = []

    def RecordingStream(self, name: str) -> FakeStream:
        self.streams.append(FakeStream(name))
        return self.streams[-1]

    def Image(self, pixels: np.ndarray) -> Any:
        return SimpleNamespace(compress=lambda jpeg_quality: "image")

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: name


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRerun:
    module = FakeRerun()
    monkeypatch.setitem(sys.modules, "rerun", module)
    return module


def test_each_frame_begins_empty(run_folder: Path, tmp_path: Path, fake: FakeRerun) -> None:
    """A camera that one frame lacks must not keep the picture of the frame before."""
    runs, options = read_runs([run_folder]), Options(best=2, worst=0)
    out = tmp_path / "x.rrd"
    assert write_rerun(runs, out, options, shown=show(runs, options)) == 2
    assert out.read_bytes() == b"RRF2"
    (stream,) = fake.streams
    for step in (0, 1):
        at = stream.logged.index(("frame", step))
        assert stream.logged[at + 1] == ("world", "Clear")
    assert not stream.open


def test_a_recording_that_fails_is_closed_and_leaves_nothing(
    run_folder: Path, tmp_path: Path, fake: FakeRerun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, sequence: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(FakeStream, "set_time", refuse)
    out = tmp_path / "out" / "x.rrd"
    with pytest.raises(OSError, match="no space"):
        write_rerun(read_runs([run_folder]), out)
    assert not fake.streams[0].open
    assert list(out.parent.iterdir()) == []


def test_a_recording_is_written_whole(run_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    out = tmp_path / "out" / "x.rrd"
    assert write_rerun(read_runs([run_folder]), out, Options(best=1, worst=1)) == 2
    assert out.read_bytes().startswith(b"RRF2")
    assert [path.name for path in out.parent.iterdir()] == ["x.rrd"]
    with pytest.raises(ValueError, match="--rerun must have frames to write"):
        write_rerun(read_runs([run_folder]), out, Options(best=0, worst=0))
