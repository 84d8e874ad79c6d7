"""Transformer decoder layer of TransFusion: queries look at each other, then at the BEV map."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from anybev.models.common.arguments import call


class PositionEncodingLearned(nn.Module):
    """Positions to features by two 1x1 convolutions.

    Runs in float32 under autocast too: a cell position such as 179.5 needs more digits than
    bfloat16 has.
    """

    def __init__(self, input_channel: int = 2, num_pos_feats: int = 128) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Conv1d(input_channel, num_pos_feats, 1),
            nn.BatchNorm1d(num_pos_feats),
            nn.ReLU(inplace=True),
            nn.Conv1d(num_pos_feats, num_pos_feats, 1),
        )

    def forward(self, positions: Tensor) -> Tensor:
        """(B, Q, input_channel) to (B, Q, num_pos_feats), float32."""
        with torch.autocast(positions.device.type, enabled=False):
            codes: Tensor = self.position_embedding_head(positions.float().transpose(1, 2))
        return codes.transpose(1, 2)


class ResidualAttention(nn.Module):
    """``query + dropout(attention(...))`` with keys ``attn.*``.

    Args:
        embed_dims: width.
        num_heads: attention heads.
        dropout: rate on the attention weights and on the residual branch.
    """

    def __init__(self, embed_dims: int = 128, num_heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, dropout, batch_first=True)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, query: Tensor, query_code: Tensor, key: Tensor, key_code: Tensor) -> Tensor:
        """Attend from ``query`` to ``key``, both with their position codes added.

        The values carry the code as well, unlike in DETR: the published weights were trained so.
        """
        coded = key + key_code
        out, _ = self.attn(query + query_code, coded, coded, need_weights=False)
        attended: Tensor = query + self.proj_drop(out)
        return attended


class FFN(nn.Module):
    """Residual two-layer perceptron with keys ``layers.0.0`` and ``layers.1``."""

    def __init__(
        self,
        embed_dims: int = 128,
        feedforward_channels: int = 256,
        num_fcs: int = 2,
        ffn_drop: float = 0.0,
        act_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if num_fcs != 2:
            raise ValueError(f"ffn_cfg: num_fcs must be 2, got {num_fcs}")
        if act_cfg is not None and act_cfg.get("type") != "ReLU":
            raise ValueError(f"ffn_cfg: act_cfg must be of type ReLU, got {act_cfg.get('type')!r}")
        self.layers = nn.Sequential(
            nn.Sequential(
                nn.Linear(embed_dims, feedforward_channels),
                nn.ReLU(inplace=True),
                nn.Dropout(ffn_drop),
            ),
            nn.Linear(feedforward_channels, embed_dims),
            nn.Dropout(ffn_drop),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        out: Tensor = x + self.layers(x)
        return out


class TransformerDecoderLayer(nn.Module):
    """Self-attention, cross-attention and perceptron, each followed by a LayerNorm.

    Args:
        self_attn_cfg, cross_attn_cfg: arguments of `ResidualAttention`.
        ffn_cfg: arguments of `FFN`.
        norm_cfg: only ``dict(type="LN")``.
        pos_encoding_cfg: arguments of `PositionEncodingLearned`.
    """

    def __init__(
        self,
        self_attn_cfg: Mapping[str, Any],
        cross_attn_cfg: Mapping[str, Any],
        ffn_cfg: Mapping[str, Any],
        pos_encoding_cfg: Mapping[str, Any],
        norm_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if norm_cfg is not None and norm_cfg.get("type") != "LN":
            raise ValueError(
                f"decoder_layer: norm_cfg must be of type LN, got {norm_cfg.get('type')!r}"
            )
        self.self_attn = call("self_attn_cfg", ResidualAttention, self_attn_cfg)
        self.cross_attn = call("cross_attn_cfg", ResidualAttention, cross_attn_cfg)
        self.ffn = call("ffn_cfg", FFN, ffn_cfg)
        width = self.self_attn.attn.embed_dim
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.self_posembed, self.cross_posembed = (
            call("pos_encoding_cfg", PositionEncodingLearned, pos_encoding_cfg) for _ in range(2)
        )

    def forward(self, query: Tensor, key: Tensor, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        """One layer.

        Args:
            query: (B, Q, C).
            key: (B, N, C), the map's cells.
            query_pos: (B, Q, 2) in cells.
            key_pos: (1, N, 2) in cells, the same for every sample.

        Returns:
            (B, Q, C).
        """
        query_code = self.self_posembed(query_pos)
        key_code = self.cross_posembed(key_pos)
        query = self.norms[0](self.self_attn(query, query_code, query, query_code))
        query = self.norms[1](self.cross_attn(query, query_code, key, key_code))
        out: Tensor = self.norms[2](self.ffn(query))
        return out
