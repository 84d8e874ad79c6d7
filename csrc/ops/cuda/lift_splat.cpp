#include <ATen/ops/empty_like.h>

#include "ops/cuda/binding.h"
#include "ops/cuda/floating.h"
#include "ops/cuda/lift_splat_kernel.h"
#include "ops/lift_splat_checks.h"

namespace anybev::cuda {
namespace {

// Geometry as the kernels read it, and the tensors that hold it.
struct Input {
  Input(const at::Tensor& logits, const at::Tensor& rays_m, const at::Tensor& origins_m,
        const at::Tensor& depths_m, at::ArrayRef<double> lower_m, at::ArrayRef<double> cell_size_m,
        at::IntArrayRef grid)
      : rays_m(rays_m.contiguous()),
        origins_m(origins_m.contiguous()),
        depths_m(depths_m.contiguous()) {
    const int64_t depths = depths_m.numel();
    geometry = {.samples = logits.size(0),
                .cameras = logits.size(1),
                .depths = depths,
                .channels = logits.size(2) - depths,
                .height = logits.size(3),
                .width = logits.size(4),
                .rays_m = this->rays_m.const_data_ptr<float>(),
                .origins_m = this->origins_m.const_data_ptr<float>(),
                .depths_m = this->depths_m.const_data_ptr<float>(),
                .lower_m = {},
                .cell_size_m = {},
                .grid = {}};
    for (int axis = 0; axis < 3; ++axis) {
      geometry.lower_m[axis] = static_cast<float>(lower_m[axis]);
      geometry.cell_size_m[axis] = static_cast<float>(cell_size_m[axis]);
      geometry.grid[axis] = static_cast<int32_t>(grid[axis]);
    }
  }

  const at::Tensor rays_m, origins_m, depths_m;
  LiftGeometry geometry;
};

// (B, N, C, h, w) as (B, N, h, w, C).
at::Tensor pixels_of(const at::Tensor& pictures) { return pictures.permute({0, 1, 3, 4, 2}); }

bool channels_side_by_side(const at::Tensor& pixels) {
  return pixels.stride(4) == 1 || pixels.size(4) == 1;
}

template <class T>
Pictures<T> pictures(T* data, const at::Tensor& pixels) {
  return {data, pixels.stride(0), pixels.stride(1), pixels.stride(2), pixels.stride(3)};
}

// Pixels whose channels lie side by side: the logits themselves in a channels-last format, else a
// copy.
at::Tensor readable(const at::Tensor& logits) {
  const at::Tensor pixels = pixels_of(logits);
  return channels_side_by_side(pixels) ? pixels : pixels.contiguous();
}

at::Tensor forward(const at::Tensor& logits, const at::Tensor& rays_m, const at::Tensor& origins_m,
                   const at::Tensor& depths_m, at::ArrayRef<double> lower_m,
                   at::ArrayRef<double> cell_size_m, at::IntArrayRef grid) {
  check_lift(logits, rays_m, origins_m, depths_m, lower_m, cell_size_m, grid);
  TorchContext context(logits);
  const Input input(logits, rays_m, origins_m, depths_m, lower_m, cell_size_m, grid);
  const LiftGeometry& g = input.geometry;
  const at::Tensor pixels = readable(logits);
  at::Tensor bev = at::empty({g.samples, g.grid[0], g.grid[1], g.grid[2] * g.channels},
                             logits.options().dtype(sum_dtype(logits.scalar_type())));
  for_floating(logits.scalar_type(), "lift_splat: logits", [&](auto type) {
    using T = decltype(type);
    lift_splat<T>(context, g, pictures(numbers<T>(pixels), pixels), mutable_numbers<Sum<T>>(bev));
  });
  return bev.permute({0, 3, 1, 2});
}

at::Tensor backward(const at::Tensor& grad, const at::Tensor& logits, const at::Tensor& rays_m,
                    const at::Tensor& origins_m, const at::Tensor& depths_m,
                    at::ArrayRef<double> lower_m, at::ArrayRef<double> cell_size_m,
                    at::IntArrayRef grid) {
  check_lift(logits, rays_m, origins_m, depths_m, lower_m, cell_size_m, grid);
  check_lift_gradient(grad, logits, depths_m.numel(), grid);
  TorchContext context(logits);
  const Input input(logits, rays_m, origins_m, depths_m, lower_m, cell_size_m, grid);
  at::Tensor grad_logits = at::empty_like(logits);
  if (logits.numel() == 0) return grad_logits;
  const at::Tensor pixels = readable(logits);
  const at::Tensor rows =
      grad.permute({0, 2, 3, 1}).to(sum_dtype(logits.scalar_type())).contiguous();
  const at::Tensor own = pixels_of(grad_logits);
  const bool direct = channels_side_by_side(own);
  const at::Tensor out = direct ? own : at::empty(own.sizes(), own.options());
  for_floating(logits.scalar_type(), "lift_splat: logits", [&](auto type) {
    using T = decltype(type);
    lift_splat_backward<T>(context, input.geometry, pictures(numbers<T>(pixels), pixels),
                           numbers<Sum<T>>(rows), pictures(mutable_numbers<T>(out), out));
  });
  if (!direct) own.copy_(out);
  return grad_logits;
}

}  // namespace
}  // namespace anybev::cuda

TORCH_LIBRARY_IMPL(anybev, ANYBEV_CUDA_KEY, m) {
  m.impl("lift_splat", &anybev::cuda::forward);
  m.impl("lift_splat_backward", &anybev::cuda::backward);
}
