#include <ATen/Dispatch.h>

#include <optional>
#include <tuple>

#include "ops/cuda/binding.h"
#include "ops/cuda/scatter_points_kernel.h"

namespace anybev::cuda {
namespace {

// Torch's element types as the kernels call them, and what they are summed in.
template <class T>
struct Element {
  using In = T;
  using Sum = T;
};
template <>
struct Element<at::Half> {
  using In = __half;
  using Sum = float;
};
template <>
struct Element<at::BFloat16> {
  using In = __nv_bfloat16;
  using Sum = float;
};

at::ScalarType sum_type(at::ScalarType type) { return type == at::kDouble ? type : at::kFloat; }

Reduce reduce_of(c10::string_view name) {
  if (name == "sum") return Reduce::kSum;
  if (name == "mean") return Reduce::kMean;
  TORCH_CHECK_VALUE(name == "max", "scatter_points: reduce must be sum, mean or max, got ", name);
  return Reduce::kMax;
}

// The linear cells of what the columns span must fit their word.
void check_span(const GroupedPoints& grouped) {
  if (grouped.voxels == 0) return;
  unsigned __int128 cells = 1;
  for (size_t d = 0; d < grouped.low.size(); ++d) {
    cells *= static_cast<unsigned __int128>(grouped.high[d] - grouped.low[d]) + 1;
    TORCH_CHECK_VALUE(cells <= static_cast<unsigned __int128>(1) << 62,
                      "scatter_points: coords must span at most 2^62 cells, got ",
                      at::ArrayRef<int64_t>(grouped.low), " to ",
                      at::ArrayRef<int64_t>(grouped.high));
  }
}

using Reduced = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

template <class Number>
Reduced scatter(const at::Tensor& features, const at::Tensor& coords, Reduce reduce) {
  TorchContext context(features);
  const at::Tensor source = features.contiguous(), rows = coords.contiguous();
  const Number* const row = rows.const_data_ptr<Number>();
  const int64_t count = rows.size(0), columns = rows.size(1), channels = source.size(1);
  at::Tensor point2voxel = at::empty({count}, rows.options().dtype(at::kInt));
  const GroupedPoints grouped =
      group_points(context, row, count, columns, point2voxel.mutable_data_ptr<int32_t>());
  check_span(grouped);
  at::Tensor out_coords = at::empty({grouped.voxels, columns}, rows.options());
  at::Tensor counts = at::empty({grouped.voxels}, point2voxel.options());
  describe_voxels(context, grouped, row, columns, out_coords.mutable_data_ptr<Number>(),
                  counts.mutable_data_ptr<int32_t>());
  at::Tensor reduced =
      at::empty({grouped.voxels, channels}, source.options().dtype(sum_type(source.scalar_type())));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, source.scalar_type(), "scatter_points", [&] {
        using In = Element<scalar_t>::In;
        using Sum = Element<scalar_t>::Sum;
        reduce_voxels(context, grouped,
                      reinterpret_cast<const In*>(source.const_data_ptr<scalar_t>()), channels,
                      reduce, reduced.mutable_data_ptr<Sum>());
      });
  return {reduced, out_coords, point2voxel, counts};
}

Reduced scatter_points_binding(const at::Tensor& features, const at::Tensor& coords,
                               c10::string_view reduce) {
  // Called through torch.ops, nothing has looked at the arguments yet.
  TORCH_CHECK_VALUE(features.dim() == 2 && coords.dim() == 2 && coords.size(1) >= 1 &&
                        coords.size(0) == features.size(0),
                    "scatter_points: features and coords must be (P, C) and (P, D), got ",
                    features.sizes(), " and ", coords.sizes());
  TORCH_CHECK_TYPE(features.is_floating_point() &&
                       (coords.scalar_type() == at::kInt || coords.scalar_type() == at::kLong),
                   "scatter_points: features and coords must be floating and int32 or int64, got ",
                   features.scalar_type(), " and ", coords.scalar_type());
  TORCH_CHECK_VALUE(coords.size(0) < (int64_t{1} << 31),
                    "scatter_points: coords must have fewer than 2^31 rows, got ", coords.size(0));
  const Reduce kind = reduce_of(reduce);
  return coords.scalar_type() == at::kLong ? scatter<int64_t>(features, coords, kind)
                                           : scatter<int32_t>(features, coords, kind);
}

void check_backward(const at::Tensor& grad, const at::Tensor& point2voxel,
                    const at::Tensor& counts) {
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
  TORCH_CHECK_VALUE(point2voxel.size(0) < (int64_t{1} << 31),
                    "scatter_points_backward: point2voxel must have fewer than 2^31 rows, got ",
                    point2voxel.size(0));
}

at::Tensor scatter_points_backward_binding(const at::Tensor& grad, const at::Tensor& point2voxel,
                                           const at::Tensor& counts,
                                           const std::optional<at::Tensor>& features,
                                           const std::optional<at::Tensor>& reduced,
                                           c10::string_view reduce) {
  const Reduce kind = reduce_of(reduce);
  check_backward(grad, point2voxel, counts);
  TorchContext context(grad);
  const at::ScalarType type = sum_type(grad.scalar_type());
  const at::Tensor rows = grad.to(type).contiguous();
  const at::Tensor voxel_of = point2voxel.contiguous(), sizes = counts.contiguous();
  const int64_t points = voxel_of.size(0), voxels = rows.size(0), channels = rows.size(1);
  at::Tensor out = at::empty({points, channels}, rows.options()), values = rows, maxima = rows;
  if (kind == Reduce::kMax) {
    TORCH_CHECK_VALUE(features && reduced &&
                          features->sizes() == at::IntArrayRef({points, channels}) &&
                          reduced->sizes() == grad.sizes(),
                      "scatter_points_backward: features and reduced must be (P, C) and (V, C) for "
                      "the gradient of a maximum");
    const bool as_it_is = sum_type(features->scalar_type()) == type;
    values = (as_it_is ? *features : features->to(type)).contiguous();
    maxima = reduced->to(type).contiguous();
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, values.scalar_type(), "scatter_points_backward", [&] {
        using In = Element<scalar_t>::In;
        using Sum = Element<scalar_t>::Sum;
        scatter_gradient(context, rows.const_data_ptr<Sum>(), voxel_of.const_data_ptr<int32_t>(),
                         sizes.const_data_ptr<int32_t>(),
                         reinterpret_cast<const In*>(values.const_data_ptr<scalar_t>()),
                         maxima.const_data_ptr<Sum>(), points, voxels, channels, kind,
                         out.mutable_data_ptr<Sum>());
      });
  return out.to(grad.scalar_type());
}

}  // namespace
}  // namespace anybev::cuda

TORCH_LIBRARY_IMPL(anybev, ANYBEV_CUDA_KEY, m) {
  m.impl("scatter_points", &anybev::cuda::scatter_points_binding);
  m.impl("scatter_points_backward", &anybev::cuda::scatter_points_backward_binding);
}
