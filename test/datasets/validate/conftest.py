"""A sound data set of one short scene, to be damaged by each test in its own way."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anybev.datasets.infos import load_infos, write_pickle
from anybev.datasets.nuscenes_infos import create_nuscenes_infos
from anybev.datasets.validate.findings import Report
from anybev.datasets.validate.run import validate

VERSION = "v1.0-trainval"
INFOS = "nuscenes_infos_train.pkl"
KEY_FRAMES = 4


@dataclass
class DataSet:
    """A copy whose files are links to those of the sound set."""

    root: Path

    def table(self, name: str) -> list[dict[str, Any]]:
        return json.loads((self.root / VERSION / f"{name}.json").read_text())

    def edit(self, name: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
        """Change a table in place."""
        rows = self.table(name)
        change(rows)
        (self.root / VERSION / f"{name}.json").write_text(json.dumps(rows))

    def edit_infos(self, change: Callable[[dict[str, Any]], None], name: str = INFOS) -> None:
        """Change an info file in place."""
        infos = load_infos(self.root / INFOS)
        change(infos)
        write_pickle(self.root / name, infos)

    def file(self, folder: str, index: int = 1) -> Path:
        """A file of a folder, to be replaced."""
        return sorted((self.root / folder).iterdir())[index]

    def replace(self, folder: str, content: bytes, index: int = 1) -> Path:
        """Give a file other content; the sound set keeps its own."""
        path = self.file(folder, index)
        path.unlink()
        path.write_bytes(content)
        return path

    def without_infos(self) -> "DataSet":
        (self.root / INFOS).unlink()
        return self

    def without_tables(self) -> "DataSet":
        for path in (self.root / VERSION).iterdir():
            path.unlink()
        (self.root / VERSION).rmdir()
        return self

    def findings(self, **options: Any) -> dict[str, int]:
        """Count of findings of each check that has any."""
        return found(validate(self.root, workers=1, **options))


def found(report: Report) -> dict[str, int]:
    return {row.check.key: row.found for row in report.rows if row.found}


def _cut(source: Path, out: Path) -> None:
    """The first key frames of the first scene of a data set, with links to their files."""
    tables = {path.stem: json.loads(path.read_text()) for path in (source / VERSION).glob("*.json")}
    scene = tables["scene"][0]
    samples = [s for s in tables["sample"] if s["scene_token"] == scene["token"]][:KEY_FRAMES]
    tokens = {sample["token"] for sample in samples}
    scene.update(nbr_samples=KEY_FRAMES, last_sample_token=samples[-1]["token"])
    tables["scene"], tables["sample"] = [scene], samples
    for name in ("sample_data", "sample_annotation"):
        tables[name] = [row for row in tables[name] if row["sample_token"] in tokens]
    for name in ("sample", "sample_data", "sample_annotation"):
        kept = {row["token"] for row in tables[name]}
        for row in tables[name]:
            row["next"] = row["next"] if row["next"] in kept else ""
    poses = {row["ego_pose_token"] for row in tables["sample_data"]}
    tables["ego_pose"] = [row for row in tables["ego_pose"] if row["token"] in poses]
    instances = {row["instance_token"] for row in tables["sample_annotation"]}
    tables["instance"] = [row for row in tables["instance"] if row["token"] in instances]
    (out / VERSION).mkdir(parents=True)
    for name, rows in tables.items():
        (out / VERSION / f"{name}.json").write_text(json.dumps(rows))
    for row in tables["sample_data"]:
        path = out / row["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if row["fileformat"] == "jpg":
            Image.new("RGB", (row["width"], row["height"]), (90, 90, 90)).save(path)
        else:
            path.symlink_to(source / row["filename"])


@pytest.fixture(scope="session")
def sound_root(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, an info file, point files and grey pictures of four key frames."""
    root = tmp_path_factory.mktemp("sound")
    _cut(synthetic_root, root)
    create_nuscenes_infos(root, root, with_gt_database=False)
    (root / "nuscenes_infos_val.pkl").unlink()
    return root


@pytest.fixture
def data(sound_root: Path, tmp_path: Path) -> DataSet:
    """A copy to damage."""
    for path in sound_root.rglob("*"):
        copy = tmp_path / path.relative_to(sound_root)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
        elif path.suffix in (".json", ".pkl"):
            copy.write_bytes(path.read_bytes())
        else:
            copy.symlink_to(path.resolve())
    return DataSet(tmp_path)
