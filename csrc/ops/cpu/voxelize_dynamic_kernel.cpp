// Dynamic voxelisation on the CPU: the cell of every point, four points at a time.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>

#include "common/voxel_cells.h"

namespace anybev {
namespace {

constexpr int64_t kRowsPerTask = 1 << 15;

// x, y, z of the cells of points [begin, end); -1, -1, -1 outside the range.
void find_cells(const float* points, int64_t columns, int64_t begin, int64_t end,
                const VoxelGrid& grid, int32_t* coords) {
  for (int64_t i = begin; i < end; i += 4) {
    const int64_t lanes = std::min<int64_t>(4, end - i);
    const float* row[4];
    for (int64_t lane = 0; lane < 4; ++lane) {
      row[lane] = points + (i + std::min(lane, lanes - 1)) * columns;
    }
    CellInt4 inside[3], cell[3];
    for (int axis = 0; axis < 3; ++axis) cell[axis] = grid.cells_of(row, axis, inside[axis]);
    const CellInt4 outside = ~(inside[0] & inside[1] & inside[2]);
    for (int axis = 0; axis < 3; ++axis) cell[axis] |= outside;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      for (int axis = 0; axis < 3; ++axis) coords[(i + lane) * 3 + axis] = cell[axis][lane];
    }
  }
}

at::Tensor voxelize_dynamic(const at::Tensor& points_lidar_m, at::ArrayRef<double> voxel_size,
                            at::ArrayRef<double> point_cloud_range) {
  // Called through torch.ops, nothing has looked at the arguments yet.
  TORCH_CHECK_TYPE(points_lidar_m.scalar_type() == at::kFloat,
                   "voxelize_dynamic: points_lidar_m must be float32, got ",
                   points_lidar_m.scalar_type());
  TORCH_CHECK_VALUE(points_lidar_m.dim() == 2 && points_lidar_m.size(1) >= 3,
                    "voxelize_dynamic: points_lidar_m must be (P, 3 or more), got ",
                    points_lidar_m.sizes());
  const VoxelGrid grid("voxelize_dynamic", voxel_size, point_cloud_range);
  const at::Tensor points = points_lidar_m.contiguous();
  const int64_t count = points.size(0), columns = points.size(1);
  at::Tensor coords = at::empty({count, 3}, points.options().dtype(at::kInt));
  const float* source = points.const_data_ptr<float>();
  int32_t* out = coords.mutable_data_ptr<int32_t>();
  at::parallel_for(0, count, kRowsPerTask, [&](int64_t begin, int64_t end) {
    find_cells(source, columns, begin, end, grid, out);
  });
  return coords;
}

}  // namespace
}  // namespace anybev

TORCH_LIBRARY_IMPL(anybev, CPU, m) { m.impl("voxelize_dynamic", &anybev::voxelize_dynamic); }
