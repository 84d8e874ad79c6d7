"""Attention inside windows of a feature map, shifted by half a window in every other block."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from anybev.models.common.windows import MapToWindows, WindowsToMap, window_layout

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
    """Attention in the windows of a map, with a learned bias for each relative position.

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
        self.window_size = window_size
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

    def forward(self, x: Tensor, shift: int, mask: Tensor | None) -> Tensor:
        """Attend in every window of a map.

        Args:
            x: (B, H, W, C).
            shift: cells the windows are moved down and right.
            mask: (windows, 1, cells, cells), added to the scores.

        Returns:
            (B, H, W, C).
        """
        shape, heads = (x.shape[0], x.shape[1], x.shape[2]), self.num_heads
        size = self.window_size
        # Before the windows are cut: cells that fill them up need no products, only the bias.
        qkv = self.qkv(x).view(-1, x.shape[-1] // heads)
        bias = qkv.new_zeros(3 * x.shape[-1]) if self.qkv.bias is None else self.qkv.bias
        fill = bias.to(qkv.dtype).view(3 * heads, -1)
        layout = window_layout(shape, 3, heads, size, shift, x.device)
        rows = MapToWindows.apply(qkv, fill, layout)  # type: ignore[no-untyped-call]
        query, key, value = rows.view(3, -1, size * size, qkv.shape[1])
        nothing = query.new_empty(1, 1, 1)
        scores = torch.baddbmm(nothing, query, key.transpose(1, 2), beta=0, alpha=self.scale)
        scores = scores.view(shape[0], layout.windows, heads, size * size, size * size)
        place = self.position_bias()
        scores += place if mask is None else place + mask  # the product's gradient is without it
        weights = self.attn_drop(scores.softmax(-1)).to(value.dtype).flatten(0, 2)
        back = window_layout(shape, 1, heads, size, shift, x.device)
        attended = WindowsToMap.apply(torch.bmm(weights, value).flatten(0, 1), back)  # type: ignore[no-untyped-call]
        out: Tensor = self.proj_drop(self.proj(attended.view(x.shape)))
        return out


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
        rows, columns = (n + -n % self.window_size for n in x.shape[1:3])
        shift, mask = self.shift_size, None
        if shift:
            mask = _shift_mask(rows, columns, self.window_size, shift, x.device)
        out: Tensor = self.w_msa(x, shift, mask)
        return out
