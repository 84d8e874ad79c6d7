// The voxelisers' grid as kernels and bindings hand it over.
#pragma once

namespace anybev::cuda {

// Low corner, length of a cell and number of cells along x, y, z.
struct CellGrid {
  float low[3], size[3], cells[3];
};

}  // namespace anybev::cuda
