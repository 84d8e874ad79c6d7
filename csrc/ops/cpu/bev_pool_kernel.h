// What BEV pooling does with the rows of points and cells, per instruction set.
#pragma once

#include <cstdint>

namespace anybev::bev_pool {

// Points in order and the linear cell of each.
struct Points {
  const int32_t* cells;
  int64_t count, channels;
};

// sums[cell] += features[point] for the points of cells in [first, last). Types are the caller's:
// a kernel is looked up by the features' type.
using Add = void (*)(const Points& points, const void* features, int32_t first, int32_t last,
                     void* sums);
// features[point] = rows[cell] for every point.
using Gather = void (*)(const Points& points, const void* rows, void* features);

struct Kernels {
  Add add;
  Gather gather;
};

extern const Kernels kDouble;

// Features of float32 and of the halves; sums and rows are float32.
struct FloatSet {
  Kernels of_float, of_half, of_bfloat16;
};
extern const FloatSet kPortable;
#if defined(__x86_64__)
extern const FloatSet kAvx2;
#endif

}  // namespace anybev::bev_pool
