// BEV pooling on the CPU. A thread owns a range of cells, walks the points in order and adds the
// rows of those that are its own: features are read once and in order, no cell is shared, and the
// sum of a cell does not depend on how the cells were divided.

#include "ops/cpu/bev_pool_kernel.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "common/isa.h"
#include "ops/bev_pool_checks.h"

namespace anybev::bev_pool {
namespace {

constexpr int64_t kPointsPerTask = 1 << 14;
constexpr int64_t kSamples = 4096;

struct Grid {
  std::array<int64_t, 4> bounds;  // b, x, y, z

  Grid(int64_t batch_size, at::IntArrayRef xyz) : bounds{batch_size, xyz[0], xyz[1], xyz[2]} {}
  int64_t cells() const { return bounds[0] * bounds[1] * bounds[2] * bounds[3]; }
};

[[noreturn]] void refuse(const int32_t* coords, int64_t count, const Grid& grid) {
  for (int64_t i = 0; i < count; ++i, coords += 4) {
    for (int axis = 0; axis < 4; ++axis) {
      if (coords[axis] < 0 || coords[axis] >= grid.bounds[axis]) {
        refuse_point(at::ArrayRef<int32_t>(coords, 4), i, grid.bounds);
      }
    }
  }
  TORCH_CHECK(false, "bev_pool: coords changed while they were read");
}

// Linear cell of each point; an error names the first point outside the grid.
std::unique_ptr<int32_t[]> linear_cells(const at::Tensor& coords, const Grid& grid) {
  const at::Tensor rows = coords.contiguous();
  const int64_t count = rows.size(0);
  const int32_t* source = rows.const_data_ptr<int32_t>();
  auto cells = std::make_unique_for_overwrite<int32_t[]>(static_cast<size_t>(count));
  std::array<uint32_t, 4> bound;
  std::copy(grid.bounds.begin(), grid.bounds.end(), bound.begin());
  std::atomic<bool> outside{false};
  at::parallel_for(0, count, kPointsPerTask, [&](int64_t begin, int64_t end) {
    bool bad = false;
    for (int64_t i = begin; i < end; ++i) {
      const int32_t* c = source + 4 * i;
      const auto b = static_cast<uint32_t>(c[0]), x = static_cast<uint32_t>(c[1]);
      const auto y = static_cast<uint32_t>(c[2]), z = static_cast<uint32_t>(c[3]);
      bad |= (b >= bound[0]) | (x >= bound[1]) | (y >= bound[2]) | (z >= bound[3]);
      cells[i] = static_cast<int32_t>(((b * bound[1] + x) * bound[2] + y) * bound[3] + z);
    }
    if (bad) outside = true;
  });
  if (outside) refuse(source, count, grid);
  return cells;
}

// Cells that divide the points into equal shares, as far as a sample tells: shares + 1 bounds.
std::vector<int32_t> share_bounds(const Points& points, int64_t shares, int64_t cells) {
  std::vector<int32_t> sample;
  const int64_t step = std::max<int64_t>(1, points.count / kSamples);
  for (int64_t i = 0; i < points.count; i += step) sample.push_back(points.cells[i]);
  std::sort(sample.begin(), sample.end());
  std::vector<int32_t> bounds = {0};
  for (int64_t share = 1; share < shares; ++share) {
    bounds.push_back(sample[share * static_cast<int64_t>(sample.size()) / shares]);
  }
  bounds.push_back(static_cast<int32_t>(cells));
  return bounds;
}

const Kernels& kernels_for(at::ScalarType type) {
  if (type == at::kDouble) return kDouble;
#if defined(__x86_64__)
  const FloatSet& set = best_isa() == Isa::kPortable ? kPortable : kAvx2;
#else
  const FloatSet& set = kPortable;
#endif
  if (type == at::kHalf) return set.of_half;
  if (type == at::kBFloat16) return set.of_bfloat16;
  TORCH_CHECK_TYPE(type == at::kFloat, "bev_pool: features must be floating, got ", type);
  return set.of_float;
}

at::ScalarType sum_type(at::ScalarType type) { return type == at::kDouble ? type : at::kFloat; }

at::Tensor pool(const at::Tensor& features, const at::Tensor& coords, int64_t batch_size,
                at::IntArrayRef grid_xyz) {
  check_points(features, coords, batch_size, grid_xyz);
  const Grid grid(batch_size, grid_xyz);
  const Kernels& kernels = kernels_for(features.scalar_type());
  const at::Tensor source = features.contiguous();
  const auto cells = linear_cells(coords, grid);
  const Points points = {cells.get(), source.size(0), source.size(1)};
  const int64_t channels = points.channels;
  at::Tensor sums = at::empty({batch_size, grid_xyz[0], grid_xyz[1], grid_xyz[2] * channels},
                              source.options().dtype(sum_type(source.scalar_type())));
  char* out = static_cast<char*>(sums.mutable_data_ptr());
  const int64_t row_bytes = channels * static_cast<int64_t>(sums.element_size());

  const int64_t shares =
      std::clamp<int64_t>(points.count / kPointsPerTask, 1, at::get_num_threads());
  const std::vector<int32_t> bounds = share_bounds(points, shares, grid.cells());
  at::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    const int32_t first = bounds[begin], last = bounds[end];
    std::memset(out + first * row_bytes, 0, (last - first) * row_bytes);
    kernels.add(points, source.const_data_ptr(), first, last, out);
  });
  return sums.permute({0, 3, 1, 2});
}

at::Tensor gather(const at::Tensor& grad, const at::Tensor& coords, at::IntArrayRef grid_xyz,
                  at::ScalarType dtype) {
  check_cells_gradient(grad, coords, grid_xyz);
  const Grid grid(grad.size(0), grid_xyz);
  const Kernels& kernels = kernels_for(dtype);
  const at::Tensor rows = grad.permute({0, 2, 3, 1}).to(sum_type(dtype)).contiguous();
  const auto cells = linear_cells(coords, grid);
  const int64_t count = coords.size(0), channels = rows.size(3) / grid_xyz[2];
  at::Tensor features = at::empty({count, channels}, rows.options().dtype(dtype));
  char* out = static_cast<char*>(features.mutable_data_ptr());
  const int64_t row_bytes = channels * static_cast<int64_t>(features.element_size());
  at::parallel_for(0, count, kPointsPerTask, [&](int64_t begin, int64_t end) {
    const Points points = {cells.get() + begin, end - begin, channels};
    kernels.gather(points, rows.const_data_ptr(), out + begin * row_bytes);
  });
  return features;
}

}  // namespace
}  // namespace anybev::bev_pool

TORCH_LIBRARY_IMPL(anybev, CPU, m) {
  m.impl("bev_pool", &anybev::bev_pool::pool);
  m.impl("bev_pool_backward", &anybev::bev_pool::gather);
}
