#include <ATen/Dispatch.h>
#include <ATen/ops/argsort.h>

#include "ops/cuda/binding.h"
#include "ops/cuda/nms_rotated_kernel.h"

namespace anybev::cuda {
namespace {

at::Tensor nms_rotated_binding(const at::Tensor& boxes, const at::Tensor& scores,
                               double iou_threshold) {
  TorchContext context(boxes);
  const at::Tensor rows = boxes.contiguous();
  const at::Tensor order =
      at::argsort(scores, /*stable=*/true, /*dim=*/0, /*descending=*/true).contiguous();
  auto* kept = context.buffer<int64_t>(rows.size(0));
  auto* count = context.buffer<int64_t>(1);
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "nms_rotated", [&] {
    nms_rotated(context, rows.const_data_ptr<scalar_t>(), order.const_data_ptr<int64_t>(),
                rows.size(0), static_cast<scalar_t>(iou_threshold), kept, count);
  });
  int64_t host_count = 0;
  read_back(context, &host_count, count, 1);
  at::Tensor result = at::empty({host_count}, order.options());
  copy_on_device(context, result.mutable_data_ptr<int64_t>(), kept, host_count);
  return result;
}

}  // namespace
}  // namespace anybev::cuda

TORCH_LIBRARY_IMPL(anybev, ANYBEV_CUDA_KEY, m) {
  m.impl("nms_rotated", &anybev::cuda::nms_rotated_binding);
}
