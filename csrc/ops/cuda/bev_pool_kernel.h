#pragma once

#include "common/cuda/context.h"
#include "common/cuda/numbers.h"

namespace anybev::cuda {

// Cells along b, x, y and z; together they fit int32.
struct CellBounds {
  uint32_t b, x, y, z;
};

// Linear cells, (b, x, y, z) ascending, of points (count, 4). Waits for the device; returns the
// first point outside the bounds, or -1.
int64_t find_cells(Context& context, const int32_t* coords, int64_t count, CellBounds bounds,
                   uint32_t* cells);

// sums (cells, channels), all of them written: the features (count, channels) of each cell's
// points, added in the order of the points.
template <class T>
void sum_points(Context& context, const T* features, const uint32_t* point_cells, int64_t count,
                int64_t channels, int64_t cells, Sum<T>* sums);

// features[i] = rows[point_cells[i]].
template <class T>
void gather_rows(Context& context, const Sum<T>* rows, const uint32_t* point_cells, int64_t count,
                 int64_t channels, T* features);

}  // namespace anybev::cuda
