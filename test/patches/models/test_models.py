"""mmdetection3d's own models from its installed configs: loss, gradients and boxes on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anybev import patches
from anybev.engine.config import load
from anybev.testing.host_models import MODELS

pytestmark = pytest.mark.filterwarnings("default")

# Transforms of which numba compiles for half a minute; training at full size has them.
COMPILED = ("ObjectSample", "ObjectNoise")
# Parameters without a gradient at full size, all others must have one that is not zero: FCOS3D's
# coarsest level is for objects larger than 384 pixels, and the two pictures have none.
WITHOUT_GRADIENT = {"fcos3d": "bbox_head.scales.4."}


def _config(name: str, samples: Callable[[str], Path], *, full: bool) -> Any:
    from mmengine.registry import init_default_scope

    model = MODELS[name]
    # The transform that enlarges pictures leaves the objects' centres where they were.
    root = samples("pictures" if full and name == "fcos3d" else model.data)
    config = load(model.config, model.options(root, full=full, frames=2), patches.apply)
    init_default_scope(config.default_scope)
    return config


def _batch(loader: Any, count: int, leave_out: tuple[str, ...] = ()) -> Any:
    from mmdet3d.registry import DATASETS
    from mmengine.dataset import pseudo_collate

    innermost = loader.dataset
    while "dataset" in innermost:
        innermost = innermost.dataset
    innermost.pipeline = [step for step in innermost.pipeline if step.type not in leave_out]
    dataset = DATASETS.build(loader.dataset)
    return pseudo_collate([dataset[i] for i in range(count)])


def _check(name: str, samples: Callable[[str], Path], *, full: bool) -> None:
    from mmdet3d.registry import MODELS as HOST_MODELS

    torch.manual_seed(0)
    np.random.seed(0)
    config = _config(name, samples, full=full)
    model = HOST_MODELS.build(config.model)
    model.init_weights()
    model.train()
    batch = _batch(config.train_dataloader, MODELS[name].batch, () if full else COMPILED)
    data = model.data_preprocessor(batch, True)
    loss, shown = model.parse_losses(model(**data, mode="loss"))
    assert torch.isfinite(loss), shown
    loss.backward()
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    gradients = {key: p.grad for key, p in trained.items() if p.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    silent = {key for key in trained if key not in gradients or not gradients[key].any()}
    unused = WITHOUT_GRADIENT.get(name) if full else None
    assert silent == {key for key in trained if unused and key.startswith(unused)}

    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(_batch(config.val_dataloader, 1), False)
        (sample,) = model(**data, mode="predict")
    found = sample.pred_instances_3d
    assert len(found.bboxes_3d) == len(found.scores_3d) == len(found.labels_3d)
    assert torch.isfinite(found.bboxes_3d.tensor).all()
    assert ((found.scores_3d >= 0) & (found.scores_3d <= 1)).all()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_small_model_learns_and_finds(
    name: str, host: object, samples: Callable[[str], Path]
) -> None:
    _check(name, samples, full=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_model_learns_and_finds_as_its_config_has_it(
    name: str, host: object, samples: Callable[[str], Path]
) -> None:
    _check(name, samples, full=True)
