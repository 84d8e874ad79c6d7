#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <vector>

#include "common/cuda/context.h"

namespace anybev::cuda {

enum class Reduce { kSum, kMean, kMax };

// Points sorted by voxel, then by row: voxel v holds point[start[v]] to point[start[v + 1] - 1].
// The arrays are the context's.
struct GroupedPoints {
  const int32_t *point, *start;
  int64_t voxels;
  std::vector<int64_t> low, high;  // of each column, over the rows that have a voxel
};

// `coords` is (count, columns); rows with a negative number have no voxel: -1 in `point2voxel`.
// Waits for the device, once. What is returned is of use only if the columns span at most 2^62
// cells, which the caller checks.
template <class Number>
GroupedPoints group_points(Context& context, const Number* coords, int64_t count, int64_t columns,
                           int32_t* point2voxel);

// Coordinates and number of points of each voxel.
template <class Number>
void describe_voxels(Context& context, const GroupedPoints& grouped, const Number* coords,
                     int64_t columns, Number* out_coords, int32_t* counts);

// In: float, double, __half or __nv_bfloat16; Sum: double for double, else float.
template <class In, class Sum>
void reduce_voxels(Context& context, const GroupedPoints& grouped, const In* features,
                   int64_t channels, Reduce reduce, Sum* reduced);

// Gradient of the features, (points, channels): 0 for a point without a voxel, NaN for one whose
// voxel is not in [0, voxels). `counts` is read for a mean; `features` and `reduced` for a maximum.
template <class In, class Sum>
void scatter_gradient(Context& context, const Sum* grad, const int32_t* point2voxel,
                      const int32_t* counts, const In* features, const Sum* reduced, int64_t points,
                      int64_t voxels, int64_t channels, Reduce reduce, Sum* out);

}  // namespace anybev::cuda
