#include <ATen/Dispatch.h>

#include "ops/cuda/binding.h"
#include "ops/cuda/points_in_boxes_kernel.h"

namespace anybev::cuda {
namespace {

at::Tensor points_in_boxes_binding(const at::Tensor& points_lidar_m,
                                   const at::Tensor& boxes_lidar) {
  TorchContext context(points_lidar_m);
  const at::Tensor points = points_lidar_m.contiguous(), boxes = boxes_lidar.contiguous();
  at::Tensor inside = at::empty({points.size(0), boxes.size(0)}, points.options().dtype(at::kBool));
  AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "points_in_boxes", [&] {
    points_in_boxes(context, points.const_data_ptr<scalar_t>(), points.size(0), points.size(1),
                    boxes.const_data_ptr<scalar_t>(), boxes.size(0), boxes.size(1),
                    inside.mutable_data_ptr<bool>());
  });
  return inside;
}

}  // namespace
}  // namespace anybev::cuda

TORCH_LIBRARY_IMPL(anybev, ANYBEV_CUDA_KEY, m) {
  m.impl("points_in_boxes", &anybev::cuda::points_in_boxes_binding);
}
