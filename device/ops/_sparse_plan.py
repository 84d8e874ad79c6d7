"""Plain-PyTorch reference of sparse_neighbors: sorted int64 keys and binary search, any device."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anybev.device.ops._sparse_spec import PACKED, TILE, PlanSpec, Triple

Lists = tuple[Tensor, Tensor, Tensor]


def check_coords(coords: Tensor, shape: Sequence[int], batch_size: int) -> None:
    """Raise ValueError unless every row lies in the batch and the grid."""
    limit = coords.new_tensor([batch_size, *shape])
    outside = ((coords < 0) | (coords >= limit)).any(1)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"sparse_neighbors: coords must be (b, x, y, z) below ({batch_size}, {shape[0]}, "
            f"{shape[1]}, {shape[2]}) and not negative, got {tuple(coords[row].tolist())} in row "
            f"{row}"
        )


def _keys(cells: Tensor, shape: Sequence[int]) -> Tensor:
    """Linear position of int64 (b, x, y, z) rows, ascending as the rows are."""
    b, x, y, z = cells.unbind(-1)
    return ((b * shape[0] + x) * shape[1] + y) * shape[2] + z


def _offsets(spec: PlanSpec, device: torch.device) -> Tensor:
    """(K, 3) int64 kernel offsets, z fastest."""
    return torch.cartesian_prod(
        *(torch.arange(k, device=device) for k in spec.kernel_size)
    ).reshape(-1, 3)


def _reached(cells: Tensor, spec: PlanSpec, shape: Triple) -> Tensor:
    """Ascending int64 (b, x, y, z) of every output that at least one input reaches."""
    stride, padding = cells.new_tensor(spec.stride), cells.new_tensor(spec.padding)
    x_out, y_out, z_out = spec.out_shape(shape)
    limit = cells.new_tensor((x_out, y_out, z_out))
    keys = []
    for offset in _offsets(spec, cells.device):
        moved = cells[:, 1:] + padding - offset
        out = moved // stride
        hit = ((moved >= 0) & (moved % stride == 0) & (out < limit)).all(1)
        keys.append(_keys(torch.cat([cells[:, :1], out], 1)[hit], (x_out, y_out, z_out)))
    key = torch.unique(torch.cat(keys))
    column, row = key // z_out, key // (z_out * y_out)
    return torch.stack([row // x_out, row % x_out, column % y_out, key % z_out], 1)


def _table(cells: Tensor, out_cells: Tensor, spec: PlanSpec, shape: Triple) -> Tensor:
    """(M, K) int32 input row of every output row and offset, or -1."""
    stride, padding = cells.new_tensor(spec.stride), cells.new_tensor(spec.effective_padding())
    limit = cells.new_tensor(shape)
    key, order = _keys(cells, shape).sort()
    if (key[1:] == key[:-1]).any():
        row = int(order[1:][key[1:] == key[:-1]][0])
        raise ValueError(
            "sparse_neighbors: coords must be unique rows, got "
            f"{tuple(cells[row].tolist())} more than once; try torch.unique(coords, dim=0)"
        )
    table = cells.new_full((len(out_cells), math.prod(spec.kernel_size)), -1, dtype=torch.int32)
    if not len(cells):
        return table
    for k, offset in enumerate(_offsets(spec, cells.device)):
        source = out_cells[:, 1:] * stride - padding + offset
        inside = ((source >= 0) & (source < limit)).all(1)
        wanted = _keys(torch.cat([out_cells[:, :1], source], 1), shape)
        found = torch.searchsorted(key, wanted).clamp_(max=len(key) - 1)
        hit = inside & (key[found] == wanted)
        table[:, k] = torch.where(hit, order[found], -1).int()
    return table


def pairs_of_table(table: Tensor) -> Lists:
    """``pair_source``, ``pair_row``, ``tile_ptr`` of an (M, K) neighbour table."""
    rows, offsets = table.shape
    tiles = -(-rows // TILE)
    padded = torch.nn.functional.pad(table, (0, 0, 0, tiles * TILE - rows), value=-1)
    by_offset = padded.view(tiles, TILE, offsets).transpose(1, 2)
    present = by_offset >= 0
    tile_ptr = table.new_zeros(tiles * offsets + 1)
    tile_ptr[1:] = present.sum(2).flatten().cumsum(0)
    row = present.nonzero()[:, 2].to(torch.int16)
    return by_offset[present], row, tile_ptr


def _expand(pair_row: Tensor, tile_ptr: Tensor, offsets: int) -> tuple[Tensor, Tensor]:
    """Row and kernel offset of every pair."""
    lists = torch.arange(len(tile_ptr) - 1, device=tile_ptr.device)
    lists = lists.repeat_interleave(tile_ptr.diff().long(), output_size=len(pair_row))
    return lists // offsets * TILE + pair_row, lists % offsets


def table_of_pairs(
    pair_source: Tensor, pair_row: Tensor, tile_ptr: Tensor, rows: int, offsets: int
) -> Tensor:
    """(rows, offsets) int32 neighbour table of pair lists."""
    table = pair_source.new_full((rows, offsets), -1)
    row, offset = _expand(pair_row, tile_ptr, offsets)
    table[row, offset] = pair_source
    return table


def transpose_pairs(
    pair_source: Tensor, pair_row: Tensor, tile_ptr: Tensor, in_rows: int, offsets: int
) -> Lists:
    """The lists of the same pairs read from the output: one row an input row."""
    table = pair_source.new_full((in_rows, offsets), -1)
    row, offset = _expand(pair_row, tile_ptr, offsets)
    table[pair_source.long(), offset] = row.int()
    return pairs_of_table(table)


def build_plans(
    coords: Tensor, spatial_shape: Sequence[int], batch_size: int, specs: Sequence[int]
) -> list[Tensor]:
    """Out coordinates and pair lists of every packed spec, one after the other.

    Four tensors a plan: out_coords (empty for ``subm``, which keeps its coordinates), pair_source,
    pair_row, tile_ptr. Each plan starts from the sites that the one before it produced.
    """
    check_coords(coords, spatial_shape, batch_size)
    cells = coords.long()
    x, y, z = spatial_shape
    shape = (x, y, z)
    result: list[Tensor] = []
    for start in range(0, len(specs), PACKED):
        spec = PlanSpec.unpack(specs[start : start + PACKED])
        out = cells if spec.mode == "subm" else _reached(cells, spec, shape)
        lists = pairs_of_table(_table(cells, out, spec, shape))
        kept = out[:0] if spec.mode == "subm" else out
        result += [kept.int(), *lists]
        cells, shape = out, spec.out_shape(shape)
    return result


def _fake_lists(like: Tensor) -> Lists:
    size = torch.library.get_ctx().new_dynamic_size
    pairs = size()
    return (
        like.new_empty((pairs,), dtype=torch.int32),
        like.new_empty((pairs,), dtype=torch.int16),
        like.new_empty((size(),), dtype=torch.int32),
    )


def fake_plans(
    coords: Tensor, spatial_shape: Sequence[int], batch_size: int, specs: Sequence[int]
) -> list[Tensor]:
    """Shapes of :func:`build_plans`."""
    result: list[Tensor] = []
    for start in range(0, len(specs), PACKED):
        rows = 0 if specs[start] else torch.library.get_ctx().new_dynamic_size()
        result += [coords.new_empty((rows, 4)), *_fake_lists(coords)]
    return result


def fake_table(
    pair_source: Tensor, pair_row: Tensor, tile_ptr: Tensor, rows: int, offsets: int
) -> Tensor:
    """Shape of :func:`table_of_pairs`."""
    return pair_source.new_empty((rows, offsets))


def fake_transpose(
    pair_source: Tensor, pair_row: Tensor, tile_ptr: Tensor, in_rows: int, offsets: int
) -> Lists:
    """Shapes of :func:`transpose_pairs`."""
    return _fake_lists(pair_source)
