// Inner kernels of lift and splat, one table an instruction set. Free of torch headers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace anybev::lift_splat {

// Sizes, and where points fall: along each axis cell = trunc((point - lower) / cell size), in
// float32. Cells are numbered (x, y, z), z fastest.
struct Problem {
  int64_t depths, channels, height, width;
  const float* depths_m;
  float first_depth_m, last_depth_m;  // least and greatest finite depth; NaN when there is none
  float lower_m[3], cell_size_m[3];
  int32_t grid[3];
};

// One picture. Strides in numbers; rays (height, width, 3) and origin (3,) are contiguous.
template <class Number>
struct Picture {
  const Number* logits;
  int64_t channel_stride, row_stride, column_stride;
  const float* rays_m;
  const float* origin_m;
};

template <class Number>
struct LiftKernels {
  // Scratch of one thread; rounded up to whole cache lines.
  int64_t (*scratch_bytes)(const Problem& problem);
  // Columns that a gradient task should have, for one picture's memory format.
  int64_t (*columns_together)(const Problem& problem, const Picture<Number>& picture);
  // Adds what a picture lifts into the cells with x in [x_begin, x_end). bev: all cells of the
  // sample, rows of `channels`.
  void (*splat)(const Problem& problem, const Picture<Number>& picture, int32_t x_begin,
                int32_t x_end, Number* bev, std::byte* scratch);
  // Gradient of the logits of columns [begin, end) of a picture, in the logits' strides.
  void (*gradient)(const Problem& problem, const Picture<Number>& picture, int64_t begin,
                   int64_t end, const Number* grad_bev, Number* grad_logits, std::byte* scratch);
};

extern const LiftKernels<float> kFloatLiftPortable;
extern const LiftKernels<double> kDoubleLiftPortable;
#if defined(__x86_64__)
extern const LiftKernels<float> kFloatLiftAvx2, kFloatLiftAvx512;
#endif

}  // namespace anybev::lift_splat
