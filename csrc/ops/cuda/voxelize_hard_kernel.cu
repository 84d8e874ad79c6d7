// Hard voxelisation by a stable sort: points of a cell stand together in point order, so that the
// first of a run is the cell's first point, and a voxel's kept points are the run's beginning. A
// scan over the points that come first in their cell numbers the voxels by first appearance.
#include <algorithm>

#include "common/cuda/algorithms.h"
#include "common/cuda/voxel_cells.h"
#include "ops/cuda/voxelize_hard_kernel.h"

namespace anybev::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    pack_cells(const float* points, int64_t count, int64_t columns, PackedGrid grid, uint32_t* cell,
               int32_t* point) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    const Cell c = cell_of(grid.cells, points + i * columns);
    // A point outside comes after all cells.
    cell[i] = c.inside ? static_cast<uint32_t>(c.x) << grid.x_shift |
                             static_cast<uint32_t>(c.y) << grid.y_shift | static_cast<uint32_t>(c.z)
                       : 1u << grid.bits;
    point[i] = static_cast<int32_t>(i);
  }
}

// Whether the run of a cell inside the grid starts at place i of the sorted points.
__device__ bool opens(const uint32_t* cell, int64_t i, int bits) {
  return cell[i] >> bits == 0 && (i == 0 || cell[i] != cell[i - 1]);
}

// is_first[p] = 1 for the first point of each cell; the rest is 0 already.
__global__ void __launch_bounds__(kThreads) mark_first(const uint32_t* cell, const int32_t* point,
                                                       int64_t count, int bits, int32_t* is_first) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    if (opens(cell, i, bits)) is_first[point[i]] = 1;
  }
}

// start[v] of the voxels that the cap leaves; rank[p] counts the cells that appear before point p.
__global__ void __launch_bounds__(kThreads)
    place_voxels(const uint32_t* cell, const int32_t* point, int64_t count, int bits,
                 const int32_t* rank, int64_t max_voxels, int32_t* start) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    if (!opens(cell, i, bits)) continue;
    const int32_t voxel = rank[point[i]];
    if (voxel < max_voxels) start[voxel] = static_cast<int32_t>(i);
  }
}

__device__ int32_t coordinate(uint32_t cell, const PackedGrid& grid, int64_t axis) {
  if (axis == 0) return static_cast<int32_t>(cell >> grid.x_shift);
  if (axis == 1) {
    return static_cast<int32_t>(cell >> grid.y_shift & ((1u << (grid.x_shift - grid.y_shift)) - 1));
  }
  return static_cast<int32_t>(cell & ((1u << grid.y_shift) - 1));
}

// Whether the voxel that starts at `start` has a point in `slot`.
__device__ bool has_point(const HardVoxels& v, int64_t start, int64_t slot) {
  return start + slot < v.count && v.cell[start + slot] == v.cell[start];
}

// A thread owns a column of a voxel.
__global__ void __launch_bounds__(kThreads)
    average(HardVoxels v, int64_t max_points, float* mean, int32_t* coords, int32_t* num_points) {
  for (int64_t e = first_item(); e < v.voxels * v.columns; e += item_stride()) {
    const int64_t voxel = e / v.columns, column = e - voxel * v.columns, start = v.start[voxel];
    float sum = 0.0f;
    int64_t slot = 0;
    for (; slot < max_points && has_point(v, start, slot); ++slot) {
      sum += v.points[v.point[start + slot] * v.columns + column];
    }
    mean[e] = sum / static_cast<float>(slot);
    if (column == 0) num_points[voxel] = static_cast<int32_t>(slot);
    if (column < 3) coords[voxel * 3 + column] = coordinate(v.cell[start], v.grid, column);
  }
}

// A warp owns a voxel and writes its slots, full and empty ones, in the order of memory.
__global__ void __launch_bounds__(kThreads)
    keep(HardVoxels v, int64_t max_points, float* kept, int32_t* coords, int32_t* num_points) {
  const int64_t lane = threadIdx.x % kWarp;
  const int64_t slot_step = kWarp / v.columns, column_step = kWarp % v.columns;
  for (int64_t voxel = first_item() / kWarp; voxel < v.voxels; voxel += item_stride() / kWarp) {
    const int64_t start = v.start[voxel];
    float* const rows = kept + voxel * max_points * v.columns;
    int64_t slot = lane / v.columns, column = lane % v.columns;
    while (slot < max_points) {
      const bool full = has_point(v, start, slot);
      rows[slot * v.columns + column] =
          full ? v.points[v.point[start + slot] * v.columns + column] : 0.0f;
      if (column == 0 && full && (slot + 1 == max_points || !has_point(v, start, slot + 1))) {
        num_points[voxel] = static_cast<int32_t>(slot + 1);
      }
      slot += slot_step;
      column += column_step;
      if (column >= v.columns) column -= v.columns, ++slot;
    }
    if (lane < 3) coords[voxel * 3 + lane] = coordinate(v.cell[start], v.grid, lane);
  }
}

}  // namespace

HardVoxels number_voxels(Context& context, const float* points, int64_t count, int64_t columns,
                         const PackedGrid& grid, int64_t max_voxels) {
  HardVoxels voxels = {points, count, columns, grid, nullptr, nullptr, nullptr, 0};
  if (count == 0) return voxels;
  const unsigned blocks = blocks_for(count, kThreads);
  uint32_t* const unsorted = context.buffer<uint32_t>(count);
  int32_t* const numbers = context.buffer<int32_t>(count);
  launch(context, pack_cells, blocks, kThreads, 0, points, count, columns, grid, unsorted, numbers);
  uint32_t* const cell = context.buffer<uint32_t>(count);
  int32_t* const point = context.buffer<int32_t>(count);
  sort_pairs(context, unsorted, cell, numbers, point, count, 0, grid.bits + 1);

  int32_t* const rank = context.buffer<int32_t>(count + 1);
  fill_bytes(context, rank, 0, (count + 1) * sizeof(int32_t));
  launch(context, mark_first, blocks, kThreads, 0, cell, point, count, grid.bits, rank);
  exclusive_sum(context, rank, rank, count + 1);
  int32_t* const start = context.buffer<int32_t>(std::min(count, max_voxels));
  launch(context, place_voxels, blocks, kThreads, 0, cell, point, count, grid.bits, rank,
         max_voxels, start);

  int32_t found = 0;
  read_back(context, &found, rank + count, 1);
  voxels.cell = cell, voxels.point = point, voxels.start = start;
  voxels.voxels = std::min<int64_t>(found, max_voxels);
  return voxels;
}

void average_voxels(Context& context, const HardVoxels& voxels, int64_t max_points, float* mean,
                    int32_t* coords, int32_t* num_points) {
  launch(context, average, blocks_for(voxels.voxels * voxels.columns, kThreads), kThreads, 0,
         voxels, max_points, mean, coords, num_points);
}

void keep_points(Context& context, const HardVoxels& voxels, int64_t max_points, float* kept,
                 int32_t* coords, int32_t* num_points) {
  launch(context, keep, blocks_for(voxels.voxels * kWarp, kThreads), kThreads, 0, voxels,
         max_points, kept, coords, num_points);
}

}  // namespace anybev::cuda
