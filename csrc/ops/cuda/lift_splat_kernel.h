// Lift and splat on pictures whose channels lie side by side. A column is one column of pixels of
// one picture; columns are numbered (sample, camera, u), the pixels of a column by row.
#pragma once

#include "common/cuda/context.h"
#include "common/cuda/numbers.h"

namespace anybev::cuda {

// Rays (B, N, h, w, 3), origins (B, N, 3) and depths are contiguous. Along each axis a point's cell
// is trunc((point - lower) / cell size), in float32; cells are numbered (x, y, z), z fastest.
struct LiftGeometry {
  int64_t samples, cameras, depths, channels, height, width;
  const float *rays_m, *origins_m, *depths_m;
  float lower_m[3], cell_size_m[3];
  int32_t grid[3];

  constexpr int64_t columns() const { return samples * cameras * width; }
  constexpr int64_t cells() const { return static_cast<int64_t>(grid[0]) * grid[1] * grid[2]; }
};

// (B, N, h, w, D + C) by strides in numbers; the last is 1.
template <class T>
struct Pictures {
  T* data;
  int64_t sample_stride, camera_stride, row_stride, column_stride;
};

// Points that a lift works on at a time: memory beside input and output is at most 24 bytes a point
// of these. Few when emulated, so that small tests pass through several parts too.
#ifdef ANYBEV_EMULATION
constexpr int64_t kLiftPoints = 2000;
#else
constexpr int64_t kLiftPoints = int64_t{1} << 24;
#endif

// bev (B, X, Y, Z, C), all of it written. Each cell is summed in the order of the columns, then of
// the depths, then of the rows.
template <class T>
void lift_splat(Context& context, const LiftGeometry& geometry, const Pictures<const T>& logits,
                Sum<T>* bev);

// Gradient of the logits from that of bev.
template <class T>
void lift_splat_backward(Context& context, const LiftGeometry& geometry,
                         const Pictures<const T>& logits, const Sum<T>* grad_bev,
                         const Pictures<T>& grad_logits);

}  // namespace anybev::cuda
