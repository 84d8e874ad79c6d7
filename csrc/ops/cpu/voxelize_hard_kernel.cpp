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
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

namespace anybev {
namespace {

constexpr uint32_t kNone = 0xFFFFFFFFu;  // outside the range; without a voxel
constexpr uint64_t kFree = ~uint64_t{0};
constexpr int64_t kRowsPerTask = 16384;
constexpr int64_t kLookAhead = 24;  // points between a prefetch and its use

// x, y and z of a cell share one 31-bit word, so packing and unpacking are shifts.
struct Grid {
  std::array<float, 3> low, size, cells;
  std::array<int, 3> shift;

  Grid(at::ArrayRef<double> voxel_size, at::ArrayRef<double> range) {
    std::array<int, 3> bits;
    for (int axis = 0; axis < 3; ++axis) {
      const double count = std::nearbyint((range[axis + 3] - range[axis]) / voxel_size[axis]);
      TORCH_CHECK_VALUE(count >= 1 && count < (1 << 30), "voxelize_hard: grid is out of range");
      low[axis] = static_cast<float>(range[axis]);
      size[axis] = static_cast<float>(voxel_size[axis]);
      cells[axis] = static_cast<float>(count);
      bits[axis] = static_cast<int>(std::bit_width(static_cast<uint32_t>(count) - 1));
    }
    TORCH_CHECK_VALUE(bits[0] + bits[1] + bits[2] <= 31, "voxelize_hard: grid has too many cells");
    shift = {bits[1] + bits[2], bits[2], 0};
  }
};

// The compilers' own vectors: 128 bits are baseline on x86-64 and on ARM.
typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));

// Packed cells of four points, kNone outside the range. For an integer bound n, floor(q) in [0, n)
// is q in [0, n), where floor is truncation; comparisons are false for NaN.
void pack_four(const float* const* point, const Grid& grid, uint32_t* cell) {
  Int4 packed = {};
  for (int axis = 0; axis < 3; ++axis) {
    const Float4 value = {point[0][axis], point[1][axis], point[2][axis], point[3][axis]};
    const Float4 q = (value - grid.low[axis]) / grid.size[axis];
    const Int4 inside = (q >= 0.0f) & (q < grid.cells[axis]);
    const Int4 index = __builtin_convertvector((Float4)(inside & (Int4)q), Int4);
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

// Replaces each point's cell by its voxel (kNone without one) and returns the cells of the voxels.
std::vector<uint32_t> number_voxels(uint32_t* cell, int64_t count, int64_t max_voxels) {
  const auto cap = static_cast<uint64_t>(std::min(count, max_voxels));
  const int bits = std::max(6, static_cast<int>(std::bit_width(cap)) + 1);  // at most half full
  const uint64_t slots = uint64_t{1} << bits;
  const auto home = [bits](uint32_t key) -> uint64_t {
    return (key * 0x9E3779B97F4A7C15ull) >> (64 - bits);
  };
  const std::unique_ptr<uint64_t[]> table(new uint64_t[slots]);  // key in the high half, voxel low
  std::fill_n(table.get(), slots, kFree);

  std::vector<uint32_t> cells;
  cells.reserve(cap);
  for (int64_t i = 0; i < count; ++i) {
    if (i + kLookAhead < count) __builtin_prefetch(&table[home(cell[i + kLookAhead])], 1);
    const uint32_t key = cell[i];
    if (key == kNone) continue;
    for (uint64_t slot = home(key);; slot = (slot + 1) & (slots - 1)) {
      const uint64_t entry = table[slot];
      if (entry >> 32 == key) {
        cell[i] = static_cast<uint32_t>(entry);
        break;
      }
      if (entry == kFree) {
        cell[i] = kNone;
        if (cells.size() < cap) {
          cell[i] = static_cast<uint32_t>(cells.size());
          table[slot] = uint64_t{key} << 32 | cell[i];
          cells.push_back(key);
        }
        break;
      }
    }
  }
  return cells;
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

std::tuple<at::Tensor, at::Tensor, at::Tensor> voxelize_hard(const at::Tensor& points_lidar_m,
                                                             at::ArrayRef<double> voxel_size,
                                                             at::ArrayRef<double> point_cloud_range,
                                                             int64_t max_points,
                                                             int64_t max_voxels) {
  TORCH_CHECK_TYPE(points_lidar_m.scalar_type() == at::kFloat,
                   "voxelize_hard: points_lidar_m must be float32, got ",
                   points_lidar_m.scalar_type());
  const Grid grid(voxel_size, point_cloud_range);
  const at::Tensor points = points_lidar_m.contiguous();
  const int64_t count = points.size(0), columns = points.size(1);
  TORCH_CHECK_VALUE(count < kNone, "voxelize_hard: points_lidar_m must have fewer than 2^32 rows");
  const float* source = points.const_data_ptr<float>();

  const std::unique_ptr<uint32_t[]> cell(new uint32_t[static_cast<size_t>(count)]);
  at::parallel_for(0, count, kRowsPerTask, [&](int64_t begin, int64_t end) {
    pack_cells(source + begin * columns, columns, end - begin, grid, cell.get() + begin);
  });
  const std::vector<uint32_t> cells = number_voxels(cell.get(), count, max_voxels);

  const auto voxels = static_cast<int64_t>(cells.size());
  at::Tensor mean = at::zeros({voxels, columns}, points.options());
  at::Tensor coords = at::empty({voxels, 3}, points.options().dtype(at::kInt));
  at::Tensor num_points = at::zeros({voxels}, points.options().dtype(at::kInt));
  float* sum = mean.mutable_data_ptr<float>();
  int32_t* kept = num_points.mutable_data_ptr<int32_t>();
  int32_t* xyz = coords.mutable_data_ptr<int32_t>();
  const auto cap = static_cast<int32_t>(std::min<int64_t>(max_points, INT32_MAX));
  const auto add = columns == 5 ? add_points<5> : columns == 4 ? add_points<4> : add_points<0>;
  add(source, columns, cell.get(), count, cap, sum, kept);

  const auto divide = columns == 5 ? average<5> : columns == 4 ? average<4> : average<0>;
  at::parallel_for(0, voxels, kRowsPerTask, [&](int64_t begin, int64_t end) {
    divide(sum, columns, kept, begin, end);
    unpack_cells(cells.data(), grid, begin, end, xyz);
  });
  return {mean, coords, num_points};
}

}  // namespace
}  // namespace anybev

TORCH_LIBRARY_IMPL(anybev, CPU, m) { m.impl("voxelize_hard", &anybev::voxelize_hard); }
