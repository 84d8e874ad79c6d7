"""The kernels of lift and splat: one source for CUDA and Ascend.

Portable by construction: blocks are constexpr and small enough for Ascend's unified buffer, grids
stay below 65536 programs that loop over their tasks, indices are int32, and memory is read in
pieces of rows (Ascend turns every other indirect access into a loop over elements). Ascend reads
such a piece whole, whatever its mask, so every one of them lies within its tensor: points that do
not count look at an existing row, and the last piece of a row begins early instead of ending late.
"""

import triton
import triton.language as tl

from anybev.device.triton import Example

# Elements of one tile: 16 KiB in float32; with what a kernel derives from it, and loaded twice
# where loads overlap with arithmetic, below the 192 KiB of Ascend's unified buffer.
TILE = 4096
PIXELS, POINTS = 16, 32


@triton.jit
def _axis(depth, ray, origin, lower, size, CELLS: tl.constexpr):
    """Cell along one axis and whether it is inside; each operation rounds to float32."""
    position = tl.div_rn(depth * ray + origin - lower, tl.zeros_like(depth * ray) + size)
    inside = (position > -1.0) & (position < CELLS)  # false for NaN
    return tl.where(inside, position, 0.0).to(tl.int32), inside


@triton.jit
def _cells(
    depth, rays, origins, pixel, pixels, picture, seen,
    x0, y0, z0, dx, dy, dz,
    NX: tl.constexpr, NY: tl.constexpr, NZ: tl.constexpr,
):  # fmt: skip
    """Linear cells of points at ``depth`` on the rays of ``pixel``, and whether they are inside."""
    ray_x = tl.load(rays + pixel, mask=seen, other=0.0)
    ray_y = tl.load(rays + pixels + pixel, mask=seen, other=0.0)
    ray_z = tl.load(rays + 2 * pixels + pixel, mask=seen, other=0.0)
    x, in_x = _axis(depth, ray_x, tl.load(origins + picture * 3), x0, dx, NX)
    y, in_y = _axis(depth, ray_y, tl.load(origins + picture * 3 + 1), y0, dy, NY)
    z, in_z = _axis(depth, ray_z, tl.load(origins + picture * 3 + 2), z0, dz, NZ)
    return (x * NY + y) * NZ + z, in_x & in_y & in_z


@triton.jit
def find_cells(
    rays, origins, depths, out, pixels, picture_pixels, tasks,
    x0, y0, z0, dx, dy, dz,
    NX: tl.constexpr, NY: tl.constexpr, NZ: tl.constexpr, D: tl.constexpr,
    PIXELS: tl.constexpr, DEPTHS: tl.constexpr,
):  # fmt: skip
    """Cell of every point into out (pixels, D) int32; NX * NY * NZ where it falls outside.

    Rays come as planes (3, pixels), so that blocks of pixels are read in one piece. A task is
    PIXELS pixels of one picture.
    """
    blocks = tl.cdiv(picture_pixels, PIXELS)
    k = tl.arange(0, DEPTHS)
    depth = tl.load(depths + k, mask=k < D, other=0.0)[None, :]
    for task in range(tl.program_id(0), tasks, tl.num_programs(0)):
        picture = task // blocks
        within = (task % blocks) * PIXELS + tl.arange(0, PIXELS)[:, None]
        seen = within < picture_pixels
        pixel = picture * picture_pixels + within
        cell, inside = _cells(
            depth, rays, origins, pixel, pixels, picture, seen,
            x0, y0, z0, dx, dy, dz, NX, NY, NZ,
        )  # fmt: skip
        cell = tl.where(inside, cell, NX * NY * NZ)
        tl.store(out + pixel * D + k[None, :], cell, mask=seen & (k < D)[None, :])


@triton.jit
def sum_cells(
    weights, pixels, starts, context, out, cells,
    STRIDE: tl.constexpr, C: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Every cell's sum of weight times context row into out (cells, C).

    The points of cell i are those from starts[i] to starts[i + 1]; ``weights`` and ``pixels`` are
    in that order. The context row of a pixel begins at ``context + pixel * STRIDE``.
    """
    for cell in range(tl.program_id(0), cells, tl.num_programs(0)):
        begin = tl.load(starts + cell)
        end = tl.load(starts + cell + 1)
        for c0 in range(0, C, CHANNELS):
            c = tl.minimum(c0, C - CHANNELS) + tl.arange(0, CHANNELS)
            total = tl.zeros([CHANNELS], out.dtype.element_ty)
            for first in range(begin, end, POINTS):
                point = first + tl.arange(0, POINTS)
                there = point < end
                weight = tl.load(weights + point, mask=there, other=0.0)
                pixel = tl.load(pixels + point, mask=there, other=0)
                rows = tl.load(
                    context + pixel[:, None] * STRIDE + c[None, :], mask=there[:, None], other=0.0
                )
                total += tl.sum(weight[:, None] * rows, 0)
            tl.store(out + cell * C + c, total)


@triton.jit
def gradient(
    grad, weights, logits, rays, origins, depths, out, pixels, picture_pixels,
    x0, y0, z0, dx, dy, dz,
    NX: tl.constexpr, NY: tl.constexpr, NZ: tl.constexpr, D: tl.constexpr, C: tl.constexpr,
    DEPTHS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradient of the logits' rows into out (pixels, D + C), from grad (cells, C).

    One program holds all depths of a pixel: products with the context's channels are complete
    before the softmax is differentiated, and every row of ``out`` is written once.
    """
    k = tl.arange(0, DEPTHS)
    depth = tl.load(depths + k, mask=k < D, other=0.0)
    for pixel in range(tl.program_id(0), pixels, tl.num_programs(0)):
        cell, inside = _cells(
            depth, rays, origins, pixel, pixels, pixel // picture_pixels, pixel < pixels,
            x0, y0, z0, dx, dy, dz, NX, NY, NZ,
        )  # fmt: skip
        inside = inside & (k < D)
        weight = tl.load(weights + pixel * D + k, mask=k < D, other=0.0)
        kept = tl.where(inside, weight, 0.0)
        grad_weight = tl.zeros([DEPTHS], out.dtype.element_ty)
        row = pixel * (D + C)
        for c0 in range(0, C, CHANNELS):
            c = tl.minimum(c0, C - CHANNELS) + tl.arange(0, CHANNELS)
            rows = tl.load(grad + cell[:, None] * C + c[None, :], mask=inside[:, None], other=0.0)
            context = tl.load(logits + row + D + c)
            context = tl.where(c >= c0, context, 0.0)  # the last piece repeats channels
            grad_weight += tl.sum(rows * context[None, :], 1)
            tl.store(out + row + D + c, tl.sum(kept[:, None] * rows, 0))
        # A point outside has no gradient even where the context is not a number.
        grad_weight = tl.where(inside, grad_weight, 0.0)
        grad_depth = weight * (grad_weight - tl.sum(weight * grad_weight, 0))
        tl.store(out + row + k, grad_depth, mask=k < D)


def channel_block(channels: int, most: int) -> int:
    """Power of 2, at most ``channels`` and ``most``; a smaller one where it repeats much less."""
    block = 1 << (min(channels, most).bit_length() - 1)
    while block > 16 and triton.cdiv(channels, block) * block > 1.25 * channels:
        block //= 2
    return block


def _examples() -> tuple[Example, ...]:
    """The kernels as BEVFusion with six cameras calls them."""
    grid = {"NX": 360, "NY": 360, "NZ": 1, "D": 118}
    bounds = dict.fromkeys(("x0", "y0", "z0", "dx", "dy", "dz"), "fp32")
    geometry = dict.fromkeys(("rays", "origins", "depths"), "*fp32")
    sizes = {"pixels": "i32", "picture_pixels": "i32"}
    rows = dict.fromkeys(("grad", "weights", "logits"), "*fp32")
    sums = {"weights": "*fp32", "pixels": "*i32", "starts": "*i32", "context": "*fp32"}
    block, narrow = channel_block(80, TILE // POINTS), channel_block(80, TILE // 128)
    return (
        Example(
            find_cells,
            {**geometry, "out": "*i32", **sizes, "tasks": "i32", **bounds},
            {**grid, "PIXELS": PIXELS, "DEPTHS": 128},
            "PIXELS",
        ),
        Example(
            sum_cells,
            {**sums, "out": "*fp32", "cells": "i32"},
            {"STRIDE": 198, "C": 80, "POINTS": POINTS, "CHANNELS": block},
            "POINTS",
        ),
        Example(
            gradient,
            {**rows, **geometry, "out": "*fp32", **sizes, **bounds},
            {**grid, "C": 80, "DEPTHS": 128, "CHANNELS": narrow},
            "CHANNELS",
        ),
    )


EXAMPLES = _examples()
