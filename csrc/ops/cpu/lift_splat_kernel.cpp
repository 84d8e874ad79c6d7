// Lift and splat on CPU. Forward: a thread owns cells, a range of x, and adds the pictures' columns
// to them in order, so the number of threads cannot change a bit. Backward: a thread owns columns.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "common/isa.h"
#include "common/tasks.h"
#include "ops/cpu/lift_splat_kernel.h"
#include "ops/lift_splat_checks.h"

namespace anybev::lift_splat {
namespace {

using at::Tensor;

// Everything that the two directions share: checked sizes, geometry, pictures.
class Input {
 public:
  Input(const Tensor& logits, const Tensor& rays_m, const Tensor& origins_m, const Tensor& depths_m,
        at::ArrayRef<double> lower_m, at::ArrayRef<double> cell_size_m, at::IntArrayRef grid)
      : logits(logits),
        rays_m_(rays_m.contiguous()),
        origins_m_(origins_m.contiguous()),
        depths_m_(depths_m.contiguous()) {
    check_lift(logits, rays_m_, origins_m_, depths_m_, lower_m, cell_size_m, grid);
    batch_size = logits.size(0);
    cameras = logits.size(1);
    const int64_t depths = depths_m_.numel();
    problem = {.depths = depths,
               .channels = logits.size(2) - depths,
               .height = logits.size(3),
               .width = logits.size(4),
               .depths_m = depths_m_.const_data_ptr<float>(),
               .first_depth_m = std::numeric_limits<float>::quiet_NaN(),
               .last_depth_m = std::numeric_limits<float>::quiet_NaN(),
               .lower_m = {},
               .cell_size_m = {},
               .grid = {}};
    for (int64_t d = 0; d < depths; ++d) {
      const float depth_m = problem.depths_m[d];
      if (!std::isfinite(depth_m)) continue;
      problem.first_depth_m = std::fmin(problem.first_depth_m, depth_m);
      problem.last_depth_m = std::fmax(problem.last_depth_m, depth_m);
    }
    for (int axis = 0; axis < 3; ++axis) {
      problem.lower_m[axis] = static_cast<float>(lower_m[axis]);
      problem.cell_size_m[axis] = static_cast<float>(cell_size_m[axis]);
      problem.grid[axis] = static_cast<int32_t>(grid[axis]);
    }
  }

  bool empty() const { return logits.numel() == 0; }
  int64_t cells() const {
    return static_cast<int64_t>(problem.grid[0]) * problem.grid[1] * problem.grid[2];
  }

  // Picture `index` = sample * cameras + camera.
  template <class Number>
  Picture<Number> picture(int64_t index) const {
    return {.logits = logits.const_data_ptr<Number>() + offset(logits, index),
            .channel_stride = logits.stride(2),
            .row_stride = logits.stride(3),
            .column_stride = logits.stride(4),
            .rays_m = rays_m_.const_data_ptr<float>() + index * problem.height * problem.width * 3,
            .origin_m = origins_m_.const_data_ptr<float>() + index * 3};
  }

  int64_t offset(const Tensor& of, int64_t index) const {
    return index / cameras * of.stride(0) + index % cameras * of.stride(1);
  }

  const Tensor logits;
  int64_t batch_size, cameras;
  Problem problem;

 private:
  const Tensor rays_m_, origins_m_, depths_m_;
};

const LiftKernels<float>& float_kernels() {
#if defined(__x86_64__)
  if (best_isa() == Isa::kAvx512) return kFloatLiftAvx512;
  if (best_isa() == Isa::kAvx2) return kFloatLiftAvx2;
#endif
  return kFloatLiftPortable;
}

Tensor scratch_for(int64_t workers, int64_t bytes) {
  return at::empty({workers, bytes}, at::dtype(at::kByte));
}

// A fresh map of tens of megabytes is written once, row by row: with small pages the page faults
// take longer than the sums.
void prefer_large_pages(void* memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 4096;
  constexpr size_t kLargePage = 2 << 20;
  if (bytes < 2 * kLargePage) return;
  const auto begin = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kPage * kPage;
  // Only advice: what the kernel does with it is its own affair.
  (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

template <class Number>
Tensor forward(const LiftKernels<Number>& kernels, const Input& input) {
  const Problem& p = input.problem;
  const auto [nx, ny, nz] = p.grid;
  Tensor bev = at::empty({input.batch_size, nx, ny, nz * p.channels}, input.logits.options());
  auto* rows = bev.mutable_data_ptr<Number>();
  prefer_large_pages(rows, bev.nbytes());
  if (input.empty()) return bev.zero_().permute({0, 3, 1, 2});

  // One stripe of x a thread: a column that crosses several is prepared for each.
  const int64_t threads = at::get_num_threads();
  const int64_t wanted = (threads + input.batch_size - 1) / input.batch_size;
  const int64_t stripes = std::min<int64_t>(wanted, nx);
  const int64_t tasks = input.batch_size * stripes;
  const int64_t plane = input.cells() / nx * p.channels;
  const int64_t bytes = kernels.scratch_bytes(p);
  const Tensor scratch = scratch_for(worker_count(tasks, 1), bytes);
  auto* memory = reinterpret_cast<std::byte*>(scratch.mutable_data_ptr());
  for_each_task(tasks, 1, [&](int64_t task, int64_t worker) {
    const int64_t sample = task / stripes, stripe = task % stripes;
    const auto begin = static_cast<int32_t>(nx * stripe / stripes);
    const auto end = static_cast<int32_t>(nx * (stripe + 1) / stripes);
    Number* own = rows + sample * nx * plane;
    std::memset(own + begin * plane, 0, (end - begin) * plane * sizeof(Number));
    for (int64_t n = 0; n < input.cameras; ++n) {
      kernels.splat(p, input.picture<Number>(sample * input.cameras + n), begin, end, own,
                    memory + worker * bytes);
    }
  });
  return bev.permute({0, 3, 1, 2});
}

template <class Number>
Tensor backward(const LiftKernels<Number>& kernels, const Input& input, const Tensor& grad) {
  const Problem& p = input.problem;
  Tensor grad_logits = at::empty_like(input.logits);
  if (input.empty()) return grad_logits;
  const Tensor rows = grad.permute({0, 2, 3, 1}).contiguous();
  const auto* grad_bev = rows.const_data_ptr<Number>();
  auto* to = grad_logits.mutable_data_ptr<Number>();

  const int64_t together = kernels.columns_together(p, input.picture<Number>(0));
  const int64_t blocks = (p.width + together - 1) / together;
  const int64_t tasks = input.batch_size * input.cameras * blocks;
  const int64_t bytes = kernels.scratch_bytes(p);
  const Tensor scratch = scratch_for(worker_count(tasks, 1), bytes);
  auto* memory = reinterpret_cast<std::byte*>(scratch.mutable_data_ptr());
  for_each_task(tasks, 1, [&](int64_t task, int64_t worker) {
    const int64_t index = task / blocks, begin = task % blocks * together;
    kernels.gradient(p, input.picture<Number>(index), begin, std::min(begin + together, p.width),
                     grad_bev + index / input.cameras * input.cells() * p.channels,
                     to + input.offset(grad_logits, index), memory + worker * bytes);
  });
  return grad_logits;
}

// Logits in the dtype that is computed in, and in strides that an output can share.
Tensor computable(const Tensor& logits) {
  const Tensor wide = logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
  return wide.is_non_overlapping_and_dense() ? wide : at::empty_like(wide).copy_(wide);
}

Tensor lift_splat(const Tensor& logits, const Tensor& rays_m, const Tensor& origins_m,
                  const Tensor& depths_m, at::ArrayRef<double> lower_m,
                  at::ArrayRef<double> cell_size_m, at::IntArrayRef grid) {
  const Input input(computable(logits), rays_m, origins_m, depths_m, lower_m, cell_size_m, grid);
  if (logits.scalar_type() == at::kDouble) return forward(kDoubleLiftPortable, input);
  return forward(float_kernels(), input);
}

Tensor lift_splat_backward(const Tensor& grad, const Tensor& logits, const Tensor& rays_m,
                           const Tensor& origins_m, const Tensor& depths_m,
                           at::ArrayRef<double> lower_m, at::ArrayRef<double> cell_size_m,
                           at::IntArrayRef grid) {
  const Input input(computable(logits), rays_m, origins_m, depths_m, lower_m, cell_size_m, grid);
  check_lift_gradient(grad, input.logits, input.problem.depths, grid);
  const Tensor wide = grad.to(input.logits.scalar_type());
  if (logits.scalar_type() == at::kDouble) return backward(kDoubleLiftPortable, input, wide);
  return backward(float_kernels(), input, wide).to(logits.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(anybev, CPU, m) {
  m.impl("lift_splat", &lift_splat);
  m.impl("lift_splat_backward", &lift_splat_backward);
}

}  // namespace anybev::lift_splat
