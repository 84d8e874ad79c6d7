// Which cell a point falls into, as common/voxel_cells.h has it for the CPU: the same arithmetic,
// and the same cells.
#pragma once

#include "common/cuda/cell_grid.h"
#include "common/cuda/device.h"

namespace anybev::cuda {

struct Cell {
  int x, y, z;
  bool inside;
};

// For an integer bound n, floor(q) in [0, n) is q in [0, n), where floor is truncation; comparisons
// are false for NaN. The division is IEEE's: a reciprocal would move points near a border.
__device__ inline Cell cell_of(const CellGrid& grid, const float* point) {
  const float x = (point[0] - grid.low[0]) / grid.size[0];
  const float y = (point[1] - grid.low[1]) / grid.size[1];
  const float z = (point[2] - grid.low[2]) / grid.size[2];
  const bool inside = x >= 0.0f && x < grid.cells[0] && y >= 0.0f && y < grid.cells[1] &&
                      z >= 0.0f && z < grid.cells[2];
  if (!inside) return {-1, -1, -1, false};
  return {static_cast<int>(x), static_cast<int>(y), static_cast<int>(z), true};
}

}  // namespace anybev::cuda
