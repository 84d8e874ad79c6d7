"""Models under mmdetection3d's type names."""

from anybev.engine.registry import MODELS, TASK_UTILS
from anybev.models.bevfusion.assigner import (
    BBoxBEVL1Cost,
    BboxOverlaps3D,
    FocalLossCost,
    HeuristicAssigner3D,
    HungarianAssigner3D,
    IoU3DCost,
)
from anybev.models.bevfusion.box_coder import TransFusionBBoxCoder
from anybev.models.bevfusion.conv_fuser import ConvFuser
from anybev.models.bevfusion.detector import BEVFusion
from anybev.models.bevfusion.losses import FocalLoss, GaussianFocalLoss, L1Loss
from anybev.models.bevfusion.lss_fpn import GeneralizedLSSFPN
from anybev.models.bevfusion.preprocessor import Det3DDataPreprocessor, HardSimpleVFE
from anybev.models.bevfusion.sparse_encoder import BEVFusionSparseEncoder
from anybev.models.bevfusion.transfusion_head import TransFusionHead
from anybev.models.bevfusion.view_transform import DepthLSSTransform, LSSTransform
from anybev.models.common.second import SECOND
from anybev.models.common.second_fpn import SECONDFPN
from anybev.models.common.swin import SwinTransformer

for _module in (
    BEVFusion,
    BEVFusionSparseEncoder,
    ConvFuser,
    DepthLSSTransform,
    Det3DDataPreprocessor,
    FocalLoss,
    GaussianFocalLoss,
    GeneralizedLSSFPN,
    HardSimpleVFE,
    L1Loss,
    LSSTransform,
    SECOND,
    SECONDFPN,
    SwinTransformer,
    TransFusionHead,
):
    MODELS.register_module(module=_module)

for _part in (
    BBoxBEVL1Cost,
    BboxOverlaps3D,
    FocalLossCost,
    HeuristicAssigner3D,
    HungarianAssigner3D,
    IoU3DCost,
    TransFusionBBoxCoder,
):
    TASK_UTILS.register_module(module=_part)
