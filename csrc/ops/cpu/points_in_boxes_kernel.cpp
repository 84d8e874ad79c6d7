// Points against boxes on the CPU: a row of the result, one point against every box, is one
// branch-free loop that the compiler vectorises.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace anybev {
namespace {

constexpr int64_t kTestsPerTask = 1 << 15;

// Boxes by field, so that neighbouring lanes hold neighbouring boxes.
template <typename T>
struct Boxes {
  std::vector<T> x, y, bottom, half_dx, half_dy, height, cos, sin;

  Boxes(const T* box, int64_t count, int64_t columns) {
    for (int64_t i = 0; i < count; ++i, box += columns) {
      x.push_back(box[0]);
      y.push_back(box[1]);
      bottom.push_back(box[2]);
      half_dx.push_back(box[3] / 2);
      half_dy.push_back(box[4] / 2);
      height.push_back(box[5]);
      // In double, then rounded, as the reference does.
      cos.push_back(static_cast<T>(std::cos(static_cast<double>(box[6]))));
      sin.push_back(static_cast<T>(std::sin(static_cast<double>(box[6]))));
    }
  }
};

template <typename T>
void test_point(const T* point, const Boxes<T>& boxes, int64_t count, bool* __restrict inside) {
  const T px = point[0], py = point[1], pz = point[2];
  const T *x = boxes.x.data(), *y = boxes.y.data(), *bottom = boxes.bottom.data();
  const T *half_dx = boxes.half_dx.data(), *half_dy = boxes.half_dy.data();
  const T *height = boxes.height.data(), *cos = boxes.cos.data(), *sin = boxes.sin.data();
  for (int64_t i = 0; i < count; ++i) {
    const T dx = px - x[i], dy = py - y[i], up = pz - bottom[i];
    const T along = dx * cos[i] + dy * sin[i], across = dy * cos[i] - dx * sin[i];
    inside[i] = (std::abs(along) <= half_dx[i]) & (std::abs(across) <= half_dy[i]) & (up >= 0) &
                (up <= height[i]);
  }
}

at::Tensor points_in_boxes(const at::Tensor& points_lidar_m, const at::Tensor& boxes_lidar) {
  const at::Tensor points = points_lidar_m.contiguous(), box = boxes_lidar.contiguous();
  const int64_t count = points.size(0), boxes = box.size(0), columns = points.size(1);
  at::Tensor result = at::empty({count, boxes}, points.options().dtype(at::kBool));
  bool* inside = result.mutable_data_ptr<bool>();
  AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "points_in_boxes", [&] {
    const Boxes<scalar_t> fields(box.const_data_ptr<scalar_t>(), boxes, box.size(1));
    const scalar_t* point = points.const_data_ptr<scalar_t>();
    const int64_t grain = std::max<int64_t>(1, kTestsPerTask / std::max<int64_t>(1, boxes));
    at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        test_point(point + i * columns, fields, boxes, inside + i * boxes);
      }
    });
  });
  return result;
}

}  // namespace
}  // namespace anybev

TORCH_LIBRARY_IMPL(anybev, CPU, m) { m.impl("points_in_boxes", &anybev::points_in_boxes); }
