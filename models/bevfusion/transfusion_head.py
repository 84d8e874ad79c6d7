"""TransFusion: proposals from a heatmap, refined by a transformer decoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from anybev.datasets.sample import Detections
from anybev.models.bevfusion.box_coder import TransFusionBBoxCoder
from anybev.models.bevfusion.head_config import HeadTestCfg, HeadTrainCfg
from anybev.models.bevfusion.losses import FocalLoss, GaussianFocalLoss, L1Loss
from anybev.models.bevfusion.nms import suppress
from anybev.models.bevfusion.targets import HeadTargets, build_targets
from anybev.models.bevfusion.transfusion_decoder import TransformerDecoderLayer
from anybev.models.common.arguments import call
from anybev.models.common.conv_module import ConvModule

_CONV1D, _CONV2D = {"type": "Conv1d"}, {"type": "Conv2d"}
_BN1D, _BN2D = {"type": "BN1d"}, {"type": "BN2d"}
_HEAD_WIDTH = 64
# Order of the regressed numbers; ``vel`` only with velocity.
_REGRESSED = ("center", "height", "dim", "rot", "vel")


class SeparateHead(nn.Module):
    """One small convolutional branch for each predicted quantity.

    Args:
        in_channels: width of a query.
        heads: name to (numbers predicted, convolutions).
    """

    def __init__(self, in_channels: int, heads: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.heads = dict(heads)
        for name, (numbers, convolutions) in self.heads.items():
            layers: list[nn.Module] = []
            width = in_channels
            for _ in range(convolutions - 1):
                layers.append(ConvModule(width, _HEAD_WIDTH, 1, conv_cfg=_CONV1D, norm_cfg=_BN1D))
                width = _HEAD_WIDTH
            layers.append(nn.Conv1d(width, numbers, 1))
            self.add_module(name, nn.Sequential(*layers))

    def forward(self, queries: Tensor) -> dict[str, Tensor]:
        """(B, C, Q) to name: (B, numbers, Q)."""
        return {name: self.get_submodule(name)(queries) for name in self.heads}


class TransFusionHead(nn.Module):
    """Head of TransFusion over a BEV map (B, C, X, Y); parameter names as in mmdetection3d.

    Source: Bai et al., "TransFusion", CVPR 2022, as in BEVFusion.

    Args:
        num_proposals: queries a sample.
        auxiliary: train every decoder layer, not the last alone.
        in_channels, hidden_channel: width of the map and of the queries.
        num_classes: classes; their order is the data set's.
        nms_kernel_size: odd; a proposal is the maximum of this window.
        bn_momentum: of every batch normalisation in the head.
        num_decoder_layers: layers, each made from ``decoder_layer``.
        decoder_layer: arguments of `TransformerDecoderLayer`.
        common_heads: name to (numbers, convolutions); ``vel`` may be missing.
        num_heatmap_convs: convolutions of the class branch.
        loss_cls, loss_heatmap, loss_bbox: losses.
        bbox_coder: regression code; its ``code_size`` is 10 with ``vel``, else 8.
        train_cfg, test_cfg: see ``HeadTrainCfg`` and ``HeadTestCfg``.
        heatmap_init_bias: bias that both heatmap branches start from, -2.19 for a probability of
            0.1; None leaves torch's default, as upstream, and costs a large first loss.
        proposals_at_border: let the outermost ring of cells propose. Upstream never does.
    """

    def __init__(
        self,
        *,
        num_proposals: int,
        in_channels: int,
        num_classes: int,
        decoder_layer: Mapping[str, Any],
        common_heads: Mapping[str, Sequence[int]],
        loss_cls: FocalLoss,
        loss_heatmap: GaussianFocalLoss,
        loss_bbox: L1Loss,
        bbox_coder: TransFusionBBoxCoder,
        train_cfg: Mapping[str, Any],
        test_cfg: Mapping[str, Any],
        auxiliary: bool = True,
        hidden_channel: int = 128,
        nms_kernel_size: int = 3,
        bn_momentum: float = 0.1,
        num_decoder_layers: int = 1,
        num_heatmap_convs: int = 2,
        heatmap_init_bias: float | None = None,
        proposals_at_border: bool = False,
    ) -> None:
        super().__init__()
        self.train_cfg = call("train_cfg", HeadTrainCfg, train_cfg)
        self.test_cfg = call("test_cfg", HeadTestCfg, test_cfg)
        self.num_proposals, self.num_classes = num_proposals, num_classes
        size_x, size_y = self.test_cfg.map_size()
        if not 1 <= num_proposals <= num_classes * size_x * size_y:
            raise ValueError(
                "TransFusionHead: num_proposals must be 1 to one a class and cell, "
                f"{num_classes} x {size_x} x {size_y}, got {num_proposals}"
            )
        self.auxiliary, self.nms_kernel_size = auxiliary, nms_kernel_size
        self.proposals_at_border = proposals_at_border
        self.loss_cls, self.loss_heatmap, self.loss_bbox = loss_cls, loss_heatmap, loss_bbox
        self.bbox_coder = bbox_coder
        self._check(common_heads)
        self.shared_conv = nn.Conv2d(in_channels, hidden_channel, 3, padding=1)
        self.heatmap_head = nn.Sequential(
            ConvModule(hidden_channel, hidden_channel, 3, 1, conv_cfg=_CONV2D, norm_cfg=_BN2D),
            nn.Conv2d(hidden_channel, num_classes, 3, padding=1),
        )
        self.class_encoding = nn.Conv1d(num_classes, hidden_channel, 1)
        layer = {key: value for key, value in decoder_layer.items() if key != "type"}
        self.decoder = nn.ModuleList(
            call("decoder_layer", TransformerDecoderLayer, layer) for _ in range(num_decoder_layers)
        )
        heads = {**common_heads, "heatmap": (num_classes, num_heatmap_convs)}
        self.prediction_heads = nn.ModuleList(
            SeparateHead(hidden_channel, heads) for _ in range(num_decoder_layers)
        )
        self.bev_pos: Tensor
        self.register_buffer("bev_pos", _cell_centers(self.test_cfg.map_size()), persistent=False)
        self._init_weights(bn_momentum, heatmap_init_bias)

    def _check(self, common_heads: Mapping[str, Sequence[int]]) -> None:
        if self.nms_kernel_size % 2 == 0:
            raise ValueError(
                f"TransFusionHead: nms_kernel_size must be odd, got {self.nms_kernel_size}"
            )
        numbers = sum(common_heads[name][0] for name in _REGRESSED if name in common_heads)
        lengths = {"code_size": self.bbox_coder.code_size}
        lengths["code_weights"] = len(self.train_cfg.code_weights)
        for name, length in lengths.items():
            if length != numbers:
                raise ValueError(
                    f"TransFusionHead: {name} must count what common_heads predicts ({numbers}), "
                    f"got {length}"
                )
        sizes = [n // self.train_cfg.out_size_factor for n in self.train_cfg.grid_size[:2]]
        if tuple(sizes) != self.test_cfg.map_size():
            raise ValueError(
                "TransFusionHead: train_cfg must describe the map of test_cfg "
                f"{self.test_cfg.map_size()}, got {tuple(sizes)}"
            )

    def _init_weights(self, bn_momentum: float, heatmap_init_bias: float | None) -> None:
        for parameter in self.decoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.momentum = bn_momentum
        if heatmap_init_bias is not None:
            branches = [self.heatmap_head, *(h.heatmap for h in self.prediction_heads)]
            for branch in branches:
                nn.init.constant_(branch[-1].bias, heatmap_init_bias)  # type: ignore[index,union-attr]

    def forward(self, bev: Tensor) -> dict[str, Tensor]:
        """Predict.

        Args:
            bev: (B, in_channels, X, Y).

        Returns:
            ``center`` (B, 2, Q) in cells, ``height`` (B, 1, Q) gravity centre in metres, ``dim``
            (B, 3, Q) log metres, ``rot`` (B, 2, Q) sine and cosine, ``vel`` (B, 2, Q), ``heatmap``
            (B, C, Q) class logits, where Q counts the queries of every decoder layer when
            ``auxiliary``, else of the last; ``dense_heatmap`` (B, C, X, Y) logits, float32; of the
            proposals P: ``query_heatmap_score`` (B, C, P), ``query_labels`` and ``query_cells``
            (B, P) int64, cell = x * Y + y.
        """
        if tuple(bev.shape[2:]) != self.test_cfg.map_size():
            raise ValueError(
                "TransFusionHead: bev must have the cells of test_cfg "
                f"{self.test_cfg.map_size()}, got {tuple(bev.shape[2:])}; try another grid_size or "
                "out_size_factor"
            )
        shared = self.shared_conv(bev)
        with torch.autocast(bev.device.type, enabled=False):
            dense_heatmap = self.heatmap_head(shared.float())
        scores = self._local_maxima(dense_heatmap).flatten(2)
        labels, cells = self._propose(scores)
        keys = shared.flatten(2).transpose(1, 2)
        query = self._queries(keys, labels, cells)
        query_pos = self.bev_pos[0][cells]
        layers = []
        for decode, predict in zip(self.decoder, self.prediction_heads, strict=True):
            query = decode(query, keys, query_pos, self.bev_pos)
            layer = predict(query.transpose(1, 2))
            layer["center"] = layer["center"] + query_pos.transpose(1, 2)
            query_pos = layer["center"].detach().transpose(1, 2)
            layers.append(layer)
        kept = layers if self.auxiliary else layers[-1:]
        outputs = {name: torch.cat([layer[name] for layer in kept], dim=-1) for name in kept[0]}
        index = cells[:, None].expand(-1, self.num_classes, -1)
        outputs["query_heatmap_score"] = scores.gather(2, index)
        return {
            **outputs,
            "dense_heatmap": dense_heatmap,
            "query_labels": labels,
            "query_cells": cells,
        }

    def _local_maxima(self, dense_heatmap: Tensor) -> Tensor:
        """Probabilities (B, C, X, Y), zero wherever a neighbour's is higher; no gradient."""
        heat = dense_heatmap.detach().sigmoid()
        margin = self.nms_kernel_size // 2
        if self.proposals_at_border:
            highest = functional.max_pool2d(heat, self.nms_kernel_size, 1, margin)
        else:
            highest = functional.max_pool2d(heat, self.nms_kernel_size, 1)
            highest = functional.pad(highest, (margin,) * 4)
        pointwise = self.test_cfg.pointwise(self.num_classes)
        highest[:, pointwise] = heat[:, pointwise]
        return heat * (heat == highest)

    def _propose(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Class and cell (B, P) of the highest scores (B, C, cells), best first."""
        top = scores.flatten(1).topk(self.num_proposals, dim=1).indices
        return top // scores.shape[2], top % scores.shape[2]

    def _queries(self, keys: Tensor, labels: Tensor, cells: Tensor) -> Tensor:
        """(B, P, C): the map's feature at each proposal plus its class's code."""
        index = cells[..., None].expand(-1, -1, keys.shape[2])
        one_hot = functional.one_hot(labels, self.num_classes).transpose(1, 2)
        code = self.class_encoding(one_hot.to(self.class_encoding.weight.dtype))
        queries: Tensor = keys.gather(1, index) + code.transpose(1, 2)
        return queries

    def targets(
        self,
        outputs: Mapping[str, Tensor],
        boxes_lidar: Sequence[Tensor],
        labels: Sequence[Tensor],
        matching: Sequence[Tensor] | None = None,
    ) -> HeadTargets:
        """Targets of a batch; arguments as `loss`."""
        return build_targets(
            outputs,
            boxes_lidar,
            labels,
            coder=self.bbox_coder,
            assigner=self.train_cfg.assigner,
            cfg=self.train_cfg,
            matching=matching,
        )

    def loss(
        self,
        outputs: Mapping[str, Tensor],
        boxes_lidar: Sequence[Tensor],
        labels: Sequence[Tensor],
        matching: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Losses by mmdetection3d's names, in float32 whatever autocast says.

        Args:
            outputs: of `forward`.
            boxes_lidar: B tensors (G_b, 9).
            labels: B tensors (G_b,) int64; boxes labelled -1 are left out.
            matching: B tensors (Q,), 0 for background, g + 1 for box g, instead of the assigner's.

        Returns:
            ``loss_heatmap``, and for the last layer ``layer_-1_loss_cls``, ``layer_-1_loss_bbox``
            (``layer_0_...`` and so on for those before it), and ``matched_ious`` without gradient.
        """
        device = outputs["dense_heatmap"].device.type
        with torch.autocast(device, enabled=False):
            targets = self.targets(outputs, boxes_lidar, labels, matching)
            return self.loss_from_targets(outputs, targets)

    def loss_from_targets(
        self, outputs: Mapping[str, Tensor], targets: HeadTargets
    ) -> dict[str, Tensor]:
        """Losses against given targets; see `loss`."""
        losses = {"loss_heatmap": self.loss_heatmap(outputs["dense_heatmap"], targets.heatmap)}
        divisor = float(max(targets.num_positives, 1))
        regressed = torch.cat([outputs[name] for name in _REGRESSED if name in outputs], dim=1)
        code_weights = targets.bbox_weights.new_tensor(self.train_cfg.code_weights)
        label_weights = torch.ones_like(targets.labels, dtype=torch.float32)
        if self.train_cfg.pos_weight > 0:
            label_weights[targets.gt_inds > 0] = self.train_cfg.pos_weight
        layers = targets.labels.shape[1] // self.num_proposals
        for layer in range(layers):
            name = "layer_-1" if layer == layers - 1 else f"layer_{layer}"
            rows = slice(layer * self.num_proposals, (layer + 1) * self.num_proposals)
            losses[f"{name}_loss_cls"] = self.loss_cls(
                outputs["heatmap"][..., rows].transpose(1, 2).flatten(0, 1),
                targets.labels[:, rows].flatten(),
                label_weights[:, rows].flatten(),
                divisor,
            )
            losses[f"{name}_loss_bbox"] = self.loss_bbox(
                regressed[..., rows].transpose(1, 2),
                targets.bbox_targets[:, rows],
                targets.bbox_weights[:, rows] * code_weights,
                divisor,
            )
        losses["matched_ious"] = targets.matched_ious
        return losses

    @torch.no_grad()
    def predict(self, outputs: Mapping[str, Tensor]) -> list[Detections]:
        """Boxes of each sample from the last decoder layer, not sorted by score.

        A box scores its query's class probability times the heatmap's at the query's cell, and only
        for the class it was proposed for.
        """
        last = {
            name: outputs[name][..., -self.num_proposals :]
            for name in (*_REGRESSED, "heatmap")
            if name in outputs
        }
        one_hot = functional.one_hot(outputs["query_labels"], self.num_classes).transpose(1, 2)
        probability = last["heatmap"].float().sigmoid() * outputs["query_heatmap_score"] * one_hot
        scores, labels = probability.max(dim=1)
        boxes = self.bbox_coder.decode(last)
        if boxes.shape[-1] == 7:
            boxes = functional.pad(boxes, (0, 2))
        keep = self.bbox_coder.keep(boxes, scores)
        return [
            self._suppressed(Detections(b[k], s[k], y[k]))
            for b, s, y, k in zip(boxes, scores, labels, keep, strict=True)
        ]

    def _suppressed(self, found: Detections) -> Detections:
        cfg = self.test_cfg
        if cfg.nms_type is None:
            return found
        keep = suppress(
            found.boxes_lidar,
            found.scores,
            found.labels,
            nms_type=cfg.nms_type,
            radius=cfg.radius(self.num_classes),
            pre_maxsize=cfg.pre_maxsize,
            post_maxsize=cfg.post_maxsize,
        )
        return Detections(found.boxes_lidar[keep], found.scores[keep], found.labels[keep])


def _cell_centers(size: tuple[int, int]) -> Tensor:
    """(1, X * Y, 2) centre of each cell, in cells; row x * Y + y."""
    x, y = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size), indexing="ij")
    return torch.stack([x, y], dim=-1).view(1, -1, 2)
