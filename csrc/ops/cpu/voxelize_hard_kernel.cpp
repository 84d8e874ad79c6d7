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
#include <tuple>
#include <vector>

namespace anybev {
namespace {

constexpr uint32_t kNone = 0xFFFFFFFFu;  // outside the range; without a voxel
constexpr int64_t kRowsPerTask = 1 << 16;
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
  TORCH_CHECK_VALUE(count < (int64_t{1} << 30),
                    "voxelize_hard: points_lidar_m must have fewer than 2^30 rows, got ", count);
  const float* source = points.const_data_ptr<float>();

  static thread_local Scratch scratch;
  scratch.voxel.resize(static_cast<size_t>(count));
  uint32_t* const voxel = scratch.voxel.data();
  at::parallel_for(0, count, kRowsPerTask, [&](int64_t begin, int64_t end) {
    pack_cells(source + begin * columns, columns, end - begin, grid, voxel + begin);
  });
  const int64_t voxels = number_voxels(scratch, count, max_voxels);
  const uint32_t* const cells = scratch.cells.data();

  at::Tensor mean = at::zeros({voxels, columns}, points.options());
  at::Tensor coords = at::empty({voxels, 3}, points.options().dtype(at::kInt));
  at::Tensor num_points = at::zeros({voxels}, points.options().dtype(at::kInt));
  float* sum = mean.mutable_data_ptr<float>();
  int32_t* kept = num_points.mutable_data_ptr<int32_t>();
  int32_t* xyz = coords.mutable_data_ptr<int32_t>();
  const auto cap = static_cast<int32_t>(std::min<int64_t>(max_points, INT32_MAX));
  const auto add = columns == 5 ? add_points<5> : columns == 4 ? add_points<4> : add_points<0>;
  add(source, columns, voxel, count, cap, sum, kept);

  const auto divide = columns == 5 ? average<5> : columns == 4 ? average<4> : average<0>;
  at::parallel_for(0, voxels, kRowsPerTask, [&](int64_t begin, int64_t end) {
    divide(sum, columns, kept, begin, end);
    unpack_cells(cells, grid, begin, end, xyz);
  });
  return {mean, coords, num_points};
}

}  // namespace
}  // namespace anybev

TORCH_LIBRARY_IMPL(anybev, CPU, m) { m.impl("voxelize_hard", &anybev::voxelize_hard); }
