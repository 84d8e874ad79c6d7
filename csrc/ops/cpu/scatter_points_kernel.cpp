// Scatter of points on the CPU. Points are grouped by voxel, so a voxel is summed, averaged or
// maximised by one thread, in point order, and written once. Gradients are gathered.

#include "ops/cpu/scatter_points_kernel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "common/copy_row.h"
#include "common/tasks.h"

namespace anybev::scatter_points {
namespace {

constexpr int64_t kVoxelsPerTask = 512;
constexpr int64_t kRowsAhead = 8;  // rows between a prefetch and its use

enum class Reduce { kSum, kMean, kMax };

Reduce reduce_of(c10::string_view name) {
  if (name == "sum") return Reduce::kSum;
  if (name == "mean") return Reduce::kMean;
  TORCH_CHECK_VALUE(name == "max", "scatter_points: reduce must be sum, mean or max, got ", name);
  return Reduce::kMax;
}

at::ScalarType sum_type(at::ScalarType type) { return type == at::kDouble ? type : at::kFloat; }

inline void prefetch_row(const void* row, int64_t bytes) {
  const char* start = static_cast<const char*>(row);
  for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(start + b);
}

template <class T>
void add_row(const T* __restrict source, int64_t channels, T* __restrict row) {
  for (int64_t c = 0; c < channels; ++c) row[c] += source[c];
}

// NaN wins over every number, the first of equal numbers stays.
template <class T>
void max_row(const T* __restrict source, int64_t channels, T* __restrict row) {
  for (int64_t c = 0; c < channels; ++c) {
    const bool larger = (source[c] > row[c]) | (source[c] != source[c]);
    row[c] = larger ? source[c] : row[c];
  }
}

template <class T>
void reduce_voxels(const Grouped& points, const T* features, int64_t channels, Reduce reduce,
                   int64_t begin, int64_t end, T* out, int32_t* counts) {
  const int64_t row_bytes = channels * static_cast<int64_t>(sizeof(T));
  const int64_t stop = points.starts[end];
  for (int64_t voxel = begin; voxel < end; ++voxel) {
    T* const row = out + voxel * channels;
    const int64_t first = points.starts[voxel], last = points.starts[voxel + 1];
    for (int64_t i = first; i < last; ++i) {
      if (i + kRowsAhead < stop) {
        prefetch_row(features + points.row(i + kRowsAhead) * channels, row_bytes);
      }
      const T* const source = features + points.row(i) * channels;
      if (i == first) {
        copy_row(source, channels, row);
      } else if (reduce == Reduce::kMax) {
        max_row(source, channels, row);
      } else {
        add_row(source, channels, row);
      }
    }
    counts[voxel] = static_cast<int32_t>(last - first);
    if (reduce != Reduce::kMean || last - first == 1) continue;
    const T divisor = static_cast<T>(last - first);
    for (int64_t c = 0; c < channels; ++c) row[c] /= divisor;
  }
}

using Reduced = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Reduced scatter(const at::Tensor& features, const at::Tensor& coords, c10::string_view reduce) {
  // Called through torch.ops, nothing has looked at the arguments yet.
  TORCH_CHECK_VALUE(features.dim() == 2 && coords.dim() == 2 && coords.size(1) >= 1 &&
                        coords.size(0) == features.size(0),
                    "scatter_points: features and coords must be (P, C) and (P, D), got ",
                    features.sizes(), " and ", coords.sizes());
  TORCH_CHECK_TYPE(features.is_floating_point() &&
                       (coords.scalar_type() == at::kInt || coords.scalar_type() == at::kLong),
                   "scatter_points: features and coords must be floating and int32 or int64, got ",
                   features.scalar_type(), " and ", coords.scalar_type());
  const Reduce kind = reduce_of(reduce);
  const Grouped points = group_points(coords);
  const at::Tensor source = features.to(sum_type(features.scalar_type())).contiguous();
  const int64_t voxels = points.voxels(), channels = source.size(1);
  at::Tensor reduced = at::empty({voxels, channels}, source.options());
  at::Tensor counts = at::empty({voxels}, points.point2voxel.options());
  int32_t* const count = counts.mutable_data_ptr<int32_t>();
  const auto run = [&]<class T>(T* out) {
    const T* const rows = source.const_data_ptr<T>();
    const int64_t tasks = (voxels + kVoxelsPerTask - 1) / kVoxelsPerTask;
    for_each_task(tasks, 1, [&](int64_t task, int64_t) {
      const int64_t begin = task * kVoxelsPerTask, end = std::min(voxels, begin + kVoxelsPerTask);
      reduce_voxels(points, rows, channels, kind, begin, end, out, count);
    });
  };
  if (source.scalar_type() == at::kDouble) {
    run(reduced.mutable_data_ptr<double>());
  } else {
    run(reduced.mutable_data_ptr<float>());
  }
  return {reduced, points.out_coords, points.point2voxel, counts};
}

// Voxels that divide the points into equal shares: shares + 1 bounds.
std::vector<int64_t> share_bounds(const int32_t* counts, int64_t voxels, int64_t points,
                                  int64_t shares) {
  std::vector<int64_t> bounds = {0};
  int64_t before = 0;
  for (int64_t voxel = 0; voxel < voxels; ++voxel) {
    if (before >= points * static_cast<int64_t>(bounds.size()) / shares) bounds.push_back(voxel);
    before += counts[voxel];
  }
  bounds.resize(static_cast<size_t>(shares) + 1, voxels);
  bounds.back() = voxels;
  return bounds;
}

// What both gradients read; `bad` is set where a point names a voxel that is not there.
template <class T>
struct Gradient {
  const T* grad;
  const int32_t *voxel_of, *counts;
  int64_t points, voxels, channels;
  T* out;
  std::atomic<bool>& bad;

  // Whether a row has no voxel; its gradient then is 0.
  bool drops(int64_t i) const {
    if (static_cast<uint32_t>(voxel_of[i]) < static_cast<uint64_t>(voxels)) return false;
    if (voxel_of[i] >= 0) bad = true;
    std::fill_n(out + i * channels, channels, T(0));
    return true;
  }

  void gather(bool mean, int64_t begin, int64_t end) const {
    const int64_t row_bytes = channels * static_cast<int64_t>(sizeof(T));
    for (int64_t i = begin; i < end; ++i) {
      if (i + kRowsAhead < end && voxel_of[i + kRowsAhead] >= 0) {
        prefetch_row(grad + voxel_of[i + kRowsAhead] * channels, row_bytes);
      }
      if (drops(i)) continue;
      const T* const source = grad + voxel_of[i] * channels;
      T* const row = out + i * channels;
      if (mean && counts[voxel_of[i]] != 1) {
        const T divisor = static_cast<T>(counts[voxel_of[i]]);
        for (int64_t c = 0; c < channels; ++c) row[c] = source[c] / divisor;
      } else {
        copy_row(source, channels, row);
      }
    }
  }

  // To the first point that holds a voxel's maximum, for voxels [first, last). `left` is a copy of
  // the gradient, zeroed where it was handed out.
  void hand_out(const T* features, const T* reduced, T* left, int64_t first, int64_t last) const {
    for (int64_t i = 0; i < points; ++i) {
      const int64_t voxel = voxel_of[i];
      if (voxel < 0 || voxel >= voxels) {
        if (first == 0) drops(i);
        continue;
      }
      if (voxel < first || voxel >= last) continue;
      const T* const source = features + i * channels;
      const T* const maximum = reduced + voxel * channels;
      T* __restrict const rest = left + voxel * channels;
      T* __restrict const row = out + i * channels;
      for (int64_t c = 0; c < channels; ++c) {
        const bool nan = (source[c] != source[c]) & (maximum[c] != maximum[c]);
        const bool hit = (source[c] == maximum[c]) | nan;
        row[c] = hit ? rest[c] : T(0);
        rest[c] = hit ? T(0) : rest[c];
      }
    }
  }
};

at::Tensor scatter_backward(const at::Tensor& grad, const at::Tensor& point2voxel,
                            const at::Tensor& counts, const std::optional<at::Tensor>& features,
                            const std::optional<at::Tensor>& reduced, c10::string_view reduce) {
  const Reduce kind = reduce_of(reduce);
  TORCH_CHECK_VALUE(grad.dim() == 2 && point2voxel.dim() == 1 && counts.dim() == 1 &&
                        counts.size(0) == grad.size(0),
                    "scatter_points_backward: grad, point2voxel and counts must be (V, C), (P,) "
                    "and (V,), got ",
                    grad.sizes(), ", ", point2voxel.sizes(), " and ", counts.sizes());
  TORCH_CHECK_TYPE(
      grad.is_floating_point() && point2voxel.scalar_type() == at::kInt &&
          counts.scalar_type() == at::kInt,
      "scatter_points_backward: grad, point2voxel and counts must be floating, int32 and int32, "
      "got ",
      grad.scalar_type(), ", ", point2voxel.scalar_type(), " and ", counts.scalar_type());
  const at::ScalarType type = sum_type(grad.scalar_type());
  const at::Tensor rows = grad.to(type).contiguous();
  const at::Tensor voxel_of = point2voxel.contiguous(), sizes = counts.contiguous();
  const int64_t points = voxel_of.size(0), voxels = rows.size(0), channels = rows.size(1);
  at::Tensor out = at::empty({points, channels}, rows.options()), values, maxima, left;
  if (kind == Reduce::kMax) {
    TORCH_CHECK_VALUE(features && reduced &&
                          features->sizes() == at::IntArrayRef({points, channels}) &&
                          reduced->sizes() == grad.sizes(),
                      "scatter_points_backward: features and reduced must be (P, C) and (V, C) for "
                      "the gradient of a maximum");
    values = features->to(type).contiguous();
    maxima = reduced->to(type).contiguous();
    left = rows.clone();
  }
  std::atomic<bool> bad{false};
  const auto run = [&]<class T>(T* target) {
    const int32_t* const count = sizes.const_data_ptr<int32_t>();
    const Gradient<T> gradient = {rows.const_data_ptr<T>(),
                                  voxel_of.const_data_ptr<int32_t>(),
                                  count,
                                  points,
                                  voxels,
                                  channels,
                                  target,
                                  bad};
    if (kind != Reduce::kMax) {
      at::parallel_for(0, points, kRowsPerTask, [&](int64_t begin, int64_t end) {
        gradient.gather(kind == Reduce::kMean, begin, end);
      });
      return;
    }
    const T *value = values.const_data_ptr<T>(), *maximum = maxima.const_data_ptr<T>();
    T* const rest = left.mutable_data_ptr<T>();
    const int64_t shares = std::clamp<int64_t>(points / kRowsPerTask, 1, at::get_num_threads());
    const std::vector<int64_t> bounds = share_bounds(count, voxels, points, shares);
    at::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
      gradient.hand_out(value, maximum, rest, bounds[begin], bounds[end]);
    });
  };
  if (type == at::kDouble) {
    run(out.mutable_data_ptr<double>());
  } else {
    run(out.mutable_data_ptr<float>());
  }
  TORCH_CHECK_VALUE(!bad, "scatter_points_backward: point2voxel must be below ", voxels);
  return out.to(grad.scalar_type());
}

}  // namespace
}  // namespace anybev::scatter_points

TORCH_LIBRARY_IMPL(anybev, CPU, m) {
  m.impl("scatter_points", &anybev::scatter_points::scatter);
  m.impl("scatter_points_backward", &anybev::scatter_points::scatter_backward);
}
