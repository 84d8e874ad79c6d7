#include "ops/bev_pool_checks.h"
#include "ops/cuda/bev_pool_kernel.h"
#include "ops/cuda/binding.h"
#include "ops/cuda/floating.h"

namespace anybev::cuda {
namespace {

// Linear cell of each point, in scratch memory; an error names the first point outside the grid.
const uint32_t* linear_cells(Context& context, const at::Tensor& coords, int64_t batch_size,
                             at::IntArrayRef grid) {
  const at::Tensor rows = coords.contiguous();
  const CellBounds bounds = {static_cast<uint32_t>(batch_size), static_cast<uint32_t>(grid[0]),
                             static_cast<uint32_t>(grid[1]), static_cast<uint32_t>(grid[2])};
  auto* cells = context.buffer<uint32_t>(rows.size(0));
  const auto* data = rows.const_data_ptr<int32_t>();
  const int64_t outside = find_cells(context, data, rows.size(0), bounds, cells);
  if (outside >= 0) {
    int32_t row[4];
    read_back(context, row, data + 4 * outside, 4);
    bev_pool::refuse_point(row, outside, {batch_size, grid[0], grid[1], grid[2]});
  }
  return cells;
}

at::Tensor pool(const at::Tensor& features, const at::Tensor& coords, int64_t batch_size,
                at::IntArrayRef grid) {
  bev_pool::check_points(features, coords, batch_size, grid);
  TorchContext context(features);
  const at::Tensor rows = features.contiguous();
  const int64_t channels = rows.size(1), cells = batch_size * grid[0] * grid[1] * grid[2];
  at::Tensor sums = at::empty({batch_size, grid[0], grid[1], grid[2] * channels},
                              rows.options().dtype(sum_dtype(rows.scalar_type())));
  for_floating(rows.scalar_type(), "bev_pool: features", [&](auto type) {
    using T = decltype(type);
    const uint32_t* point_cells = linear_cells(context, coords, batch_size, grid);
    sum_points(context, numbers<T>(rows), point_cells, rows.size(0), channels, cells,
               mutable_numbers<Sum<T>>(sums));
  });
  return sums.permute({0, 3, 1, 2});
}

at::Tensor gather(const at::Tensor& grad, const at::Tensor& coords, at::IntArrayRef grid,
                  at::ScalarType dtype) {
  bev_pool::check_cells_gradient(grad, coords, grid);
  TorchContext context(grad);
  const at::Tensor rows = grad.permute({0, 2, 3, 1}).to(sum_dtype(dtype)).contiguous();
  const int64_t count = coords.size(0), channels = rows.size(3) / grid[2];
  at::Tensor features = at::empty({count, channels}, rows.options().dtype(dtype));
  for_floating(dtype, "bev_pool_backward: dtype", [&](auto type) {
    using T = decltype(type);
    const uint32_t* point_cells = linear_cells(context, coords, grad.size(0), grid);
    gather_rows(context, numbers<Sum<T>>(rows), point_cells, count, channels,
                mutable_numbers<T>(features));
  });
  return features;
}

}  // namespace
}  // namespace anybev::cuda

TORCH_LIBRARY_IMPL(anybev, ANYBEV_CUDA_KEY, m) {
  m.impl("bev_pool", &anybev::cuda::pool);
  m.impl("bev_pool_backward", &anybev::cuda::gather);
}
