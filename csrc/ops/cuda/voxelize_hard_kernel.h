#pragma once

#include "common/cuda/cell_grid.h"
#include "common/cuda/context.h"

namespace anybev::cuda {

// x, y and z of a cell in one word of `bits` bits, which sorts in (x, y, z) order.
struct PackedGrid {
  CellGrid cells;
  int x_shift, y_shift, bits;
};

// Points of one sample, sorted by cell and then by point; voxel v starts at start[v] of that order.
// Voxels stand in order of first appearance. The arrays are the context's.
struct HardVoxels {
  const float* points;
  int64_t count, columns;
  PackedGrid grid;
  const uint32_t* cell;
  const int32_t *point, *start;
  int64_t voxels;
};

// Waits for the device, once: to know how many voxels there are.
HardVoxels number_voxels(Context& context, const float* points, int64_t count, int64_t columns,
                         const PackedGrid& grid, int64_t max_voxels);

// Mean of the first `max_points` points of each voxel, (voxels, columns), summed in point order.
void average_voxels(Context& context, const HardVoxels& voxels, int64_t max_points, float* mean,
                    int32_t* coords, int32_t* num_points);

// The first `max_points` points of each voxel, (voxels, max_points, columns), then zeros.
void keep_points(Context& context, const HardVoxels& voxels, int64_t max_points, float* kept,
                 int32_t* coords, int32_t* num_points);

}  // namespace anybev::cuda
