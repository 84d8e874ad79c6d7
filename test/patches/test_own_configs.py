"""AnyBEV's own configs in a process that has imported mmdetection3d."""

from pathlib import Path

import pytest

import anybev
from anybev.engine import config
from anybev.engine.builder import build_detector

CONFIGS = Path(anybev.__file__).parent / "configs/bevfusion"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_a_config_is_read_as_ever(host: object, path: Path) -> None:
    """The host's classes bear some of its types' names in mmengine's registries."""
    assert config.load(path).default_scope == "anybev"


def test_a_model_is_built_of_our_classes(host: object) -> None:
    model = build_detector(config.load(next(iter(sorted(CONFIGS.glob("*lidar_voxel0225*"))))).model)
    assert {type(part).__module__.partition(".")[0] for part in model.children()} <= {
        "anybev",
        "torch",
    }
