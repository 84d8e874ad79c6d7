// Checks of BEV pooling that every device's kernels make: called through torch.ops, nothing has
// looked at the shapes before.
#pragma once

#include <ATen/core/Tensor.h>

namespace anybev::bev_pool {

inline void check_cells(const at::Tensor& coords, int64_t count, int64_t batch_size,
                        at::IntArrayRef grid) {
  TORCH_CHECK_VALUE(
      coords.sizes() == at::IntArrayRef({count, 4}) && coords.scalar_type() == at::kInt,
      "bev_pool: coords must be (", count, ", 4) int32, got ", coords.sizes(), " ",
      coords.scalar_type());
  bool fits = grid.size() == 3 && batch_size >= 1;
  int64_t cells = batch_size;
  for (size_t axis = 0; fits && axis < 3; ++axis) {
    fits = grid[axis] >= 1 && grid[axis] <= (int64_t{1} << 31) / cells;
    cells *= fits ? grid[axis] : 1;
  }
  TORCH_CHECK_VALUE(fits && cells < (int64_t{1} << 31),
                    "bev_pool: batch_size and grid must be 1 and more, at most 2^31 - 1 cells, "
                    "got ",
                    batch_size, " and ", grid);
}

inline void check_points(const at::Tensor& features, const at::Tensor& coords, int64_t batch_size,
                         at::IntArrayRef grid) {
  TORCH_CHECK_VALUE(features.dim() == 2, "bev_pool: features must be (P, C), got ",
                    features.sizes());
  check_cells(coords, features.size(0), batch_size, grid);
  TORCH_CHECK_VALUE(coords.device() == features.device(), "bev_pool: coords must be on ",
                    features.device(), ", got ", coords.device());
}

inline void check_cells_gradient(const at::Tensor& grad, const at::Tensor& coords,
                                 at::IntArrayRef grid) {
  TORCH_CHECK_VALUE(grad.dim() == 4, "bev_pool_backward: grad must be (B, C * Z, X, Y), got ",
                    grad.sizes());
  check_cells(coords, coords.dim() ? coords.size(0) : 0, grad.size(0), grid);
  TORCH_CHECK_VALUE(
      grad.size(1) % grid[2] == 0 && grad.size(2) == grid[0] && grad.size(3) == grid[1],
      "bev_pool_backward: grad must be (B, C * Z, X, Y) of grid ", grid, ", got ", grad.sizes());
  TORCH_CHECK_VALUE(coords.device() == grad.device(), "bev_pool_backward: coords must be on ",
                    grad.device(), ", got ", coords.device());
}

// What is said of the first point outside the grid; bounds of b, x, y and z.
[[noreturn]] inline void refuse_point(at::ArrayRef<int32_t> coords, int64_t row,
                                      at::IntArrayRef bounds) {
  C10_THROW_ERROR(ValueError, c10::str("bev_pool: coords must be in [0, ", bounds, "), got ",
                                       coords, " in row ", row));
}

}  // namespace anybev::bev_pool
