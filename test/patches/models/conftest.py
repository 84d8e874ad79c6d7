"""Samples and built models of mmdetection3d's own configs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from anybev.datasets.nuscenes_infos import create_nuscenes_infos
from anybev.datasets.synthetic.nuscenes import write_nuscenes
from anybev.testing.host_models import WRITERS


def _with_whole_pictures(root: Path) -> Path:
    """Scenes in nuScenes' layout with pictures of its size."""
    write_nuscenes(root, scenes=1, val_scenes=1, seed=11, workers=2)
    create_nuscenes_infos(root, root, with_gt_database=False)
    return root


@pytest.fixture(scope="session")
def samples(
    synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Folder of a data set by its name, written when first asked for.

    ``pictures`` is nuScenes with pictures of its size; those of ``nuscenes`` are a quarter as wide.
    """
    written = {"nuscenes": synthetic_root}

    def folder(data: str) -> Path:
        if data not in written:
            write = WRITERS.get(data, _with_whole_pictures)
            written[data] = write(tmp_path_factory.mktemp(data))
        return written[data]

    return folder
