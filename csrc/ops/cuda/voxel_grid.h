// The voxelisers' grid from the arguments of an operator.
#pragma once

#include <algorithm>

#include "common/cuda/cell_grid.h"
#include "common/voxel_cells.h"

namespace anybev::cuda {

inline CellGrid cell_grid(const VoxelGrid& checked) {
  CellGrid grid;
  std::copy_n(checked.low.begin(), 3, grid.low);
  std::copy_n(checked.size.begin(), 3, grid.size);
  std::copy_n(checked.cells.begin(), 3, grid.cells);
  return grid;
}

}  // namespace anybev::cuda
