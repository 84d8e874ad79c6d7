// Peer of the voxelize_hard benchmark: the rule as one would write it down, with
// std::unordered_map. No model uses it.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <cstdint>
#include <tuple>
#include <unordered_map>

namespace anybev {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor> voxelize_hash_map(const at::Tensor& points,
                                                                 at::ArrayRef<double> voxel_size,
                                                                 at::ArrayRef<double> range,
                                                                 int64_t max_points,
                                                                 int64_t max_voxels) {
  const int64_t count = points.size(0), columns = points.size(1);
  const int64_t cap = std::min(count, max_voxels);
  at::Tensor mean = at::zeros({cap, columns}, points.options());
  at::Tensor coords = at::empty({cap, 3}, points.options().dtype(at::kInt));
  at::Tensor num_points = at::zeros({cap}, points.options().dtype(at::kInt));
  const float* source = points.const_data_ptr<float>();
  float* sum = mean.mutable_data_ptr<float>();
  int32_t* xyz = coords.mutable_data_ptr<int32_t>();
  int32_t* kept = num_points.mutable_data_ptr<int32_t>();
  int64_t grid[3];
  float low[3], size[3];
  for (int axis = 0; axis < 3; ++axis) {
    low[axis] = static_cast<float>(range[axis]);
    size[axis] = static_cast<float>(voxel_size[axis]);
    grid[axis] = std::llrint((range[axis + 3] - range[axis]) / voxel_size[axis]);
  }

  std::unordered_map<int64_t, int64_t> voxels;
  for (int64_t i = 0; i < count; ++i) {
    const float* point = source + i * columns;
    float cell[3];
    bool inside = true;
    for (int axis = 0; axis < 3; ++axis) {
      cell[axis] = std::floor((point[axis] - low[axis]) / size[axis]);
      inside = inside && cell[axis] >= 0 && cell[axis] < static_cast<float>(grid[axis]);
    }
    if (!inside) continue;
    const auto x = static_cast<int64_t>(cell[0]), y = static_cast<int64_t>(cell[1]);
    const auto z = static_cast<int64_t>(cell[2]);
    const int64_t key = (x * grid[1] + y) * grid[2] + z;
    auto found = voxels.find(key);
    if (found == voxels.end()) {
      const auto row = static_cast<int64_t>(voxels.size());
      if (row == cap) continue;
      found = voxels.emplace(key, row).first;
      for (int axis = 0; axis < 3; ++axis) xyz[row * 3 + axis] = static_cast<int32_t>(cell[axis]);
    }
    const int64_t row = found->second;
    if (kept[row] == max_points) continue;
    ++kept[row];
    for (int64_t column = 0; column < columns; ++column) {
      sum[row * columns + column] += point[column];
    }
  }
  const auto size_v = static_cast<int64_t>(voxels.size());
  for (int64_t row = 0; row < size_v; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      sum[row * columns + column] /= static_cast<float>(kept[row]);
    }
  }
  return {mean.narrow(0, 0, size_v), coords.narrow(0, 0, size_v), num_points.narrow(0, 0, size_v)};
}

}  // namespace
}  // namespace anybev

TORCH_LIBRARY_FRAGMENT(anybev, m) {
  m.def(
      "_bench_voxelize_hash_map(Tensor points_lidar_m, float[] voxel_size, float[] "
      "point_cloud_range, int max_points, int max_voxels) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(anybev, CPU, m) {
  m.impl("_bench_voxelize_hash_map", &anybev::voxelize_hash_map);
}
