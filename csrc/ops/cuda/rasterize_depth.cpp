#include "ops/cuda/binding.h"
#include "ops/cuda/rasterize_depth_kernel.h"

namespace anybev::cuda {
namespace {

// Called through torch.ops, nothing has looked at the shapes yet.
void check_depth(const at::Tensor& points, const at::Tensor& lidar2img,
                 const at::Tensor& img_aug_matrix, const at::Tensor& shift,
                 const at::Tensor& unturn, int64_t height, int64_t width) {
  TORCH_CHECK_VALUE(points.dim() == 2 && points.size(1) >= 3,
                    "rasterize_depth: points_lidar_m must be (P, 3 or more), got ", points.sizes());
  TORCH_CHECK_VALUE(points.size(0) < (int64_t{1} << 31) - 1,
                    "rasterize_depth: points_lidar_m must have fewer than 2^31 - 1 rows, got ",
                    points.size(0));
  const int64_t cameras = lidar2img.dim() ? lidar2img.size(0) : 0;
  TORCH_CHECK_VALUE(lidar2img.sizes() == at::IntArrayRef({cameras, 4, 4}) &&
                        img_aug_matrix.sizes() == lidar2img.sizes(),
                    "rasterize_depth: lidar2img and img_aug_matrix must be (N, 4, 4), got ",
                    lidar2img.sizes(), " and ", img_aug_matrix.sizes());
  TORCH_CHECK_VALUE(
      shift.sizes() == at::IntArrayRef({3}) && unturn.sizes() == at::IntArrayRef({3, 3}),
      "rasterize_depth: lidar_shift_m must be (3,) and lidar_unturn (3, 3), got ", shift.sizes(),
      " and ", unturn.sizes());
  TORCH_CHECK_VALUE(height >= 1 && width >= 1,
                    "rasterize_depth: height and width must be 1 and more, got ", height, " and ",
                    width);
}

at::Tensor rasterize_depth_binding(const at::Tensor& points_lidar_m, const at::Tensor& lidar2img,
                                   const at::Tensor& img_aug_matrix,
                                   const at::Tensor& lidar_shift_m, const at::Tensor& lidar_unturn,
                                   int64_t height, int64_t width) {
  check_depth(points_lidar_m, lidar2img, img_aug_matrix, lidar_shift_m, lidar_unturn, height,
              width);
  TorchContext context(points_lidar_m);
  const at::Tensor points = points_lidar_m.contiguous(), projections = lidar2img.contiguous();
  const at::Tensor augs = img_aug_matrix.contiguous(), shift = lidar_shift_m.contiguous();
  const at::Tensor unturn = lidar_unturn.contiguous();
  const int64_t cameras = projections.size(0);
  at::Tensor image = at::empty({cameras, 1, height, width}, points.options());
  const DepthScene scene = {points.const_data_ptr<float>(),
                            points.size(0),
                            points.size(1),
                            projections.const_data_ptr<float>(),
                            augs.const_data_ptr<float>(),
                            shift.const_data_ptr<float>(),
                            unturn.const_data_ptr<float>(),
                            cameras,
                            height,
                            width};
  rasterize_depth(context, scene, image.mutable_data_ptr<float>());
  return image;
}

}  // namespace
}  // namespace anybev::cuda

TORCH_LIBRARY_IMPL(anybev, ANYBEV_CUDA_KEY, m) {
  m.impl("rasterize_depth", &anybev::cuda::rasterize_depth_binding);
}
