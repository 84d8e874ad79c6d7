"""Geometry of sparse convolutions, as plans and their kernels share it."""

from collections.abc import Sequence
from dataclasses import dataclass

# Output rows of one tile: pair lists are grouped by tile, so a convolution keeps its sums in cache.
TILE = 128

Triple = tuple[int, int, int]

_MODES = ("subm", "strided")
# Integers that PlanSpec.pack writes a layer.
PACKED = 10


@dataclass(frozen=True)
class PlanSpec:
    """Geometry of one sparse convolution, axes x, y, z.

    Attributes:
        kernel_size: taps an axis; odd for ``subm``.
        stride: input cells from one output cell to the next; 1 for ``subm``.
        padding: cells added before and after the grid; ``subm`` ignores it, its kernel is centred.
        mode: ``subm`` (outputs at the input's sites) or ``strided`` (outputs wherever a kernel
            reaches an input).
    """

    kernel_size: Triple
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    mode: str = "subm"

    def effective_padding(self) -> Triple:
        """Padding as the neighbour rule uses it: half the kernel for ``subm``."""
        if self.mode != "subm":
            return self.padding
        kx, ky, kz = self.kernel_size
        return kx // 2, ky // 2, kz // 2

    def out_shape(self, shape: Triple) -> Triple:
        """Cells of the output grid over an input grid of ``shape``."""
        if self.mode == "subm":
            return shape
        axes = zip(shape, self.kernel_size, self.stride, self.padding, strict=True)
        x, y, z = ((n + 2 * p - k) // s + 1 for n, k, s, p in axes)
        return x, y, z

    def pack(self) -> list[int]:
        """Ten integers: submanifold or not, then kernel, stride and effective padding."""
        subm = int(self.mode == "subm")
        return [subm, *self.kernel_size, *self.stride, *self.effective_padding()]

    @classmethod
    def unpack(cls, packed: Sequence[int]) -> "PlanSpec":
        """Inverse of :meth:`pack`."""
        mode = "subm" if packed[0] else "strided"
        kernel, stride, padding = (
            (packed[i], packed[i + 1], packed[i + 2]) for i in range(1, 10, 3)
        )
        return cls(kernel, stride, padding, mode)


def triple(name: str, value: Sequence[int], low: int) -> Triple:
    """``value`` as three integers of at least ``low``; ValueError naming it otherwise."""
    if len(value) != 3 or not all(isinstance(v, int) and v >= low for v in value):
        raise ValueError(
            f"sparse_neighbors: {name} must be 3 integers of at least {low}, got {tuple(value)}"
        )
    x, y, z = value
    return x, y, z


def checked_spec(spec: PlanSpec, shape: Triple) -> PlanSpec:
    """``spec`` with plain tuples; ValueError unless it makes sense over a grid of ``shape``."""
    kernel = triple("kernel_size", spec.kernel_size, 1)
    stride = triple("stride", spec.stride, 1)
    padding = triple("padding", spec.padding, 0)
    if spec.mode not in _MODES:
        raise ValueError(f"sparse_neighbors: mode must be subm or strided, got {spec.mode!r}")
    if spec.mode == "subm" and (stride != (1, 1, 1) or any(k % 2 == 0 for k in kernel)):
        raise ValueError(
            "sparse_neighbors: a subm plan must have stride 1 and odd kernel_size, got stride "
            f"{stride}, kernel_size {kernel}; try mode='strided'"
        )
    checked = PlanSpec(kernel, stride, padding, spec.mode)
    if min(checked.out_shape(shape)) < 1:
        raise ValueError(
            f"sparse_neighbors: kernel_size must be at most the padded grid, got {kernel} over "
            f"{shape} with padding {padding}"
        )
    return checked
