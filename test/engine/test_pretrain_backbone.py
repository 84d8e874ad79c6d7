"""Image backbones from pictures of synthetic scenes."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict

from anybev.datasets.synthetic.layout import build_world
from anybev.datasets.synthetic.world import World
from anybev.engine.builder import build_detector
from anybev.engine.config import load
from anybev.engine.pretrain_backbone import PictureSource, pretrain
from anybev.engine.pretrained import load_pretrained
from anybev.testing.tiny_config import CAMERA_CONFIG_FILE, tiny_camera_options

SCENE = 1


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(0, SCENE)


@pytest.fixture(scope="module")
def model_cfg() -> ConfigDict:
    pairs = (option.partition("=") for option in tiny_camera_options(Path("unused")))
    options = {key: value for key, _, value in pairs if key.startswith("model.")}
    evaluated = {key: eval(value) for key, value in options.items()}
    return load(CAMERA_CONFIG_FILE, evaluated).model


def test_round_has_six_pictures_and_what_they_show(world: World) -> None:
    images, shares = PictureSource([world], (64, 176), 0.24, seed=3).round()
    assert (images.shape, images.dtype) == ((6, 3, 64, 176), torch.uint8)
    assert (shares.shape, shares.dtype) == ((6, 10, 8, 22), torch.float32)
    assert 0 <= shares.min() < shares.max() <= 1
    again = PictureSource([world], (64, 176), 0.24, seed=3).round()
    assert torch.equal(images, again[0])
    assert torch.equal(shares, again[1])
    other, _ = PictureSource([world], (64, 176), 0.24, seed=4).round()
    assert not torch.equal(images, other)


def test_shares_count_the_pixels_of_each_class(world: World) -> None:
    source = PictureSource([world], (16, 24), 0.24, seed=0)
    draw = np.random.default_rng(0)
    labels = np.array([3, 7, 3, 0])
    owner = draw.integers(-4, 4, (16, 24))
    expected = np.zeros((10, 2, 3))
    for row, column in np.ndindex(16, 24):
        if owner[row, column] >= 0:
            expected[labels[owner[row, column]], row // 8, column // 8] += 1 / 64
    found = source._shares(owner, labels)
    np.testing.assert_allclose(found, np.minimum(expected / 0.25, 1), rtol=0, atol=1e-6)


def test_weights_start_a_detector_and_come_from_the_pictures(
    model_cfg: ConfigDict, tmp_path: Path
) -> None:
    file = tmp_path / "backbone.pth"
    seen: list[int] = []
    settings = {"scenes": [SCENE], "seed": 0, "resize": 0.24}
    first = pretrain(model_cfg, tmp_path / "first.pth", steps=2, **settings)
    last = pretrain(model_cfg, file, steps=30, progress=lambda n, _: seen.append(n), **settings)
    assert last["loss"] < first["loss"]
    assert seen == list(range(1, 31))
    started = copy.deepcopy(model_cfg)
    started.img_backbone.init_cfg = {"type": "Pretrained", "checkpoint": str(file)}
    detector = build_detector(started)
    load_pretrained(detector)
    weights = torch.load(file, weights_only=True)["state_dict"]
    for key, value in detector.img_backbone.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_wrong_input_is_named(model_cfg: ConfigDict, world: World, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size must be multiples of 8 within 216 x 384, got"):
        PictureSource([world], (64, 180), 0.24, seed=0)
    with pytest.raises(ValueError, match="model must have an img_backbone, got none"):
        pretrain({}, tmp_path / "none.pth", scenes=[1], seed=0, steps=1, resize=0.24)
