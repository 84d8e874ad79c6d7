"""Attention inside windows of a feature map, shifted by half a window in every other block."""

from functools import lru_cache

import torch
from torch import Tensor, nn

# Added to the scores of two cells that the shift brought together from far apart.
_APART = -100.0


@lru_cache(maxsize=32)
def _shift_mask(rows: int, columns: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(windows, 1, window^2, window^2) float32: 0 inside one region of the map, -100 across."""
    with torch.inference_mode(False):  # training may reuse what an evaluation made

        def bands(length: int) -> Tensor:
            band = torch.zeros(length, dtype=torch.int64)
            band[-window:] = 1
            band[-shift:] = 2
            return band

        region = 3 * bands(rows)[:, None] + bands(columns)
        split = region.view(rows // window, window, columns // window, window)
        cells = split.permute(0, 2, 1, 3).reshape(-1, window * window)
        apart = cells[:, :, None] != cells[:, None, :]
        return (apart.float() * _APART).unsqueeze(1).to(device)


def relative_position_index(window: int) -> Tensor:
    """(window^2, window^2) int64: row of the bias table for a query cell and a key cell."""
    axis = torch.arange(window)
    row, column = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    down = row[:, None] - row[None, :] + window - 1
    right = column[:, None] - column[None, :] + window - 1
    return down * (2 * window - 1) + right


class WindowMSA(nn.Module):
    """Parameters of attention in a window, with a learned bias for each relative position.

    Args:
        embed_dims: channels.
        num_heads: attention heads.
        window_size: cells along a window's side.
        qkv_bias: queries, keys and values get a bias.
        qk_scale: factor on the scores; None takes 1 / sqrt(channels of a head).
        attn_drop_rate, proj_drop_rate: dropout on the attention weights and on the output.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(
                f"WindowMSA: embed_dims must be a multiple of num_heads {num_heads}, got "
                f"{embed_dims}"
            )
        self.num_heads = num_heads
        self.scale = qk_scale or (embed_dims // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window_size - 1) ** 2, num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window_size))
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def position_bias(self) -> Tensor:
        """(heads, window^2, window^2)."""
        index = self.relative_position_index
        table = self.relative_position_bias_table[index.flatten()]
        return table.view(*index.shape, self.num_heads).permute(2, 0, 1)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Attention before the output projection.

        Args:
            windows: (B, windows, cells, 3 * C) queries, keys and values.
            mask: (windows, 1, cells, cells), added to the scores.

        Returns:
            (B, windows, cells, C).
        """
        batch, count, cells, _ = windows.shape
        split = windows.view(batch * count, cells, 3, self.num_heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        scores = (query * self.scale) @ key.transpose(-2, -1)
        bias = self.position_bias()
        bias = bias[None] if mask is None else bias + mask
        scores = scores.view(batch, count, self.num_heads, cells, cells)
        scores += bias  # a product's gradient needs its factors, not itself
        weights = self.attn_drop(scores.softmax(-1)).view(-1, self.num_heads, cells, cells)
        out: Tensor = weights.to(value.dtype) @ value
        return out.transpose(1, 2).reshape(batch, count, cells, -1)


class ShiftWindowMSA(nn.Module):
    """`WindowMSA` over a whole map, with keys ``w_msa.*``.

    The map is filled up to whole windows with cells whose features are zero. They take part in the
    attention, as upstream; only what a shift brings together from far apart is masked.

    Args:
        embed_dims, num_heads, window_size, qkv_bias, qk_scale, attn_drop_rate, proj_drop_rate: see
            `WindowMSA`.
        shift_size: cells the windows are moved down and right.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        shift_size: int = 0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= shift_size < window_size:
            raise ValueError(
                f"ShiftWindowMSA: shift_size must be in 0..{window_size - 1}, got {shift_size}"
            )
        self.window_size = window_size
        self.shift_size = shift_size
        self.w_msa = WindowMSA(
            embed_dims,
            num_heads,
            window_size,
            qkv_bias,
            qk_scale,
            attn_drop_rate,
            proj_drop_rate,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        batch, height, width, _ = x.shape
        size, shift = self.window_size, self.shift_size
        below, right = -height % size, -width % size
        qkv = self._fill(self.w_msa.qkv(x), below, right)
        if shift:
            qkv = qkv.roll((-shift, -shift), (1, 2))
        rows, columns = height + below, width + right
        split = qkv.view(batch, rows // size, size, columns // size, size, -1)
        windows = split.transpose(2, 3).reshape(batch, -1, size * size, qkv.shape[-1])
        mask = _shift_mask(rows, columns, size, shift, x.device) if shift else None
        out = self.w_msa(windows, mask)
        out = out.view(batch, rows // size, columns // size, size, size, -1)
        out = out.transpose(2, 3).reshape(batch, rows, columns, -1)
        if shift:
            out = out.roll((shift, shift), (1, 2))
        projected = self.w_msa.proj(out[:, :height, :width])
        dropped: Tensor = self.w_msa.proj_drop(projected)
        return dropped

    def _fill(self, qkv: Tensor, below: int, right: int) -> Tensor:
        """Cells added below and right, with what a cell of zeros has: the bias."""
        if not (below or right):
            return qkv
        batch, height, width, channels = qkv.shape
        bias = self.w_msa.qkv.bias
        cell = qkv.new_zeros(channels) if bias is None else bias.to(qkv.dtype)
        qkv = torch.cat([qkv, cell.expand(batch, height, right, channels)], dim=2)
        return torch.cat([qkv, cell.expand(batch, below, width + right, channels)], dim=1)
