#include "ops/cuda/binding.h"
#include "ops/cuda/draw_heatmap_kernel.h"

namespace anybev::cuda {
namespace {

at::Tensor draw_heatmap_binding(const at::Tensor& boxes_lidar, const at::Tensor& labels,
                                const at::Tensor& sample_index, int64_t batch_size,
                                int64_t num_classes, at::IntArrayRef grid,
                                at::ArrayRef<double> cell_size_m, at::ArrayRef<double> origin_m,
                                double overlap, int64_t min_radius) {
  TorchContext context(boxes_lidar);
  const at::Tensor boxes = boxes_lidar.to(at::kFloat).contiguous();
  const at::Tensor classes = labels.contiguous(), samples = sample_index.contiguous();
  const HeatmapSetting setting = {batch_size,
                                  num_classes,
                                  grid[0],
                                  grid[1],
                                  min_radius,
                                  static_cast<float>(cell_size_m[0]),
                                  static_cast<float>(cell_size_m[1]),
                                  static_cast<float>(origin_m[0]),
                                  static_cast<float>(origin_m[1]),
                                  static_cast<float>(1 - overlap),
                                  static_cast<float>(1 + overlap),
                                  static_cast<float>(-2 * overlap),
                                  static_cast<float>(overlap - 1),
                                  static_cast<float>(16 * overlap)};
  at::Tensor heatmap = at::empty({batch_size, num_classes, grid[0], grid[1]}, boxes.options());
  draw_heatmap(context, boxes.const_data_ptr<float>(), boxes.size(0), boxes.size(1),
               classes.const_data_ptr<int64_t>(), samples.const_data_ptr<int64_t>(), setting,
               heatmap.mutable_data_ptr<float>());
  return heatmap;
}

}  // namespace
}  // namespace anybev::cuda

TORCH_LIBRARY_IMPL(anybev, ANYBEV_CUDA_KEY, m) {
  m.impl("draw_heatmap", &anybev::cuda::draw_heatmap_binding);
}
