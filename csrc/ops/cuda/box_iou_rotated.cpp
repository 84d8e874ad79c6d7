#include <ATen/Dispatch.h>

#include "ops/cuda/binding.h"
#include "ops/cuda/box_iou_rotated_kernel.h"

namespace anybev::cuda {
namespace {

at::Tensor box_iou_rotated_binding(const at::Tensor& boxes_a, const at::Tensor& boxes_b,
                                   c10::string_view mode) {
  TorchContext context(boxes_a);
  const at::Tensor rows = boxes_a.contiguous(), columns = boxes_b.contiguous();
  at::Tensor overlap = at::empty({rows.size(0), columns.size(0)}, rows.options());
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "box_iou_rotated", [&] {
    box_iou_rotated(context, rows.const_data_ptr<scalar_t>(), rows.size(0),
                    columns.const_data_ptr<scalar_t>(), columns.size(0), mode == "iou",
                    overlap.mutable_data_ptr<scalar_t>());
  });
  return overlap;
}

}  // namespace
}  // namespace anybev::cuda

TORCH_LIBRARY_IMPL(anybev, ANYBEV_CUDA_KEY, m) {
  m.impl("box_iou_rotated", &anybev::cuda::box_iou_rotated_binding);
}
