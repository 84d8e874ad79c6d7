"""What kernels of sparse convolutions read of a plan: pair lists, and a vendor's own tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from anybev.device.ops._contract import Contract

# A vendor's first tensor, on the host: what its others belong to, then numbers it wants.
SUBM, STRIDED, INVERSE = 1, 2, 3


@dataclass(frozen=True, eq=False)
class PairLists:
    """Pairs (source row, row) grouped by tile of ``TILE`` consecutive rows, then by kernel offset.

    The pairs of tile t and offset k are ``tile_ptr[t * K + k]`` up to ``tile_ptr[t * K + k + 1]``,
    in ascending row order.

    Attributes:
        pair_source: (P,) int32, row that is gathered from.
        pair_row: (P,) int16, row that it adds to, counted from the start of the tile.
        tile_ptr: (tiles * K + 1,) int32.
    """

    pair_source: Tensor
    pair_row: Tensor
    tile_ptr: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three, as operators take them."""
        return self.pair_source, self.pair_row, self.tile_ptr


def _none(in_coords: Tensor, rows: int, geometry: Sequence[int]) -> list[Tensor]:
    return []


# Geometry: SUBM or STRIDED, cells in, cells out, samples, kernel, stride, padding.
_VENDOR = Contract(
    "sparse_conv_payload",
    "(Tensor in_coords, int rows, int[] geometry) -> Tensor[]",
    reference=_none,
    fake=_none,
    public="sparse_conv",
)


def vendor_tensors(in_coords: Tensor, rows: int, geometry: Sequence[int]) -> list[Tensor]:
    """What the device's vendor kernel reads instead of pair lists; nothing where there is none."""
    tensors: list[Tensor] = _VENDOR(in_coords, rows, geometry)
    return tensors


def turned(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors of the plan run backwards, which only those of a strided plan serve."""
    if not tensors or tensors[0][0] != STRIDED:
        return []
    header = tensors[0].clone()
    header[0] = INVERSE
    return [header, *tensors[1:]]
