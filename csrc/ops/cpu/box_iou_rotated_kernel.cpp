// Rotated overlap on the CPU: each row of the result belongs to one thread.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cstdint>
#include <vector>

#include "common/rotated_overlap.h"

namespace anybev {
namespace {

constexpr int64_t kPairsPerTask = 2048;

template <typename T>
std::vector<RotatedBox<T>> prepare(const at::Tensor& boxes) {
  const T* row = boxes.const_data_ptr<T>();
  std::vector<RotatedBox<T>> prepared;
  prepared.reserve(static_cast<size_t>(boxes.size(0)));
  for (int64_t i = 0; i < boxes.size(0); ++i) prepared.emplace_back(row + i * 5);
  return prepared;
}

at::Tensor box_iou_rotated(const at::Tensor& boxes_a, const at::Tensor& boxes_b,
                           c10::string_view mode) {
  const at::Tensor rows = boxes_a.contiguous(), columns = boxes_b.contiguous();
  const int64_t n = rows.size(0), m = columns.size(0);
  const bool as_iou = mode == "iou";
  at::Tensor result = at::empty({n, m}, rows.options());
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "box_iou_rotated", [&] {
    const auto a = prepare<scalar_t>(rows), b = prepare<scalar_t>(columns);
    scalar_t* out = result.mutable_data_ptr<scalar_t>();
    const int64_t grain = std::max<int64_t>(1, kPairsPerTask / std::max<int64_t>(1, m));
    at::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = 0; j < m; ++j) {
          out[i * m + j] = as_iou ? rotated_iou(a[i], b[j]) : rotated_intersection(a[i], b[j]);
        }
      }
    });
  });
  return result;
}

}  // namespace
}  // namespace anybev

TORCH_LIBRARY_IMPL(anybev, CPU, m) { m.impl("box_iou_rotated", &anybev::box_iou_rotated); }
