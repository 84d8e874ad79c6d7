#include "ops/cuda/binding.h"
#include "ops/cuda/voxel_grid.h"
#include "ops/cuda/voxelize_dynamic_kernel.h"

namespace anybev::cuda {
namespace {

at::Tensor voxelize_dynamic_binding(const at::Tensor& points_lidar_m,
                                    at::ArrayRef<double> voxel_size,
                                    at::ArrayRef<double> point_cloud_range) {
  // Called through torch.ops, nothing has looked at the arguments yet.
  TORCH_CHECK_TYPE(points_lidar_m.scalar_type() == at::kFloat,
                   "voxelize_dynamic: points_lidar_m must be float32, got ",
                   points_lidar_m.scalar_type());
  TORCH_CHECK_VALUE(points_lidar_m.dim() == 2 && points_lidar_m.size(1) >= 3,
                    "voxelize_dynamic: points_lidar_m must be (P, 3 or more), got ",
                    points_lidar_m.sizes());
  const VoxelGrid grid("voxelize_dynamic", voxel_size, point_cloud_range);
  TorchContext context(points_lidar_m);
  const at::Tensor points = points_lidar_m.contiguous();
  at::Tensor coords = at::empty({points.size(0), 3}, points.options().dtype(at::kInt));
  voxelize_dynamic(context, points.const_data_ptr<float>(), points.size(0), points.size(1),
                   cell_grid(grid), coords.mutable_data_ptr<int32_t>());
  return coords;
}

}  // namespace
}  // namespace anybev::cuda

TORCH_LIBRARY_IMPL(anybev, ANYBEV_CUDA_KEY, m) {
  m.impl("voxelize_dynamic", &anybev::cuda::voxelize_dynamic_binding);
}
