"""A scored three-frame data set for the tests of this stage."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from anybev.datasets.sample import Detections
from anybev.evaluation.nuscenes import NuScenesMetrics, evaluate_nuscenes
from anybev.testing.nuscenes_tables import CLASSES, write_nuscenes_tables


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("nuscenes")
    return root, write_nuscenes_tables(root, seed=3)


@pytest.fixture
def score(
    tiny_set: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> Callable[[Mapping[str, Detections]], NuScenesMetrics]:
    root, infos = tiny_set

    def run(detections: Mapping[str, Detections], **changes: Any) -> NuScenesMetrics:
        arguments: dict[str, Any] = {
            "classes": CLASSES,
            "data_root": root,
            "version": "v1.0-trainval",
            "split": "val",
            "output_dir": tmp_path / "out",
            "infos": infos,
        }
        arguments.update(changes)
        return evaluate_nuscenes(detections, arguments.pop("infos"), **arguments)

    return run
