// Depth pictures on the CPU: one thread owns a camera and takes the points in order, so the last
// point of a pixel stays without any arbitration. Four points at a time, nothing is stored between
// a point and its pixel.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

namespace anybev {
namespace {

constexpr float kNearest = 1e-5f, kFarthest = 1e5f;  // metres

// The compilers' own vectors: 128 bits are baseline on x86-64 and on ARM.
typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));

struct Point4 {
  Float4 x, y, z;
};

// Rows of a 4x4 matrix without its last; sums are not fused and run in the reference's order, on
// which the pixel of a point at an edge depends.
struct Affine {
  std::array<float, 12> m;

  Float4 row(int r, const Point4& p) const {
    const float* k = m.data() + 4 * r;
    return k[0] * p.x + k[1] * p.y + k[2] * p.z + k[3];
  }
};

struct Camera {
  Affine unturn, lidar2img, img_aug;
  std::array<float, 3> shift;
  int64_t height, width;

  void draw(const Point4& points, float* image) const;
};

Float4 select(Int4 mask, Float4 yes, Float4 no) {
  return (Float4)((mask & (Int4)yes) | (~mask & (Int4)no));
}

void Camera::draw(const Point4& points, float* image) const {
  const Point4 moved = {points.x - shift[0], points.y - shift[1], points.z - shift[2]};
  const Point4 raw = {unturn.row(0, moved), unturn.row(1, moved), unturn.row(2, moved)};
  const Float4 depth = lidar2img.row(2, raw);
  const Float4 nearest = Float4{} + kNearest, farthest = Float4{} + kFarthest;
  Float4 divisor = select(depth < nearest, nearest, depth);
  divisor = select(divisor > farthest, farthest, divisor);
  const Point4 pixel = {lidar2img.row(0, raw) / divisor, lidar2img.row(1, raw) / divisor, divisor};
  const Float4 u = img_aug.row(0, pixel), v = img_aug.row(1, pixel);
  // Comparisons are false for NaN. A coordinate that is not finite makes the depth so.
  const float largest = std::numeric_limits<float>::max();
  const Int4 hit = (u >= 0.0f) & (u < static_cast<float>(width)) & (v >= 0.0f) &
                   (v < static_cast<float>(height)) & (depth >= -largest) & (depth <= largest);
  if (!(hit[0] | hit[1] | hit[2] | hit[3])) return;
  for (int lane = 0; lane < 4; ++lane) {
    if (!hit[lane]) continue;
    image[static_cast<int64_t>(v[lane]) * width + static_cast<int64_t>(u[lane])] = depth[lane];
  }
}

Affine affine(const float* matrix) {
  Affine result;
  std::copy_n(matrix, 12, result.m.begin());
  return result;
}

void draw_all(const Camera& camera, const float* points, int64_t columns, int64_t count,
              float* image) {
  std::fill_n(image, camera.height * camera.width, 0.0f);
  const float none[3] = {std::numeric_limits<float>::quiet_NaN(), 0, 0};
  for (int64_t i = 0; i < count; i += 4) {
    const float* row[4];
    for (int64_t lane = 0; lane < 4; ++lane) {
      row[lane] = i + lane < count ? points + (i + lane) * columns : none;
    }
    Point4 four;
    four.x = Float4{row[0][0], row[1][0], row[2][0], row[3][0]};
    four.y = Float4{row[0][1], row[1][1], row[2][1], row[3][1]};
    four.z = Float4{row[0][2], row[1][2], row[2][2], row[3][2]};
    camera.draw(four, image);
  }
}

// Called through torch.ops, nothing has looked at the shapes yet.
void check(const at::Tensor& points, const at::Tensor& lidar2img, const at::Tensor& img_aug_matrix,
           const at::Tensor& shift, const at::Tensor& unturn, int64_t height, int64_t width) {
  TORCH_CHECK_VALUE(points.dim() == 2 && points.size(1) >= 3,
                    "rasterize_depth: points_lidar_m must be (P, 3 or more), got ", points.sizes());
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

at::Tensor rasterize_depth(const at::Tensor& points_lidar_m, const at::Tensor& lidar2img,
                           const at::Tensor& img_aug_matrix, const at::Tensor& lidar_shift_m,
                           const at::Tensor& lidar_unturn, int64_t height, int64_t width) {
  check(points_lidar_m, lidar2img, img_aug_matrix, lidar_shift_m, lidar_unturn, height, width);
  const at::Tensor points = points_lidar_m.contiguous(), projections = lidar2img.contiguous();
  const at::Tensor augs = img_aug_matrix.contiguous(), shift = lidar_shift_m.contiguous();
  const at::Tensor unturn = lidar_unturn.contiguous();
  const float *source = points.const_data_ptr<float>(), *turn = unturn.const_data_ptr<float>();
  const float* projection = projections.const_data_ptr<float>();
  const float* aug = augs.const_data_ptr<float>();
  const int64_t cameras = projections.size(0), columns = points.size(1), count = points.size(0);

  at::Tensor image = at::empty({cameras, 1, height, width}, points.options());
  float* out = image.mutable_data_ptr<float>();
  Camera shared;
  shared.unturn.m = {turn[0], turn[1], turn[2], 0,       turn[3], turn[4],
                     turn[5], 0,       turn[6], turn[7], turn[8], 0};
  std::copy_n(shift.const_data_ptr<float>(), 3, shared.shift.begin());
  shared.height = height;
  shared.width = width;
  at::parallel_for(0, cameras, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      Camera camera = shared;
      camera.lidar2img = affine(projection + n * 16);
      camera.img_aug = affine(aug + n * 16);
      draw_all(camera, source, columns, count, out + n * height * width);
    }
  });
  return image;
}

}  // namespace
}  // namespace anybev

TORCH_LIBRARY_IMPL(anybev, CPU, m) { m.impl("rasterize_depth", &anybev::rasterize_depth); }
