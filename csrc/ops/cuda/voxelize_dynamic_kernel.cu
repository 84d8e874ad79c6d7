// Dynamic voxelisation: a thread finds the cell of a point.
#include "common/cuda/voxel_cells.h"
#include "ops/cuda/voxelize_dynamic_kernel.h"

namespace anybev::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    find_cells(const float* points, int64_t count, int64_t columns, CellGrid grid,
               int32_t* coords) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    const Cell cell = cell_of(grid, points + i * columns);
    coords[3 * i] = cell.x;
    coords[3 * i + 1] = cell.y;
    coords[3 * i + 2] = cell.z;
  }
}

}  // namespace

void voxelize_dynamic(Context& context, const float* points, int64_t count, int64_t columns,
                      const CellGrid& grid, int32_t* coords) {
  launch(context, find_cells, blocks_for(count, kThreads), kThreads, 0, points, count, columns,
         grid, coords);
}

}  // namespace anybev::cuda
