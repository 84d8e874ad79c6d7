// Rotated suppression on the CPU: greedy over the ranked boxes, a block at a time; what a block
// keeps meets the remaining boxes on all threads, each box owned by one.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/rotated_overlap.h"

namespace anybev {
namespace {

constexpr int64_t kBlock = 64;
constexpr int64_t kBoxesPerTask = 256;

template <typename T>
bool overlaps_any(const std::vector<RotatedBox<T>>& boxes, const std::vector<int64_t>& kept,
                  size_t first, int64_t candidate, T threshold) {
  return std::any_of(kept.begin() + first, kept.end(), [&](int64_t better) {
    return rotated_iou(boxes[better], boxes[candidate]) > threshold;
  });
}

template <typename T>
std::vector<int64_t> keep_greedily(const T* ranked, int64_t count, T threshold) {
  std::vector<RotatedBox<T>> boxes;
  boxes.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) boxes.emplace_back(ranked + i * 5);
  std::vector<uint8_t> suppressed(static_cast<size_t>(count), 0);
  std::vector<int64_t> kept;
  for (int64_t block = 0; block < count; block += kBlock) {
    const int64_t block_end = std::min(block + kBlock, count);
    const size_t first = kept.size();
    for (int64_t i = block; i < block_end; ++i) {
      if (!suppressed[i] && !overlaps_any(boxes, kept, first, i, threshold)) kept.push_back(i);
    }
    at::parallel_for(block_end, count, kBoxesPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        if (!suppressed[j]) suppressed[j] = overlaps_any(boxes, kept, first, j, threshold);
      }
    });
  }
  return kept;
}

at::Tensor nms_rotated(const at::Tensor& boxes, const at::Tensor& scores, double iou_threshold) {
  const at::Tensor order = at::argsort(scores, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const at::Tensor ranked = at::index_select(boxes, 0, order);
  std::vector<int64_t> kept;
  AT_DISPATCH_FLOATING_TYPES(boxes.scalar_type(), "nms_rotated", [&] {
    kept = keep_greedily(ranked.const_data_ptr<scalar_t>(), ranked.size(0),
                         static_cast<scalar_t>(iou_threshold));
  });
  at::Tensor result = at::empty({static_cast<int64_t>(kept.size())}, order.options());
  const int64_t* index = order.const_data_ptr<int64_t>();
  std::transform(kept.begin(), kept.end(), result.mutable_data_ptr<int64_t>(),
                 [index](int64_t rank) { return index[rank]; });
  return result;
}

}  // namespace
}  // namespace anybev

TORCH_LIBRARY_IMPL(anybev, CPU, m) { m.impl("nms_rotated", &anybev::nms_rotated); }
