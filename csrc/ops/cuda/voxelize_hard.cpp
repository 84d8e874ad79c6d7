#include <algorithm>
#include <bit>
#include <tuple>

#include "ops/cuda/binding.h"
#include "ops/cuda/voxel_grid.h"
#include "ops/cuda/voxelize_hard_kernel.h"

namespace anybev::cuda {
namespace {

using Voxels = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

PackedGrid packed_grid(at::ArrayRef<double> voxel_size, at::ArrayRef<double> range) {
  const VoxelGrid checked("voxelize_hard", voxel_size, range);
  int bits[3];
  for (int axis = 0; axis < 3; ++axis) {
    bits[axis] = static_cast<int>(std::bit_width(static_cast<uint32_t>(checked.cells[axis]) - 1));
  }
  const int all = bits[0] + bits[1] + bits[2];
  TORCH_CHECK_VALUE(all <= 31, "voxelize_hard: grid has too many cells");
  return {cell_grid(checked), bits[1] + bits[2], bits[2], all};
}

// What both operators do; `write` fills (V, columns) or (V, max_points, columns) values.
template <class Write>
Voxels voxelize(const at::Tensor& points_lidar_m, const PackedGrid& grid, int64_t max_voxels,
                c10::SmallVector<int64_t, 3> shape, Write write) {
  // Called through torch.ops, nothing has looked at the arguments yet.
  TORCH_CHECK_TYPE(points_lidar_m.scalar_type() == at::kFloat,
                   "voxelize_hard: points_lidar_m must be float32, got ",
                   points_lidar_m.scalar_type());
  TORCH_CHECK_VALUE(points_lidar_m.dim() == 2 && points_lidar_m.size(1) >= 3,
                    "voxelize_hard: points_lidar_m must be (P, 3 or more), got ",
                    points_lidar_m.sizes());
  TORCH_CHECK_VALUE(points_lidar_m.size(0) < (int64_t{1} << 30),
                    "voxelize_hard: points_lidar_m must have fewer than 2^30 rows, got ",
                    points_lidar_m.size(0));
  TORCH_CHECK_VALUE(max_voxels >= 1, "voxelize_hard: max_voxels must be at least 1, got ",
                    max_voxels);
  TorchContext context(points_lidar_m);
  const at::Tensor points = points_lidar_m.contiguous();
  const HardVoxels voxels = number_voxels(context, points.const_data_ptr<float>(), points.size(0),
                                          points.size(1), grid, max_voxels);
  shape.insert(shape.begin(), voxels.voxels);
  shape.push_back(points.size(1));
  at::Tensor values = at::empty(shape, points.options());
  at::Tensor coords = at::empty({voxels.voxels, 3}, points.options().dtype(at::kInt));
  at::Tensor num_points = at::empty({voxels.voxels}, coords.options());
  write(context, voxels, values.mutable_data_ptr<float>(), coords.mutable_data_ptr<int32_t>(),
        num_points.mutable_data_ptr<int32_t>());
  return {values, coords, num_points};
}

void check_max_points(int64_t max_points) {
  TORCH_CHECK_VALUE(max_points >= 1 && max_points <= INT32_MAX,
                    "voxelize_hard: max_points must be in [1, 2^31), got ", max_points);
}

Voxels voxelize_hard_binding(const at::Tensor& points_lidar_m, at::ArrayRef<double> voxel_size,
                             at::ArrayRef<double> point_cloud_range, int64_t max_points,
                             int64_t max_voxels) {
  max_points = std::min<int64_t>(max_points, INT32_MAX);
  check_max_points(max_points);
  const PackedGrid grid = packed_grid(voxel_size, point_cloud_range);
  return voxelize(points_lidar_m, grid, max_voxels, {},
                  [=](Context& context, const HardVoxels& voxels, float* mean, int32_t* coords,
                      int32_t* num_points) {
                    average_voxels(context, voxels, max_points, mean, coords, num_points);
                  });
}

Voxels voxelize_hard_points_binding(const at::Tensor& points_lidar_m,
                                    at::ArrayRef<double> voxel_size,
                                    at::ArrayRef<double> point_cloud_range, int64_t max_points,
                                    int64_t max_voxels) {
  check_max_points(max_points);
  const PackedGrid grid = packed_grid(voxel_size, point_cloud_range);
  return voxelize(points_lidar_m, grid, max_voxels, {max_points},
                  [=](Context& context, const HardVoxels& voxels, float* kept, int32_t* coords,
                      int32_t* num_points) {
                    keep_points(context, voxels, max_points, kept, coords, num_points);
                  });
}

}  // namespace
}  // namespace anybev::cuda

TORCH_LIBRARY_IMPL(anybev, ANYBEV_CUDA_KEY, m) {
  m.impl("voxelize_hard", &anybev::cuda::voxelize_hard_binding);
  m.impl("voxelize_hard_points", &anybev::cuda::voxelize_hard_points_binding);
}
