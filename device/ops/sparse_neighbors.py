"""Which input site feeds which output site of a sparse convolution, once per set of voxels.

A plan is what every convolution over the same sites shares: the output coordinates and, for each
kernel offset, the (input row, output row) pairs. Sources: Graham et al., "3D Semantic Segmentation
with Submanifold Sparse Convolutional Networks", CVPR 2018; output sites as spconv 2.x defines them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from anybev.device.ops import _sparse_plan
from anybev.device.ops._checks import check_columns, check_dtype
from anybev.device.ops._contract import Contract
from anybev.device.ops._sparse_payload import STRIDED, SUBM, PairLists, turned, vendor_tensors
from anybev.device.ops._sparse_spec import TILE, PlanSpec, Triple, checked_spec, triple

__all__ = ["TILE", "PairLists", "PlanSpec", "SparseNeighbors", "sparse_neighbors", "sparse_pyramid"]

_MAX_CELLS = 1 << 62  # cells are numbered in int64


_PLANS = Contract(
    "sparse_neighbors",
    "(Tensor coords, int[] spatial_shape, int batch_size, int[] specs) -> Tensor[]",
    reference=_sparse_plan.build_plans,
    fake=_sparse_plan.fake_plans,
)
_TABLE = Contract(
    "sparse_neighbors_table",
    "(Tensor pair_source, Tensor pair_row, Tensor tile_ptr, int rows, int offsets) -> Tensor",
    reference=_sparse_plan.table_of_pairs,
    fake=_sparse_plan.fake_table,
    public="sparse_neighbors",
)
_TRANSPOSE = Contract(
    "sparse_neighbors_transpose",
    "(Tensor pair_source, Tensor pair_row, Tensor tile_ptr, int in_rows, int offsets)"
    " -> (Tensor pair_source, Tensor pair_row, Tensor tile_ptr)",
    reference=_sparse_plan.transpose_pairs,
    fake=_sparse_plan.fake_transpose,
    public="sparse_neighbors",
)


@dataclass(frozen=True, eq=False)
class SparseNeighbors:
    """Plan of a sparse convolution: sites before and after it, and who feeds whom.

    Attributes:
        in_coords: (N, 4) int32, columns (b, x, y, z).
        out_coords: (M, 4) int32; ascending for ``strided``, ``in_coords`` itself for ``subm``.
        in_shape, out_shape: cells along x, y, z.
        batch_size: samples, also those without a site.
        kernel_size, stride, padding: geometry of the forward convolution, axes x, y, z.
        mode: ``subm``, ``strided`` or ``inverse`` (a plan run backwards).
        forward_pairs: rows are output rows, sources are input rows.
    """

    in_coords: Tensor
    out_coords: Tensor
    in_shape: Triple
    out_shape: Triple
    batch_size: int
    kernel_size: Triple
    stride: Triple
    padding: Triple
    mode: str
    forward_pairs: PairLists
    _forward: "SparseNeighbors | None" = field(default=None, repr=False)

    @property
    def offsets(self) -> int:
        """K, taps of the kernel; offset ``k = (kx * KY + ky) * KZ + kz``."""
        kx, ky, kz = self.kernel_size
        return kx * ky * kz

    @property
    def is_symmetric(self) -> bool:
        """Whether offset k backwards is offset K-1-k forwards, as in submanifold plans."""
        return self.mode == "subm"

    @cached_property
    def table(self) -> Tensor:
        """(M, K) int32: input row that feeds output row m through offset k, or -1."""
        lists = self.forward_pairs.tensors
        table: Tensor = _TABLE(*lists, len(self.out_coords), self.offsets)
        return table

    @cached_property
    def transposed_pairs(self) -> PairLists:
        """The same pairs the other way: rows are input rows, sources are output rows."""
        if self._forward is not None:
            return self._forward.forward_pairs
        lists = self.forward_pairs.tensors
        return PairLists(*_TRANSPOSE(*lists, len(self.in_coords), self.offsets))

    @cached_property
    def payload(self) -> list[Tensor]:
        """What a convolution reads of the plan: its pair lists, then a vendor's tensors, if any."""
        return [*self.forward_pairs.tensors, *self._vendor]

    @cached_property
    def transposed_payload(self) -> list[Tensor]:
        """``payload`` of ``inverse()``, without that plan: the two would keep each other alive."""
        if self._forward is not None:
            return self._forward.payload
        return [*self.transposed_pairs.tensors, *turned(self._vendor)]

    @cached_property
    def _vendor(self) -> list[Tensor]:
        if self._forward is not None:
            return turned(self._forward._vendor)
        kind = SUBM if self.mode == "subm" else STRIDED
        shapes = (*self.in_shape, *self.out_shape, self.batch_size)
        geometry = [kind, *shapes, *self.kernel_size, *self.stride, *self.padding]
        return vendor_tensors(self.in_coords, len(self.out_coords), geometry)

    @cached_property
    def _inverse(self) -> "SparseNeighbors":
        return SparseNeighbors(
            in_coords=self.out_coords,
            out_coords=self.in_coords,
            in_shape=self.out_shape,
            out_shape=self.in_shape,
            batch_size=self.batch_size,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            mode="inverse",
            forward_pairs=self.transposed_pairs,
            _forward=self,
        )

    def inverse(self) -> "SparseNeighbors":
        """The plan back from the output sites to the input sites, same kernel offsets."""
        return self._forward if self._forward is not None else self._inverse


def sparse_pyramid(
    coords: Tensor,
    spatial_shape: Sequence[int],
    batch_size: int,
    levels: Sequence[PlanSpec],
) -> list[SparseNeighbors]:
    """Plans of consecutive sparse convolutions, each over the sites that the one before produced.

    Cheaper than one :func:`sparse_neighbors` call a layer: a submanifold plan and the strided plan
    that leaves the same sites share one index of them.

    Args:
        coords: (N, 4) int32 sites of the first layer; see :func:`sparse_neighbors`.
        spatial_shape: cells along x, y, z of the first layer's grid.
        batch_size: samples, also those without a site.
        levels: geometry of each layer, in order.

    Returns:
        One plan a layer.

    Raises:
        TypeError, ValueError: as :func:`sparse_neighbors`.
    """
    check_dtype("sparse_neighbors", "coords", coords, torch.int32)
    check_columns("sparse_neighbors", "coords", coords, 4, rows="N")
    shape = triple("spatial_shape", tuple(spatial_shape), 1)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"sparse_neighbors: batch_size must be at least 1, got {batch_size}")
    specs, shapes = [], [shape]
    for level in levels:
        specs.append(checked_spec(level, shapes[-1]))
        shapes.append(specs[-1].out_shape(shapes[-1]))
    largest = max(shapes, key=math.prod)
    if batch_size * math.prod(largest) >= _MAX_CELLS:
        raise ValueError(
            "sparse_neighbors: spatial_shape must give fewer than 2^62 cells a batch, got "
            f"{batch_size} x {largest}"
        )
    packed = [number for spec in specs for number in spec.pack()]
    tensors = _PLANS(coords, list(shape), batch_size, packed)
    plans, sites = [], coords
    for i, spec in enumerate(specs):
        out_coords, *lists = tensors[4 * i : 4 * i + 4]
        out_coords = sites if spec.mode == "subm" else out_coords
        plans.append(
            SparseNeighbors(
                in_coords=sites,
                out_coords=out_coords,
                in_shape=shapes[i],
                out_shape=shapes[i + 1],
                batch_size=batch_size,
                kernel_size=spec.kernel_size,
                stride=spec.stride,
                padding=spec.effective_padding(),
                mode=spec.mode,
                forward_pairs=PairLists(*lists),
            )
        )
        sites = out_coords
    return plans


def sparse_neighbors(
    coords: Tensor,
    spatial_shape: Sequence[int],
    batch_size: int,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    mode: str,
) -> SparseNeighbors:
    """Plan one sparse convolution over the occupied cells of a grid.

    Output o of ``strided`` reads input ``o * stride - padding + offset`` and exists when at least
    one of those does; ``subm`` has its outputs at the inputs and a centred kernel. Rows may come
    in any order; rows ascending in (b, x, y, z) are planned, and convolved, fastest.

    Args:
        coords: (N, 4) int32, columns (b, x, y, z), unique rows inside the batch and the grid.
        spatial_shape: cells along x, y, z.
        batch_size: samples, also those without a site.
        kernel_size: taps along x, y, z; odd for ``subm``.
        stride: input cells between outputs along x, y, z; 1 for ``subm``.
        padding: cells added on both sides along x, y, z; ``subm`` ignores it.
        mode: ``subm`` or ``strided``; ``SparseNeighbors.inverse()`` gives the third kind.

    Returns:
        The plan; the same to the last bit on any number of threads and on every device.

    Raises:
        TypeError: coords are no int32 tensor.
        ValueError: a shape is wrong, or a row is outside the grid or there twice.
    """
    spec = PlanSpec(
        triple("kernel_size", tuple(kernel_size), 1),
        triple("stride", tuple(stride), 1),
        triple("padding", tuple(padding), 0),
        mode,
    )
    return sparse_pyramid(coords, spatial_shape, batch_size, [spec])[0]
