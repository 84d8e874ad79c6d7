// Hard voxelisation on the CPU. Cells are computed by all threads; voxels are numbered and summed
// in point order by one, because "first" decides everything; samples are what runs in parallel.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <vector>

#include "common/copy_row.h"
#include "common/voxel_cells.h"

namespace anybev {
namespace {

constexpr uint32_t kNone = 0xFFFFFFFFu;  // outside the range; without a voxel
constexpr int64_t kRowsPerTask = 1 << 16;
constexpr int64_t kLookAhead = 24;  // points between a prefetch and its use

// x, y and z of a cell share one 31-bit word, so packing and unpacking are shifts.
struct Grid : VoxelGrid {
  std::array<int, 3> shift;

  Grid(at::ArrayRef<double> voxel_size, at::ArrayRef<double> range)
      : VoxelGrid("voxelize_hard", voxel_size, range) {
    std::array<int, 3> bits;
    for (int axis = 0; axis < 3; ++axis) {
      bits[axis] = static_cast<int>(std::bit_width(static_cast<uint32_t>(cells[axis]) - 1));
    }
    TORCH_CHECK_VALUE(bits[0] + bits[1] + bits[2] <= 31, "voxelize_hard: grid has too many cells");
    shift = {bits[1] + bits[2], bits[2], 0};
  }
};

// Packed cells of four points, kNone outside the range.
void pack_four(const float* const* point, const Grid& grid, uint32_t* cell) {
  CellInt4 packed = {};
  for (int axis = 0; axis < 3; ++axis) {
    CellInt4 inside;
    const CellInt4 index = grid.cells_of(point, axis, inside);
    packed |= (index << grid.shift[axis]) | ~inside;
  }
  std::memcpy(cell, &packed, sizeof(packed));
}

void pack_cells(const float* points, int64_t columns, int64_t count, const Grid& grid,
                uint32_t* cell) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const float* row = points + i * columns;
    const float* point[4] = {row, row + columns, row + 2 * columns, row + 3 * columns};
    pack_four(point, grid, cell + i);
  }
  for (; i < count; ++i) {
    const float* row = points + i * columns;
    const float* point[4] = {row, row, row, row};
    uint32_t same[4];
    pack_four(point, grid, same);
    cell[i] = same[0];
  }
}

// Kept by each calling thread: for one sweep, the page faults of fresh memory cost as much as the
// scan itself.
struct Scratch {
  std::vector<uint32_t> voxel;  // by point: first its packed cell, then its voxel
  std::vector<uint32_t> cells;  // by voxel: its packed cell
  std::vector<uint32_t> table;  // by hash of the cell: voxel, or kNone
};

// Replaces each point's cell by its voxel (kNone without one) and returns the number of voxels.
int64_t number_voxels(Scratch& scratch, int64_t count, int64_t max_voxels) {
  const auto cap = static_cast<uint64_t>(std::min(count, max_voxels));
  const int bits = std::max(6, static_cast<int>(std::bit_width(cap + cap / 2)));  // 2/3 full
  scratch.table.assign(size_t{1} << bits, kNone);
  scratch.cells.resize(cap);
  uint32_t* const voxel = scratch.voxel.data();
  uint32_t* const cells = scratch.cells.data();
  uint32_t* const table = scratch.table.data();
  const uint32_t last_slot = (uint32_t{1} << bits) - 1;
  const auto home = [bits](uint32_t key) { return key * 0x9E3779B1u >> (32 - bits); };

  uint32_t voxels = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (i + kLookAhead < count) __builtin_prefetch(&table[home(voxel[i + kLookAhead])], 1);
    const uint32_t key = voxel[i];
    if (key == kNone) continue;
    uint32_t slot = home(key);
    while (table[slot] != kNone && cells[table[slot]] != key) slot = (slot + 1) & last_slot;
    if (table[slot] == kNone && voxels < cap) {
      cells[voxels] = key;
      table[slot] = voxels++;
    }
    voxel[i] = table[slot];
  }
  return voxels;
}

// Adds the first max_points points of each voxel, in point order. kColumns = 0: any number.
template <int kColumns>
void add_points(const float* points, int64_t any_columns, const uint32_t* voxel, int64_t count,
                int32_t max_points, float* sum, int32_t* num_points) {
  const int64_t columns = kColumns ? kColumns : any_columns;
  for (int64_t i = 0; i < count; ++i) {
    if (i + kLookAhead < count && voxel[i + kLookAhead] != kNone) {
      __builtin_prefetch(sum + voxel[i + kLookAhead] * columns, 1);
      __builtin_prefetch(num_points + voxel[i + kLookAhead], 1);
    }
    if (voxel[i] == kNone || num_points[voxel[i]] == max_points) continue;
    ++num_points[voxel[i]];
    float* row = sum + voxel[i] * columns;
    const float* point = points + i * columns;
    for (int64_t column = 0; column < columns; ++column) row[column] += point[column];
  }
}

// Copies the first max_points points of each voxel, in point order, into (V, max_points, columns).
void keep_points(const float* points, int64_t columns, const uint32_t* voxel, int64_t count,
                 int64_t max_points, float* kept, int32_t* num_points) {
  for (int64_t i = 0; i < count; ++i) {
    if (i + kLookAhead < count && voxel[i + kLookAhead] != kNone) {
      __builtin_prefetch(kept + voxel[i + kLookAhead] * max_points * columns, 1);
      __builtin_prefetch(num_points + voxel[i + kLookAhead], 1);
    }
    if (voxel[i] == kNone || num_points[voxel[i]] == max_points) continue;
    const int64_t slot = voxel[i] * max_points + num_points[voxel[i]]++;
    copy_row(points + i * columns, columns, kept + slot * columns);
  }
}

// Divides the sums of voxels that hold more than one point.
template <int kColumns>
void average(float* sum, int64_t any_columns, const int32_t* num_points, int64_t begin,
             int64_t end) {
  const int64_t columns = kColumns ? kColumns : any_columns;
  for (int64_t row = begin; row < end; ++row) {
    if (num_points[row] == 1) continue;
    const auto divisor = static_cast<float>(num_points[row]);
    for (int64_t column = 0; column < columns; ++column) sum[row * columns + column] /= divisor;
  }
}

// x, y, z of each packed cell.
void unpack_cells(const uint32_t* cells, const Grid& grid, int64_t begin, int64_t end,
                  int32_t* coords) {
  const uint32_t y_mask = (1u << (grid.shift[0] - grid.shift[1])) - 1;
  const uint32_t z_mask = (1u << grid.shift[1]) - 1;
  for (int64_t row = begin; row < end; ++row) {
    coords[row * 3] = static_cast<int32_t>(cells[row] >> grid.shift[0]);
    coords[row * 3 + 1] = static_cast<int32_t>(cells[row] >> grid.shift[1] & y_mask);
    coords[row * 3 + 2] = static_cast<int32_t>(cells[row] & z_mask);
  }
}

// Points of a sample with the voxel of each. The lists are the calling thread's scratch.
struct Sample {
  at::Tensor points;
  int64_t count, columns, voxels;
  const float* source;
  const uint32_t *voxel, *cells;

  at::Tensor coords(const Grid& grid) const {
    at::Tensor coords = at::empty({voxels, 3}, points.options().dtype(at::kInt));
    int32_t* xyz = coords.mutable_data_ptr<int32_t>();
    at::parallel_for(0, voxels, kRowsPerTask, [&](int64_t begin, int64_t end) {
      unpack_cells(cells, grid, begin, end, xyz);
    });
    return coords;
  }
};

Sample number_points(const at::Tensor& points_lidar_m, const Grid& grid, int64_t max_voxels) {
  TORCH_CHECK_TYPE(points_lidar_m.scalar_type() == at::kFloat,
                   "voxelize_hard: points_lidar_m must be float32, got ",
                   points_lidar_m.scalar_type());
  Sample sample;
  sample.points = points_lidar_m.contiguous();
  sample.count = sample.points.size(0);
  sample.columns = sample.points.size(1);
  sample.source = sample.points.const_data_ptr<float>();
  TORCH_CHECK_VALUE(sample.count < (int64_t{1} << 30),
                    "voxelize_hard: points_lidar_m must have fewer than 2^30 rows, got ",
                    sample.count);

  static thread_local Scratch scratch;
  scratch.voxel.resize(static_cast<size_t>(sample.count));
  uint32_t* const voxel = scratch.voxel.data();
  at::parallel_for(0, sample.count, kRowsPerTask, [&](int64_t begin, int64_t end) {
    pack_cells(sample.source + begin * sample.columns, sample.columns, end - begin, grid,
               voxel + begin);
  });
  sample.voxels = number_voxels(scratch, sample.count, max_voxels);
  sample.voxel = voxel;
  sample.cells = scratch.cells.data();
  return sample;
}

using Voxels = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Voxels voxelize_hard(const at::Tensor& points_lidar_m, at::ArrayRef<double> voxel_size,
                     at::ArrayRef<double> point_cloud_range, int64_t max_points,
                     int64_t max_voxels) {
  const Grid grid(voxel_size, point_cloud_range);
  const Sample sample = number_points(points_lidar_m, grid, max_voxels);
  const int64_t columns = sample.columns;
  at::Tensor mean = at::zeros({sample.voxels, columns}, sample.points.options());
  at::Tensor num_points = at::zeros({sample.voxels}, sample.points.options().dtype(at::kInt));
  float* sum = mean.mutable_data_ptr<float>();
  int32_t* kept = num_points.mutable_data_ptr<int32_t>();
  const auto cap = static_cast<int32_t>(std::min<int64_t>(max_points, INT32_MAX));
  const auto add = columns == 5 ? add_points<5> : columns == 4 ? add_points<4> : add_points<0>;
  add(sample.source, columns, sample.voxel, sample.count, cap, sum, kept);

  const auto divide = columns == 5 ? average<5> : columns == 4 ? average<4> : average<0>;
  at::parallel_for(0, sample.voxels, kRowsPerTask,
                   [&](int64_t begin, int64_t end) { divide(sum, columns, kept, begin, end); });
  return {mean, sample.coords(grid), num_points};
}

Voxels voxelize_hard_points(const at::Tensor& points_lidar_m, at::ArrayRef<double> voxel_size,
                            at::ArrayRef<double> point_cloud_range, int64_t max_points,
                            int64_t max_voxels) {
  TORCH_CHECK_VALUE(max_points >= 1 && max_points <= INT32_MAX,
                    "voxelize_hard: max_points must be in [1, 2^31), got ", max_points);
  const Grid grid(voxel_size, point_cloud_range);
  const Sample sample = number_points(points_lidar_m, grid, max_voxels);
  at::Tensor kept = at::zeros({sample.voxels, max_points, sample.columns}, sample.points.options());
  at::Tensor num_points = at::zeros({sample.voxels}, sample.points.options().dtype(at::kInt));
  keep_points(sample.source, sample.columns, sample.voxel, sample.count, max_points,
              kept.mutable_data_ptr<float>(), num_points.mutable_data_ptr<int32_t>());
  return {kept, sample.coords(grid), num_points};
}

}  // namespace
}  // namespace anybev

TORCH_LIBRARY_IMPL(anybev, CPU, m) {
  m.impl("voxelize_hard", &anybev::voxelize_hard);
  m.impl("voxelize_hard_points", &anybev::voxelize_hard_points);
}
