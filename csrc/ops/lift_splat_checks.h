// Checks of lift and splat that every device's kernels make: called through torch.ops, nothing has
// looked at the shapes before.
#pragma once

#include <ATen/core/Tensor.h>

namespace anybev {

inline void check_lift(const at::Tensor& logits, const at::Tensor& rays_m,
                       const at::Tensor& origins_m, const at::Tensor& depths_m,
                       at::ArrayRef<double> lower_m, at::ArrayRef<double> cell_size_m,
                       at::IntArrayRef grid) {
  TORCH_CHECK_TYPE(rays_m.scalar_type() == at::kFloat && origins_m.scalar_type() == at::kFloat &&
                       depths_m.scalar_type() == at::kFloat,
                   "lift_splat: rays_m, origins_m and depths_m must be float32, got ",
                   rays_m.scalar_type(), ", ", origins_m.scalar_type(), " and ",
                   depths_m.scalar_type());
  TORCH_CHECK_VALUE(logits.dim() == 5 && depths_m.dim() == 1 && depths_m.numel() > 0 &&
                        logits.size(2) > depths_m.numel(),
                    "lift_splat: logits must be (B, N, D + C, h, w), got ", logits.sizes(),
                    " for depths ", depths_m.sizes());
  const int64_t b = logits.size(0), n = logits.size(1);
  TORCH_CHECK_VALUE(rays_m.sizes() == at::IntArrayRef({b, n, logits.size(3), logits.size(4), 3}) &&
                        origins_m.sizes() == at::IntArrayRef({b, n, 3}),
                    "lift_splat: rays_m must be (B, N, h, w, 3) and origins_m (B, N, 3), got ",
                    rays_m.sizes(), " and ", origins_m.sizes());
  for (const at::Tensor* geometry : {&rays_m, &origins_m, &depths_m}) {
    TORCH_CHECK_VALUE(geometry->device() == logits.device(),
                      "lift_splat: rays_m, origins_m and depths_m must be on ", logits.device(),
                      ", got ", geometry->device());
  }
  bool fits = grid.size() == 3 && lower_m.size() == 3 && cell_size_m.size() == 3;
  int64_t cells = 1;
  for (const int64_t axis : grid) {
    fits = fits && axis > 0 && axis < (1 << 24);
    cells = fits ? cells * axis : 0;
    fits = fits && cells < (int64_t{1} << 31);
  }
  TORCH_CHECK_VALUE(fits,
                    "lift_splat: grid must be 3 numbers in [1, 2^24), at most 2^31 - 1 "
                    "cells, with 3 corners and sizes, got ",
                    grid);
}

// After check_lift.
inline void check_lift_gradient(const at::Tensor& grad, const at::Tensor& logits, int64_t depths,
                                at::IntArrayRef grid) {
  const int64_t channels = logits.size(2) - depths;
  TORCH_CHECK_VALUE(
      grad.sizes() == at::IntArrayRef({logits.size(0), grid[2] * channels, grid[0], grid[1]}),
      "lift_splat_backward: grad must be (B, C * Z, X, Y), got ", grad.sizes());
  TORCH_CHECK_VALUE(grad.device() == logits.device(), "lift_splat_backward: grad must be on ",
                    logits.device(), ", got ", grad.device());
}

}  // namespace anybev
