"""Config to detector."""

from pathlib import Path

import pytest

from anybev.engine import config
from anybev.engine.builder import build_detector
from anybev.engine.registry import MODELS, TASK_UTILS
from anybev.models.bevfusion.assigner import HeuristicAssigner3D
from anybev.models.bevfusion.losses import FocalLoss
from anybev.testing.tiny import tiny_model_cfg


def test_nested_parts_become_objects_and_the_config_stays_as_it_was() -> None:
    cfg = tiny_model_cfg()
    before = repr(cfg)
    head = build_detector(cfg).bbox_head
    assert isinstance(head.loss_cls, FocalLoss)  # written mmdet.FocalLoss in the config
    assert repr(cfg) == before


def test_another_assigner_by_config() -> None:
    cfg = tiny_model_cfg()
    cfg["bbox_head"]["train_cfg"]["assigner"] = {"type": "HeuristicAssigner3D", "dist_thre": 5}
    assigner = build_detector(cfg).bbox_head.train_cfg.assigner
    assert isinstance(assigner, HeuristicAssigner3D)


def test_names_are_registered_under_the_scope() -> None:
    assert MODELS.scope == "anybev"
    assert MODELS.get("BEVFusion") is not None
    assert TASK_UTILS.get("TransFusionBBoxCoder") is not None


def test_a_config_is_a_config_file(tmp_path: Path) -> None:
    other = tmp_path / "epoch_1.pth"
    other.touch()
    with pytest.raises(ValueError, match=r"config: .*epoch_1.pth must end in one of \.py, \.json"):
        config.load(other)


def test_what_is_wrong_is_named_with_its_place() -> None:
    cfg = tiny_model_cfg()
    cfg["pts_backbone"]["layer_num"] = [1]
    message = r"model.pts_backbone: SECOND .* known keys, got 'layer_num'; try layer_nums"
    with pytest.raises(ValueError, match=message):
        build_detector(cfg)
    cfg = tiny_model_cfg()
    cfg["bbox_head"]["loss_cls"]["type"] = "FocalLos"
    with pytest.raises(ValueError, match=r"model.bbox_head.loss_cls: type .* 'FocalLos'; try Foc"):
        build_detector(cfg)
    cfg = tiny_model_cfg()
    del cfg["pts_middle_encoder"]["sparse_shape"]
    message = "pts_middle_encoder: BEVFusionSparseEncoder must be given sparse_shape, got none"
    with pytest.raises(ValueError, match=message):
        build_detector(cfg)
    with pytest.raises(ValueError, match="model: type must name a model, got None"):
        build_detector({})
    cfg = tiny_model_cfg()
    cfg["bbox_head"]["loss_cls"]["type"] = "detectron.FocalLoss"
    with pytest.raises(ValueError, match=r"got 'detectron.FocalLoss'; try FocalLoss"):
        build_detector(cfg)
