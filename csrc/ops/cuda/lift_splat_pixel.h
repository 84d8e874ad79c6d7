// What both directions of lift and splat do with one pixel: where its points fall, its weights.
#pragma once

#include <limits>

#include "common/cuda/device.h"
#include "ops/cuda/lift_splat_kernel.h"

namespace anybev::cuda {

// Four roundings, in this order, decide the cell.
__device__ inline float lift_position(float depth_m, float ray_m, float origin_m, float lower_m,
                                      float size_m) {
  const float point_m = __fadd_rn(__fmul_rn(depth_m, ray_m), origin_m);
  return __fdiv_rn(__fsub_rn(point_m, lower_m), size_m);
}

// Ray and origin of a pixel.
struct LiftRay {
  float ray_m[3], origin_m[3];
};

__device__ inline LiftRay load_ray(const LiftGeometry& g, int64_t column, int64_t row) {
  const int64_t picture = column / g.width, u = column % g.width;
  const float* ray = g.rays_m + ((picture * g.height + row) * g.width + u) * 3;
  const float* origin = g.origins_m + picture * 3;
  return {{ray[0], ray[1], ray[2]}, {origin[0], origin[1], origin[2]}};
}

// Cell of the sample that a pixel's point falls into; -1 outside the grid and where not finite.
__device__ inline int32_t find_cell(const LiftGeometry& g, const LiftRay& from, float depth_m) {
  float at[3];
  bool inside = true;
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    at[axis] = lift_position(depth_m, from.ray_m[axis], from.origin_m[axis], g.lower_m[axis],
                             g.cell_size_m[axis]);
    inside = inside && at[axis] > -1 && at[axis] < static_cast<float>(g.grid[axis]);
  }
  if (!inside) return -1;
  const int32_t x = static_cast<int32_t>(at[0]), y = static_cast<int32_t>(at[1]);
  return (x * g.grid[1] + y) * g.grid[2] + static_cast<int32_t>(at[2]);
}

// First channel of a pixel.
template <class T>
__device__ T* pixel_of(const LiftGeometry& g, const Pictures<T>& pictures, int64_t column,
                       int64_t row) {
  const int64_t picture = column / g.width, u = column % g.width;
  return pictures.data + picture / g.cameras * pictures.sample_stride +
         picture % g.cameras * pictures.camera_stride + row * pictures.row_stride +
         u * pictures.column_stride;
}

template <class N, class Join>
__device__ N join_lanes(N value, Join join) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value = join(value, __shfl_xor_sync(kFullWarp, value, lanes));
  }
  return value;
}
template <class N>
__device__ N sum_lanes(N value) {
  return join_lanes(value, [](N a, N b) { return a + b; });
}

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }

// weights = softmax(logits) by one warp: lane i has numbers i, i + 32, ... A logit that is not a
// number makes all weights so.
template <class T>
__device__ void softmax(const T* logits, int64_t count, Sum<T>* weights) {
  using N = Sum<T>;
  const int64_t lane = threadIdx.x % kWarp;
  N largest = -std::numeric_limits<N>::infinity(), total = 0;
  for (int64_t d = lane; d < count; d += kWarp) {
    const N logit = to_sum(logits[d]);
    largest = logit > largest ? logit : largest;
  }
  largest = join_lanes(largest, [](N a, N b) { return a > b ? a : b; });
  for (int64_t d = lane; d < count; d += kWarp) {
    const N power = exponential(to_sum(logits[d]) - largest);
    weights[d] = power;
    total += power;
  }
  const N scale = 1 / sum_lanes(total);
  for (int64_t d = lane; d < count; d += kWarp) weights[d] *= scale;
}

}  // namespace anybev::cuda
