#pragma once

#include "common/cuda/cell_grid.h"
#include "common/cuda/context.h"

namespace anybev::cuda {

// coords[3 * i]: x, y, z of the cell of point i; -1, -1, -1 outside the grid.
void voxelize_dynamic(Context& context, const float* points, int64_t count, int64_t columns,
                      const CellGrid& grid, int32_t* coords);

}  // namespace anybev::cuda
