// Groups points by coordinate: the linear cell of each row is sorted with the row's number, which a
// stable sort keeps in order inside a voxel. Sorting by all 63 bits of a cell costs a few passes
// more than the extents need, and saves waiting for them.
#include "common/cuda/algorithms.h"
#include "ops/cuda/scatter_points_kernel.h"

namespace anybev::cuda {
namespace {

constexpr int kThreads = 256, kMostBlocks = 512, kCellBits = 63;
constexpr uint64_t kNoCell = uint64_t{1} << 62;  // after all cells

using Wide = long long;  // what the 64-bit atomics are declared for

template <class Number>
__device__ bool is_valid(const Number* row, int64_t columns) {
  Number bits = 0;
  for (int64_t d = 0; d < columns; ++d) bits |= row[d];
  return bits >= 0;
}

__global__ void reset_bounds(Wide* low, Wide* high, int64_t columns) {
  for (int64_t d = first_item(); d < columns; d += item_stride()) {
    low[d] = INT64_MAX;
    high[d] = -1;
  }
}

template <class Number>
__global__ void __launch_bounds__(kThreads)
    find_bounds(const Number* coords, int64_t count, int64_t columns, Wide* low, Wide* high) {
  for (int64_t d = 0; d < columns; ++d) {
    Wide least = INT64_MAX, most = -1;
    for (int64_t i = first_item(); i < count; i += item_stride()) {
      const Number* row = coords + i * columns;
      if (!is_valid(row, columns)) continue;
      least = min(least, static_cast<Wide>(row[d]));
      most = max(most, static_cast<Wide>(row[d]));
    }
    for (int other = kWarp / 2; other; other /= 2) {
      least = min(least, __shfl_xor_sync(kFullWarp, least, other));
      most = max(most, __shfl_xor_sync(kFullWarp, most, other));
    }
    if (threadIdx.x % kWarp == 0 && most >= 0) {
      atomicMin(low + d, least);
      atomicMax(high + d, most);
    }
  }
}

template <class Number>
__global__ void __launch_bounds__(kThreads)
    find_cells(const Number* coords, int64_t count, int64_t columns, const Wide* low,
               const Wide* high, uint64_t* cell, int32_t* point) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    const Number* row = coords + i * columns;
    uint64_t sum = kNoCell;
    if (is_valid(row, columns)) {
      sum = 0;
      for (int64_t d = 0; d < columns; ++d) {
        sum = sum * static_cast<uint64_t>(high[d] - low[d] + 1) +
              static_cast<uint64_t>(row[d] - low[d]);
      }
    }
    cell[i] = sum;
    point[i] = static_cast<int32_t>(i);
  }
}

// Whether a voxel starts at place i of the sorted points.
__device__ bool opens(const uint64_t* cell, int64_t i) {
  return cell[i] < kNoCell && (i == 0 || cell[i] != cell[i - 1]);
}

__global__ void __launch_bounds__(kThreads)
    mark_first(const uint64_t* cell, int64_t count, int32_t* is_first) {
  for (int64_t i = first_item(); i < count; i += item_stride()) is_first[i] = opens(cell, i);
}

// opened[i]: voxels that start at place i or before it.
__global__ void __launch_bounds__(kThreads)
    number_voxels(const uint64_t* cell, const int32_t* point, const int32_t* opened, int64_t count,
                  int32_t* start, int32_t* point2voxel, Wide* voxels) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    const bool valid = cell[i] < kNoCell;
    const int32_t voxel = opened[i] - 1;
    point2voxel[point[i]] = valid ? voxel : -1;
    if (opens(cell, i)) start[voxel] = static_cast<int32_t>(i);
    const bool last = i + 1 == count || cell[i + 1] >= kNoCell;
    if (valid && last) start[voxel + 1] = static_cast<int32_t>(i + 1);
    if (i + 1 == count) *voxels = opened[i];
  }
}

template <class Number>
__global__ void __launch_bounds__(kThreads)
    describe(const int32_t* point, const int32_t* start, int64_t voxels, const Number* coords,
             int64_t columns, Number* out_coords, int32_t* counts) {
  for (int64_t e = first_item(); e < voxels * columns; e += item_stride()) {
    const int64_t voxel = e / columns, column = e - voxel * columns;
    out_coords[e] = coords[point[start[voxel]] * columns + column];
    if (column == 0) counts[voxel] = start[voxel + 1] - start[voxel];
  }
}

}  // namespace

template <class Number>
GroupedPoints group_points(Context& context, const Number* coords, int64_t count, int64_t columns,
                           int32_t* point2voxel) {
  GroupedPoints grouped = {nullptr, nullptr, 0, {}, {}};
  if (count == 0) return grouped;
  Wide* const low = context.buffer<Wide>(2 * columns + 1);
  Wide *const high = low + columns, *const voxels = high + columns;
  launch(context, reset_bounds, blocks_for(columns, kThreads), kThreads, 0, low, high, columns);
  launch(context, find_bounds<Number>, blocks_for(count, kThreads, kMostBlocks), kThreads, 0,
         coords, count, columns, low, high);

  const unsigned blocks = blocks_for(count, kThreads);
  uint64_t* const unsorted = context.buffer<uint64_t>(count);
  int32_t* const numbers = context.buffer<int32_t>(count);
  launch(context, find_cells<Number>, blocks, kThreads, 0, coords, count, columns, low, high,
         unsorted, numbers);
  uint64_t* const cell = context.buffer<uint64_t>(count);
  int32_t* const point = context.buffer<int32_t>(count);
  sort_pairs(context, unsorted, cell, numbers, point, count, 0, kCellBits);

  int32_t* const opened = numbers;  // sorted, its numbers are no longer needed
  launch(context, mark_first, blocks, kThreads, 0, cell, count, opened);
  inclusive_sum(context, opened, opened, count);
  int32_t* const start = context.buffer<int32_t>(count + 1);
  launch(context, number_voxels, blocks, kThreads, 0, cell, point, opened, count, start,
         point2voxel, voxels);

  std::vector<Wide> found(2 * columns + 1);
  read_back(context, found.data(), low, 2 * columns + 1);
  grouped.point = point, grouped.start = start, grouped.voxels = found.back();
  grouped.low.assign(found.begin(), found.begin() + columns);
  grouped.high.assign(found.begin() + columns, found.begin() + 2 * columns);
  return grouped;
}

template <class Number>
void describe_voxels(Context& context, const GroupedPoints& grouped, const Number* coords,
                     int64_t columns, Number* out_coords, int32_t* counts) {
  launch(context, describe<Number>, blocks_for(grouped.voxels * columns, kThreads), kThreads, 0,
         grouped.point, grouped.start, grouped.voxels, coords, columns, out_coords, counts);
}

template GroupedPoints group_points(Context&, const int32_t*, int64_t, int64_t, int32_t*);
template GroupedPoints group_points(Context&, const int64_t*, int64_t, int64_t, int32_t*);
template void describe_voxels(Context&, const GroupedPoints&, const int32_t*, int64_t, int32_t*,
                              int32_t*);
template void describe_voxels(Context&, const GroupedPoints&, const int64_t*, int64_t, int64_t*,
                              int32_t*);

}  // namespace anybev::cuda
